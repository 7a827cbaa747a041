import { lookup as lookupAddress } from 'node:dns'
import { request } from 'node:http'
import { connect as connectTcp, isIP, type LookupFunction, type Socket } from 'node:net'
import { connect as connectTls, type SecureContext } from 'node:tls'
import { cancellation } from './cancellation.js'
import { connectionFailure } from './connection-failure.js'
import { shown } from './error-text.js'
import { bareHostname } from './hosts.js'
import { hearLastWords } from './last-words.js'
import { NoAnswer } from './no-answer.js'
import { type ProxyServer, portOf } from './proxy.js'
import { type TrustedHosts, trustHint } from './trusted-hosts.js'
import { mayName, type Zone, zoneOf } from './zones.js'

export interface Destination {
  readonly url: URL
  readonly proxy: ProxyServer | undefined
  /** Of an https URL, and of an https proxy. */
  readonly trust: { readonly target: SecureContext | undefined; readonly proxy: SecureContext | undefined }
  /** Certificates are checked. */
  readonly verified: boolean
  /** Where the one who named this URL is; undefined: a user named it, any address will do. */
  readonly namedFrom: Zone | undefined
  /** Addresses that anybody may name. */
  readonly trusted: TrustedHosts
}

export interface Connection {
  readonly socket: Socket
  /** Where the other end is; behind a proxy what the URL itself tells. */
  readonly zone: Zone
}

/** What the socket buffers before it stops reading; body chunks are as large as that. */
const highWaterMark = 256 * 1024

/**
 * A connection to the origin of a URL, through its proxy, TLS done. Fails with NoAnswer after `timeout` milliseconds or
 * when the signal is aborted; no socket is left then.
 */
export async function connect(
  destination: Destination,
  timeout: number,
  signal: AbortSignal,
): Promise<Connection> {
  const { url, proxy } = destination
  const late = AbortSignal.timeout(timeout)
  const ended = AbortSignal.any([late, signal])
  const sockets: Socket[] = []
  const guarded = <T>(work: Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      const stop = () => reject(ended.reason)
      if (ended.aborted) stop()
      ended.addEventListener('abort', stop, { once: true })
      work.then(resolve, reject).finally(() => ended.removeEventListener('abort', stop))
    })
  const keep = (socket: Socket) => {
    // Whoever waits hears of the failure; an error after that must not end the process.
    socket.on('error', () => {})
    sockets.push(socket)
    return socket
  }
  let atProxy = false
  try {
    const address = bareHostname(url)
    const literal = isIP(address) === 0 ? undefined : zoneOf(address)
    if (literal !== undefined) refuseNearer(destination, address)
    const near = proxy?.url ?? url
    atProxy = proxy !== undefined
    const tcp = keep(openTcp(near, proxy === undefined ? destination : undefined))
    await guarded(happens(tcp, 'connect'))
    const zone = proxy === undefined ? zoneOf(tcp.remoteAddress ?? '') : (literal ?? 'public')
    let socket = tcp
    if (proxy?.url.protocol === 'https:') {
      socket = keep(openTls(tcp, proxy.url, destination.trust.proxy, true))
      await guarded(happens(socket, 'secureConnect'))
    }
    if (url.protocol === 'https:') {
      if (proxy !== undefined) await guarded(tunnel(socket, url, proxy))
      atProxy = false
      socket = keep(openTls(socket, url, destination.trust.target, destination.verified))
      await guarded(happens(socket, 'secureConnect'))
    }
    return { socket: hearLastWords(socket), zone }
  } catch (error) {
    for (const socket of sockets.reverse()) socket.destroy()
    if (signal.aborted) throw cancellation(signal)
    if (late.aborted) {
      throw new NoAnswer(`no connection within ${timeout / 1000} s`, {
        transient: true,
        noTls: true,
        cause: error,
      })
    }
    const failure = connectionFailure(error, true)
    if (proxy === undefined || !atProxy || error instanceof NoAnswer) throw failure
    throw new NoAnswer(`cannot reach the proxy ${proxy.url.host}: ${failure.message}`, {
      ...failure.details,
      noTls: false,
      hint: 'Check https_proxy, http_proxy and no_proxy in the environment of the daemon.',
    })
  }
}

/** With a destination its rules on addresses hold. */
function openTcp(url: URL, destination: Destination | undefined): Socket {
  return connectTcp({
    host: bareHostname(url),
    port: Number(portOf(url)),
    lookup: destination?.namedFrom === undefined ? lookupAddress : guardedLookup(destination),
    noDelay: true,
    keepAlive: true,
    autoSelectFamily: true,
    // The default of 250 ms gives up on hosts that are merely far away.
    autoSelectFamilyAttemptTimeout: 3000,
    ...{ highWaterMark },
  })
}

function openTls(socket: Socket, url: URL, context: SecureContext | undefined, verified: boolean): Socket {
  const host = bareHostname(url)
  return connectTls({
    socket,
    host,
    ...(isIP(host) === 0 ? { servername: host } : {}),
    ...(context === undefined ? {} : { secureContext: context }),
    rejectUnauthorized: verified,
    minVersion: 'TLSv1.2',
    ALPNProtocols: ['http/1.1'],
    ...{ highWaterMark },
  })
}

/** Checks every address of a name, and connects to one of those it checked. */
function guardedLookup(destination: Destination): LookupFunction {
  return (hostname, options, done) => {
    lookupAddress(hostname, { ...options, all: true }, (error, addresses) => {
      try {
        if (error !== null) throw error
        for (const { address } of addresses) refuseNearer(destination, address)
      } catch (failure) {
        return done(failure as NodeJS.ErrnoException, '', 0)
      }
      const [{ address, family } = { address: '', family: 0 }] = addresses
      if (options.all) done(null, addresses)
      else done(null, address, family)
    })
  }
}

function refuseNearer({ url, namedFrom, trusted }: Destination, address: string): void {
  const zone = zoneOf(address)
  if (namedFrom === undefined || mayName(namedFrom, zone) || trusted.holds(address)) return
  throw new NoAnswer(`a ${namedFrom} registry sends us to ${shown(url.host)}, which is a ${zone} address`, {
    transient: false,
    hint: `The registry is set up wrongly, or it tries to reach what only this machine can reach. ${trustHint(url)}`,
  })
}

function happens(socket: Socket, event: 'connect' | 'secureConnect'): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once(event, () => resolve())
    socket.once('error', reject)
    socket.once('close', () => reject(Object.assign(new Error('closed'), { code: 'ECONNRESET' })))
  })
}

/** CONNECT of RFC 9110, 9.3.6. */
function tunnel(socket: Socket, url: URL, proxy: ProxyServer): Promise<void> {
  return new Promise((resolve, reject) => {
    const authority = `${url.hostname}:${portOf(url)}`
    const outgoing = request({
      method: 'CONNECT',
      path: authority,
      headers: {
        host: authority,
        ...(proxy.authorization === undefined ? {} : { 'proxy-authorization': proxy.authorization }),
      },
      createConnection: () => socket,
      maxHeaderSize: 16 * 1024,
    })
    outgoing.once('connect', (response, _socket, head) => {
      const status = response.statusCode ?? 0
      if (head.length > 0) socket.unshift(head)
      if (status >= 200 && status < 300) resolve()
      else reject(proxyRefusal(proxy, status, url.host))
    })
    outgoing.once('error', (error) => {
      const { message, details } = connectionFailure(error, true)
      reject(new NoAnswer(`the proxy ${proxy.url.host} failed: ${message}`, { ...details, noTls: false }))
    })
    outgoing.end()
  })
}

export function proxyRefusal(proxy: ProxyServer, status: number, host: string): NoAnswer {
  const name = `the proxy ${proxy.url.host}`
  if (status === 407) {
    const text =
      proxy.authorization === undefined
        ? 'requires a user name and a password'
        : 'does not accept the user name and password of its URL'
    return new NoAnswer(`${name} ${text} (407)`, {
      transient: false,
      hint: 'Write `http://user:password@host:port` into https_proxy of the daemon.',
    })
  }
  return new NoAnswer(`${name} does not connect to ${host} (${status})`, {
    transient: status === 429 || status >= 500,
    noTls: true,
    hint: 'Ask who runs the proxy, or except the registry with no_proxy.',
  })
}
