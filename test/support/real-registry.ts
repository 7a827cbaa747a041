import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request as plainRequest } from 'node:http'
import { request as secureRequest } from 'node:https'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type Authority,
  makeAuthority,
} from '../../packages/builder-daemon/src/registry/http/loopback.test-support.js'

export interface RealRegistryOptions {
  /** Only who has the password of `account` may do anything. */
  readonly htpasswd?: boolean
  /** Only clients with a certificate of the same authority may connect. */
  readonly tls?: boolean
}

/** Who may use a registry with htpasswd. */
export const account = { username: 'tester', password: 'open sesame 77' } as const

/** bcrypt of it; htpasswd is not installed everywhere. */
const htpasswd = `${account.username}:$2b$04$w5WeYG/6W5bHouszu9KQv.FO/wQnpH6gS2PWhNabH8O/4bpEm8xFC\n`

export interface RealRegistry extends AsyncDisposable {
  /** As in references, `127.0.0.1:PORT`; stays the same when it is started again. */
  readonly host: string
  readonly origin: string
  readonly pid: number
  /** Blobs and manifests are below. */
  readonly root: string
  /** What a client needs to connect, as files of a `certs.d` directory; undefined without TLS. */
  readonly certificates: Readonly<Record<'ca.crt' | 'client.cert' | 'client.key', string>> | undefined
  /** `METHOD /path status bytes` of the answers so far. */
  requests(): readonly string[]
  kill(signal?: NodeJS.Signals): Promise<void>
  /** Starts it again, with all it had. */
  start(): Promise<void>
}

/** Debian's docker-registry on a free loopback port, with its data in a directory of its own. */
export async function startRealRegistry(options: RealRegistryOptions = {}): Promise<RealRegistry> {
  const root = mkdtempSync(join(tmpdir(), 'real-registry-'))
  const file = (name: string, content: string): string => {
    writeFileSync(join(root, name), content)
    return join(root, name)
  }
  let tls: { readonly server: string; readonly certificates: RealRegistry['certificates'] } | undefined
  if (options.tls === true) tls = await issueCertificates(join(root, 'ca'), file)
  const host = `127.0.0.1:${await freePort()}`
  const origin = `${tls === undefined ? 'http' : 'https'}://${host}`
  const auth =
    options.htpasswd === true
      ? `auth: { htpasswd: { realm: tests, path: '${file('htpasswd', htpasswd)}' } }`
      : ''
  const config = file(
    'config.yml',
    `version: 0.1
log: { level: error, accesslog: { disabled: false } }
storage: { filesystem: { rootdirectory: '${join(root, 'data')}' }, delete: { enabled: true } }
http: { addr: '${host}'${tls === undefined ? '' : `, tls: ${tls.server}`} }
${auth}
`,
  )
  const log = file('registry.log', '')
  let child: ChildProcess | undefined
  let ended: Promise<unknown> = Promise.resolve()

  const answers = (): Promise<boolean> =>
    new Promise((resolve) => {
      const { certificates: files } = tls ?? {}
      const target = `${origin}/v2/`
      const request =
        files === undefined
          ? plainRequest(target)
          : secureRequest(target, {
              ...{ ca: files['ca.crt'], cert: files['client.cert'], key: files['client.key'] },
              agent: false,
            })
      request.once('response', (response) => {
        response.resume()
        resolve(response.statusCode === 200 || response.statusCode === 401)
      })
      request.once('error', () => resolve(false))
      request.end()
    })

  const registry: RealRegistry = {
    ...{ host, origin, root, certificates: tls?.certificates },
    get pid() {
      return child?.pid ?? 0
    },
    requests: () => accessLog(readFileSync(log, 'utf8')),
    async kill(signal = 'SIGKILL') {
      child?.kill(signal)
      await ended
    },
    async start() {
      const started = spawn('sh', ['-c', `exec docker-registry serve '${config}' >>'${log}' 2>&1`], {
        stdio: 'ignore',
      })
      child = started
      ended = once(started, 'exit')
      const deadline = Date.now() + 15_000
      while (!(await answers())) {
        if (started.exitCode !== null || Date.now() > deadline) {
          throw new Error(`docker-registry does not start:\n${readFileSync(log, 'utf8')}`)
        }
        await sleep(20)
      }
    },
    async [Symbol.asyncDispose]() {
      await registry.kill()
      rmSync(root, { recursive: true, force: true })
    },
  }
  try {
    await registry.start()
  } catch (error) {
    await registry[Symbol.asyncDispose]()
    throw error
  }
  return registry
}

/** Apache's combined log format, which the registry writes between its own lines. */
function accessLog(text: string): readonly string[] {
  return [...text.matchAll(/ "([A-Z]+) (\S+) HTTP\/[0-9.]+" (\d+) (\d+) /g)].map(
    ([, method, path, status, bytes]) => `${method} ${path} ${status} ${bytes}`,
  )
}

async function issueCertificates(
  directory: string,
  file: (name: string, content: string) => string,
): Promise<{ readonly server: string; readonly certificates: RealRegistry['certificates'] }> {
  const authority: Authority = makeAuthority(directory)
  const server = authority.issue('registry', 'IP:127.0.0.1,DNS:localhost')
  const client = authority.issue('client', 'DNS:client')
  const certificate = file('server.crt', server.cert)
  const key = file('server.key', server.key)
  return {
    server: `{ certificate: '${certificate}', key: '${key}', clientcas: ['${authority.file}'] }`,
    certificates: { 'ca.crt': authority.pem, 'client.cert': client.cert, 'client.key': client.key },
  }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
