import { type ClientRequest, type IncomingMessage, request as startRequest } from 'node:http'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { cancellation } from './cancellation.js'
import { proxyRefusal } from './connect.js'
import { connectionFailure } from './connection-failure.js'
import type { Connections } from './connections.js'
import type { RequestBody } from './exchange.js'
import type { HttpLimits } from './limits.js'
import { NoAnswer } from './no-answer.js'
import { watchProgress } from './progress-watch.js'
import type { ProxyRules } from './proxy.js'
import type { Slot } from './slots.js'
import type { TrustStore } from './trust.js'
import type { TrustedHosts } from './trusted-hosts.js'
import type { Zone } from './zones.js'

/** One request to one URL, nothing followed, nothing repeated. */
export interface WireRequest {
  readonly method: string
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body: RequestBody | undefined
  /** Connections are not shared between users. */
  readonly uid: number
  /** Name of the certs.d directory. */
  readonly certificates: string
  /** The server's certificate is checked. */
  readonly verified: boolean
  /** Who gave us the URL is there; undefined: a user did. */
  readonly namedFrom: Zone | undefined
  /** Sending it twice does no harm. */
  readonly repeatable: boolean
  /** Bytes that the server goes through before it answers. */
  readonly work: number
  readonly slot: Slot | undefined
  readonly signal: AbortSignal
}

export interface Reply {
  readonly status: number
  /** Lower-case names; repeated ones joined. */
  readonly headers: Readonly<Record<string, string>>
  readonly url: URL
  readonly method: string
  /** Where the server is. */
  readonly zone: Zone
  readonly message: IncomingMessage
  /** Closes the connection unless request and answer are complete. */
  readonly close: () => void
}

/** Fails with NoAnswer, ISB_CANCELLED, or what the body of the request threw. */
export type Transport = (request: WireRequest) => Promise<Reply>

const bytesPerSecond = 16 * 1024 * 1024

export function createTransport(parts: {
  readonly connections: Connections
  readonly trust: TrustStore
  readonly proxies: ProxyRules
  readonly trusted: TrustedHosts
  readonly limits: HttpLimits
}): Transport {
  return async (wire) => {
    for (;;) {
      const attempt = begin(parts, wire)
      try {
        return await attempt.reply
      } catch (error) {
        // A kept connection that the server had closed meanwhile says nothing about the server.
        const stale = attempt.outgoing.reusedSocket && error instanceof NoAnswer && error.details.transient
        if (!stale || !wire.repeatable || attempt.late()) throw error
      }
    }
  }
}

function begin(
  { connections, trust, proxies, trusted, limits }: Parameters<typeof createTransport>[0],
  wire: WireRequest,
): { readonly outgoing: ClientRequest; readonly reply: Promise<Reply>; readonly late: () => boolean } {
  const { url, slot, signal, body } = wire
  if (signal.aborted) throw cancellation(signal)
  const proxy = proxies(url)
  const material = url.protocol === 'https:' ? trust.of(wire.certificates) : undefined
  const proxyTrust = proxy?.url.protocol === 'https:' ? trust.of(proxy.url.host) : undefined
  const pool = connections.pool(
    JSON.stringify([
      wire.uid,
      url.origin,
      material?.key,
      wire.verified,
      wire.namedFrom,
      proxy?.url.href,
      proxy?.authorization,
      proxyTrust?.key,
    ]),
    {
      url,
      proxy,
      trust: { target: material?.context(wire.verified), proxy: proxyTrust?.context(true) },
      verified: wire.verified,
      namedFrom: wire.namedFrom,
      trusted,
    },
  )
  const forwarded = proxy !== undefined && url.protocol === 'http:'
  const connecting = new AbortController()
  let late = false
  const outgoing = startRequest({
    method: wire.method,
    agent: pool.agent,
    connecting: connecting.signal,
    host: url.hostname,
    port: url.port,
    path: (forwarded ? url.origin : '') + url.pathname + url.search,
    maxHeaderSize: 16 * 1024,
    headers: {
      host: url.host,
      'user-agent': 'isula-build',
      // As stored there: an encoding would change the bytes.
      'accept-encoding': 'identity',
      ...wire.headers,
      ...(body === undefined
        ? wire.method === 'POST' || wire.method === 'PUT' || wire.method === 'PATCH'
          ? { 'content-length': '0' }
          : {}
        : body.size === undefined
          ? { 'transfer-encoding': 'chunked' }
          : { 'content-length': String(body.size) }),
      ...(forwarded && proxy.authorization !== undefined
        ? { 'proxy-authorization': proxy.authorization }
        : {}),
    },
  })

  const reply = new Promise<Reply>((resolve, reject) => {
    let headTimer: NodeJS.Timeout | undefined
    let lendTimer: NodeJS.Timeout | undefined
    let sent = 0
    const lendLater = () => {
      clearTimeout(lendTimer)
      lendTimer = setTimeout(() => slot?.lend(), Math.min(limits.stalled, limits.idle / 2))
    }
    const settle = () => {
      clearTimeout(headTimer)
      clearTimeout(lendTimer)
      signal.removeEventListener('abort', abort)
      slot?.resume()
    }
    const fail = (error: unknown) => {
      settle()
      connecting.abort(error)
      outgoing.destroy()
      reject(signal.aborted ? cancellation(signal) : error)
    }
    const abort = () => fail(cancellation(signal))
    signal.addEventListener('abort', abort, { once: true })
    outgoing.once('finish', () => {
      lendLater()
      const patience = limits.head + (Math.max(wire.work, sent) / bytesPerSecond) * 1000
      headTimer = setTimeout(() => {
        late = true
        fail(new NoAnswer(`no answer for ${seconds(patience)} s`, { transient: true, late }))
      }, patience)
    })
    outgoing.on('error', (error) => fail(isOurs(error) ? error : connectionFailure(error, false)))
    outgoing.once('response', (message) => {
      settle()
      // Until somebody reads the body its failure is nobody's.
      message.on('error', () => {})
      const status = message.statusCode ?? 0
      if (status === 407 && forwarded) {
        outgoing.destroy()
        return reject(proxyRefusal(proxy, status, url.host))
      }
      resolve({
        status,
        headers: joined(message),
        url,
        method: wire.method,
        zone: pool.zoneOf(message.socket),
        message,
        close() {
          if (!outgoing.writableFinished || !message.readableEnded) outgoing.destroy()
        },
      })
    })
    lendLater()
    if (body === undefined) outgoing.end()
    else {
      const onSent = (bytes: number): void => {
        sent = bytes
      }
      sendBody(outgoing, body, { limits, slot, onSent }).catch(fail)
    }
  })
  return { outgoing, reply, late: () => late }
}

function seconds(milliseconds: number): string {
  return milliseconds < 10_000
    ? String(Math.round(milliseconds / 10) / 100)
    : (milliseconds / 1000).toFixed(0)
}

/** Failures of `connect`, and bodies that could not be read, tell the cause themselves. */
function isOurs(error: unknown): boolean {
  return error instanceof NoAnswer || error instanceof BuilderError
}

/** Ends early, without an error, when the answer is there before all is sent. */
async function sendBody(
  outgoing: ClientRequest,
  body: RequestBody,
  {
    limits,
    slot,
    onSent,
  }: {
    readonly limits: HttpLimits
    readonly slot: Slot | undefined
    /** Told before the request ends. */
    readonly onSent: (bytes: number) => void
  },
): Promise<void> {
  let answered = false
  let wake = () => {}
  outgoing.once('response', () => {
    answered = true
    wake()
  })
  outgoing.once('close', () => wake())
  outgoing.on('drain', () => wake())
  const watch = watchProgress(limits, slot, (bytes) => {
    outgoing.destroy(
      new NoAnswer(`it takes no data (${bytes} bytes in ${limits.idle / 1000} s)`, { transient: true }),
    )
  })
  let sent = 0
  try {
    for await (const chunk of body.open()) {
      if (answered || outgoing.destroyed) return
      sent += chunk.length
      if (body.size !== undefined && sent > body.size) break
      if (outgoing.write(chunk)) continue
      watch.waiting()
      await new Promise<void>((resolve) => {
        wake = resolve
        if (answered || outgoing.destroyed || !outgoing.writableNeedDrain) resolve()
      })
      watch.moved(chunk.length)
    }
  } finally {
    watch.end()
  }
  if (answered || outgoing.destroyed) return
  if (body.size !== undefined && sent !== body.size) {
    throw new Error(`a body of ${body.size} bytes gave ${sent}`)
  }
  onSent(sent)
  outgoing.end()
}

function joined(message: IncomingMessage): Readonly<Record<string, string>> {
  const headers: Record<string, string> = Object.create(null)
  for (const [name, values] of Object.entries(message.headersDistinct))
    headers[name] = (values ?? []).join(', ')
  return headers
}
