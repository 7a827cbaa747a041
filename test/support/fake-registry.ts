import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer, type ServerOptions } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Authentication, createGate, type Gate } from './fake-registry/authentication.js'
import { BodyLost, deliver, type Exchange, pourBody, readBody } from './fake-registry/exchange.js'
import { createScript, type FaultRule } from './fake-registry/faults.js'
import { createImageMaker, type ImageMaker } from './fake-registry/images.js'
import { type Abilities, handle, needOf, routeOf } from './fake-registry/protocol.js'
import { isMatch, type Match, type RecordedRequest } from './fake-registry/record.js'
import { type Reply, refusal } from './fake-registry/reply.js'
import { createStorage, type Storage } from './fake-registry/storage.js'

export interface FakeRegistryOptions {
  readonly abilities?: Abilities
  readonly auth?: Authentication
  /** Of node:https; `requestCert` and `ca` for client certificates. */
  readonly tls?: ServerOptions
  /** The token server is a host (a port) of its own when this is given; `{}`: plain HTTP. */
  readonly tokenServer?: { readonly tls?: ServerOptions }
  /** The name in URLs that the registry gives, e.g. of the token server; 127.0.0.1 when not given. */
  readonly hostname?: string
}

/**
 * A registry on a free loopback port that keeps to the distribution spec, and says what clients do that they may not,
 * until its script makes it fail.
 */
export interface FakeRegistry extends AsyncDisposable, ImageMaker {
  /** As in references, `127.0.0.1:PORT`. */
  readonly host: string
  readonly port: number
  /** Where its token server listens. */
  readonly tokenPort: number
  readonly origin: string
  readonly storage: Storage
  /** All there were, in the order of their heads. */
  readonly requests: readonly RecordedRequest[]
  /** The token server's, in the same way. */
  readonly tokenRequests: readonly RecordedRequest[]
  /** What clients did against the spec. */
  readonly violations: readonly string[]
  /** The next requests that match go wrong; the rules are asked in the order of their making. */
  fail(rule: FaultRule): { readonly used: () => number; remove(): void }
  /** No fault is left. */
  behave(): void
  count(match: Match): number
  /** The most of these requests that were under way at once. */
  most(match: Match): number
  /** Forgets what was recorded. */
  forget(): void
  /** Connections that are open now. */
  connections(): number
  /** Tokens. */
  readonly gate: Gate | undefined
}

interface Listening {
  readonly port: number
  readonly sockets: Set<Socket>
  close(): Promise<void>
}

export async function startFakeRegistry(options: FakeRegistryOptions = {}): Promise<FakeRegistry> {
  const directory = mkdtempSync(join(tmpdir(), 'fake-registry-'))
  const { abilities = {}, auth, tls, tokenServer, hostname = '127.0.0.1' } = options
  const storage = createStorage(directory)
  const script = createScript()
  const requests: RecordedRequest[] = []
  const tokenRequests: RecordedRequest[] = []
  const violations: string[] = []
  let realm = ''
  const gate = auth === undefined ? undefined : createGate(auth, () => realm)

  async function honest(exchange: Exchange): Promise<Reply> {
    const { request, message, fault } = exchange
    if (request.path === '/token' && auth?.kind === 'token') {
      const body = (await readBody(exchange, 1 << 20)).toString()
      const { method, query, headers } = request
      const given = gate?.token({ method, query, headers, body })
      request.user = given?.user
      return given?.reply ?? refusal(404, 'UNSUPPORTED', 'no token server')
    }
    const route = routeOf(request.path)
    if (route === undefined) return refusal(404, 'NAME_UNKNOWN', 'nothing here')
    const verdict = gate?.check(request.headers, needOf(route, request.method)) ?? {
      user: undefined,
      may: () => true,
    }
    request.user = verdict.user
    if ('refused' in verdict) return verdict.refused
    const seen =
      fault.ignoreRange === true ? { ...request, headers: { ...request.headers, range: undefined } } : request
    return await handle(route, {
      ...{ request: seen, message, storage, abilities, verdict },
      complain: (text) => void violations.push(`${request.method} ${request.path}: ${text}`),
      readBody: (limit) => readBody(exchange, limit),
      pourBody: (take) => pourBody(exchange, take),
    })
  }

  async function serve(exchange: Exchange): Promise<void> {
    const { request, socket, fault } = exchange
    await fault.wait?.()
    if (fault.raw !== undefined) return fault.raw(socket)
    const made = (await fault.instead?.(request)) ?? (await honest(exchange))
    const answer = fault.change?.(made, request) ?? made
    await deliver(exchange, answer, () => noteTold(storage, answer))
  }

  function listen(record: RecordedRequest[], secure: ServerOptions | undefined): Promise<Listening> {
    return listenOn(secure, record, (message, response, request) => {
      const { socket } = message
      const exchange = { request, message, response, socket, fault: script.faultFor(request, isMatch) }
      serve(exchange).catch((error: unknown) => {
        if (error instanceof BodyLost && error.reply !== undefined) {
          return deliver({ ...exchange, fault: {} }, error.reply, () => undefined)
        }
        // Connections break here all the time; what else goes wrong is a mistake of this server.
        if (!(error instanceof BodyLost) && !isBroken(error, socket)) {
          violations.push(`the registry itself: ${(error as Error).stack}`)
          socket.destroy()
        }
        return undefined
      })
    })
  }

  const main = await listen(requests, tls)
  const tokens = tokenServer === undefined ? undefined : await listen(tokenRequests, tokenServer.tls)
  const schemeOf = (secure: unknown): string => (secure === undefined ? 'http' : 'https')
  realm =
    tokens === undefined
      ? `${schemeOf(tls)}://${hostname}:${main.port}/token`
      : `${schemeOf(tokenServer?.tls)}://${hostname}:${tokens.port}/token`
  const host = `${hostname}:${main.port}`

  return {
    ...createImageMaker(storage),
    ...{
      host,
      port: main.port,
      tokenPort: (tokens ?? main).port,
      origin: `${schemeOf(tls)}://${host}`,
      storage,
      requests,
      violations,
      gate,
    },
    tokenRequests: tokens === undefined ? requests : tokenRequests,
    fail: script.add,
    behave: script.clear,
    count: (match) => requests.filter((request) => isMatch(match, request)).length,
    most(match) {
      const wanted = requests.filter((request) => isMatch(match, request))
      const during = ({ began }: RecordedRequest): number =>
        wanted.filter((one) => one.began <= began && (one.ended ?? Number.POSITIVE_INFINITY) > began).length
      return Math.max(0, ...wanted.map(during))
    },
    forget() {
      requests.splice(0)
      tokenRequests.splice(0)
    },
    connections: () => main.sockets.size,
    async [Symbol.asyncDispose]() {
      await main.close()
      await tokens?.close()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

async function listenOn(
  secure: ServerOptions | undefined,
  record: RecordedRequest[],
  handleRequest: (message: IncomingMessage, response: ServerResponse, request: RecordedRequest) => void,
): Promise<Listening> {
  const sockets = new Set<Socket>()
  const numbers = new WeakMap<Socket, number>()
  let count = 0
  const listener = (message: IncomingMessage, response: ServerResponse): void => {
    message.on('error', () => undefined)
    response.on('error', () => undefined)
    const connection = numbers.get(message.socket) ?? ++count
    numbers.set(message.socket, connection)
    const url = new URL(message.url ?? '/', 'http://registry')
    const request: RecordedRequest = {
      ...{ method: message.method ?? '', path: decodeURI(url.pathname), query: url.searchParams },
      ...{ headers: message.headers, began: performance.now(), ended: undefined, received: 0 },
      ...{ status: undefined, sent: 0, user: undefined, connection },
    }
    response.once('close', () => {
      request.ended = performance.now()
    })
    record.push(request)
    handleRequest(message, response, request)
  }
  const server = secure === undefined ? createServer(listener) : createTlsServer(secure, listener)
  // Slow clients are the business of the tests.
  server.requestTimeout = 0
  server.headersTimeout = 0
  server.keepAliveTimeout = 60_000
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    sockets,
    async close() {
      const closed = once(server, 'close')
      server.close()
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/** The client knows the Location of this answer, so it may not use an older one. */
function noteTold(storage: Storage, { headers }: Reply): void {
  const [, id = '', state = ''] = /\/uploads\/([^/?]+)\?_state=(\d+)$/.exec(headers['location'] ?? '') ?? []
  const upload = storage.uploads.get(id)
  if (upload !== undefined) upload.told = Math.max(upload.told, Number(state))
}

function isBroken(error: unknown, socket: Socket): boolean {
  return socket.destroyed || /premature|ECONNRESET|EPIPE|aborted/i.test(String(error))
}
