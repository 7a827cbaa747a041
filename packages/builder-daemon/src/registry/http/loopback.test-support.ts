import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer, type ServerOptions } from 'node:https'
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Credentials, RegistryAccess } from '../../ports/registry.js'
import type { Exchange, HttpContext, RegistryHttp } from './exchange.js'
import { createRegistryHttp, type RegistryHttpOptions } from './registry-http.js'

/** What a test opened; `end` closes all of it. */
export interface Bench {
  readonly directory: string
  onEnd(close: () => void): void
  end(): void
}

export function openBench(): Bench {
  const directory = mkdtempSync(join(tmpdir(), 'registry-http-'))
  const closing: (() => void)[] = [() => rmSync(directory, { recursive: true })]
  return {
    directory,
    onEnd: (close) => closing.unshift(close),
    end() {
      for (const close of closing.splice(0)) close()
    },
  }
}

export interface Seen {
  readonly method: string
  readonly url: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
  readonly at: number
}

export interface TestServer {
  readonly port: number
  /** 127.0.0.1 with the port. */
  readonly host: string
  readonly seen: Seen[]
  readonly sockets: Set<Socket>
  close(): void
}

export type Handler = (seen: Seen, response: ServerResponse, request: IncomingMessage) => void

/** Records every request with its whole body, then lets the handler answer. */
export async function serve(bench: Bench, handler: Handler, tls?: ServerOptions): Promise<TestServer> {
  const seen: Seen[] = []
  const sockets = new Set<Socket>()
  const listener = (request: IncomingMessage, response: ServerResponse) => {
    const chunks: Buffer[] = []
    request.on('error', () => {})
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const { method = '', url = '', headers } = request
      const entry = { method, url, headers, body: Buffer.concat(chunks).toString(), at: performance.now() }
      seen.push(entry)
      handler(entry, response, request)
    })
  }
  const server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener)
  const port = await listen(bench, server, sockets)
  return { port, host: `127.0.0.1:${port}`, seen, sockets, close: () => closeAll(server, sockets) }
}

/** A server that speaks bytes. */
export async function serveTcp(bench: Bench, onSocket: (socket: Socket) => void): Promise<TestServer> {
  const sockets = new Set<Socket>()
  const server = createTcpServer((socket) => {
    socket.on('error', () => {})
    onSocket(socket)
  })
  const port = await listen(bench, server, sockets)
  return { port, host: `127.0.0.1:${port}`, seen: [], sockets, close: () => closeAll(server, sockets) }
}

type Closable = ReturnType<typeof createTcpServer>

async function listen(bench: Bench, server: Closable, sockets: Set<Socket>): Promise<number> {
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  bench.onEnd(() => closeAll(server, sockets))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}

function closeAll(server: Closable, sockets: Set<Socket>): void {
  server.close()
  for (const socket of sockets) socket.destroy()
}

export interface TestProxy extends TestServer {
  /** `CONNECT host:port` and absolute URLs that were asked for. */
  readonly targets: string[]
}

/** An HTTP proxy that brings every tunnel to one port of this machine, and answers everything else itself. */
export async function serveProxy(
  bench: Bench,
  to: () => number,
  how: { readonly authorization?: string; readonly refusal?: number; readonly forward?: Handler } = {},
): Promise<TestProxy> {
  const { authorization, refusal = 407, forward } = how
  const targets: string[] = []
  const server = await serve(bench, (seen, response, request) => {
    targets.push(seen.url)
    if (authorization !== undefined && seen.headers['proxy-authorization'] !== authorization) {
      response.writeHead(407).end()
    } else if (forward !== undefined) forward(seen, response, request)
    else response.writeHead(200).end('by proxy')
  })
  const tunnels = await serveTcp(bench, (socket) => {
    socket.once('data', (head) => {
      const text = head.toString('latin1')
      const target = /^CONNECT (\S+)/.exec(text)?.[1]
      if (target === undefined) {
        const inner = connect(server.port, '127.0.0.1')
        inner.on('error', () => socket.destroy())
        inner.write(head)
        socket.pipe(inner).pipe(socket)
        return
      }
      targets.push(`CONNECT ${target}`)
      const allowed = authorization === undefined || text.includes(`proxy-authorization: ${authorization}`)
      if (!allowed || refusal !== 407) {
        socket.end(`HTTP/1.1 ${refusal} no\r\ncontent-length: 0\r\n\r\n`)
        return
      }
      const inner = connect(to(), '127.0.0.1', () => {
        socket.write('HTTP/1.1 200 ok\r\n\r\n')
        socket.pipe(inner).pipe(socket)
      })
      inner.on('error', () => socket.destroy())
      socket.on('close', () => inner.destroy())
    })
  })
  return { ...tunnels, seen: server.seen, targets }
}

export interface Asking {
  readonly http: RegistryHttp
  /** Lines of the log. */
  readonly logged: string[]
  send(
    host: string,
    exchange?: Partial<Exchange>,
    context?: Partial<AskingContext>,
  ): ReturnType<RegistryHttp['send']>
}

interface AskingContext extends RegistryAccess {
  readonly insecure: boolean
  readonly signal: AbortSignal
  readonly user: Credentials
  readonly onNotice: (line: string) => void
}

const quick = { connect: 5000, head: 5000, idle: 5000, stalled: 100, budget: 10_000 }

/** A client with short patience; requests of `uid` 1 for `/v2/` unless told otherwise. */
export function openHttp(bench: Bench, options: Partial<RegistryHttpOptions> = {}): Asking {
  const logged: string[] = []
  const write = (event: string, fields?: Record<string, unknown>) =>
    void logged.push(`${event} ${JSON.stringify(fields)}`)
  const http = createRegistryHttp({
    certificates: [join(bench.directory, 'certs.d')],
    environment: {},
    log: { debug: write, info: write, warn: write, error: write },
    ...options,
    limits: { ...quick, ...options.limits },
  })
  bench.onEnd(() => http.close())
  return {
    http,
    logged,
    send(host, exchange = {}, { insecure = false, signal, user, onNotice, ...access } = {}) {
      const context: HttpContext = {
        what: `manifest 1 of ${host}/x`,
        signal: signal ?? new AbortController().signal,
        onNotice,
        access: {
          uid: 1,
          credentials: async () => user,
          tlsVerify: undefined,
          retries: undefined,
          retryDelay: 10,
          ...access,
        },
      }
      return http.send(
        { host, insecure },
        {
          method: 'GET',
          target: '/v2/',
          scope: { repository: 'x', actions: 'pull' },
          expect: [200],
          repeat: 'safe',
          ...exchange,
        },
        context,
      )
    },
  }
}

export function bodyOf(text: string | Buffer): NonNullable<Exchange['body']> {
  const bytes = Buffer.from(text)
  return {
    size: bytes.length,
    async *open() {
      yield bytes
    },
  }
}

export interface Authority {
  readonly file: string
  readonly pem: string
  /** Key and certificate for a host; `days` may be negative. */
  issue(subject: string, names: string, validity?: string): { readonly key: string; readonly cert: string }
}

/** A certificate authority made by openssl. */
export function makeAuthority(directory: string): Authority {
  mkdirSync(directory, { recursive: true })
  const openssl = (...args: readonly string[]) =>
    execFileSync('openssl', args, { cwd: directory, stdio: ['ignore', 'pipe', 'ignore'] }).toString()
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl(
    'req',
    '-x509',
    ...newKey,
    '-keyout',
    'ca.key',
    '-out',
    'ca.crt',
    '-days',
    '2',
    '-subj',
    '/CN=test ca',
  )
  const config = [
    '[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\nunique_subject=no',
    'copy_extensions=copy\n[p]\ncommonName=supplied\n',
  ].join('\n')
  writeFileSync(join(directory, 'ca.conf'), config)
  writeFileSync(join(directory, 'index.txt'), '')
  writeFileSync(join(directory, 'serial'), '01')
  const pem = openssl('x509', '-in', 'ca.crt')
  return {
    file: join(directory, 'ca.crt'),
    pem,
    issue(subject, names, enddate = '21000101000000Z') {
      const extension = ['-addext', `subjectAltName=${names}`]
      openssl(
        'req',
        '-new',
        ...newKey,
        '-keyout',
        'one.key',
        '-out',
        'one.csr',
        '-subj',
        `/CN=${subject}`,
        ...extension,
      )
      const validity = ['-startdate', '20000101000000Z', '-enddate', enddate]
      const files = [
        '-config',
        'ca.conf',
        '-cert',
        'ca.crt',
        '-keyfile',
        'ca.key',
        '-in',
        'one.csr',
        '-out',
        'one.crt',
      ]
      openssl('ca', '-batch', '-notext', ...validity, ...files)
      return { key: openssl('pkey', '-in', 'one.key'), cert: openssl('x509', '-in', 'one.crt') }
    },
  }
}

/** Puts files into certs.d of a host. */
export function trustFor(bench: Bench, host: string, files: Readonly<Record<string, string>>): void {
  const directory = join(bench.directory, 'certs.d', host)
  mkdirSync(directory, { recursive: true })
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text)
}

/** What a promise fails with, for `toMatchObject`. */
export async function failureOf(
  work: Promise<unknown>,
): Promise<{ code?: string; message: string; hint?: string }> {
  try {
    await work
  } catch (error) {
    return error as { code?: string; message: string; hint?: string }
  }
  throw new Error('did not fail')
}

/** Waits until a condition holds, at most five seconds. */
export async function until(condition: () => boolean): Promise<void> {
  const end = performance.now() + 5000
  while (!condition()) {
    if (performance.now() > end) throw new Error(`never: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
