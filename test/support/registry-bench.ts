import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createNetServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type {
  Endpoint,
  RegistryAccess,
  RegistryCall,
} from '../../packages/builder-daemon/src/ports/registry.js'

import type { RegistryHttp } from '../../packages/builder-daemon/src/registry/http/exchange.js'
import { createRegistryHttp } from '../../packages/builder-daemon/src/registry/http/registry-http.js'
import { silentLogger } from './silent-logger.js'

/** One request as a server of the tests saw it. */
export interface SeenRequest {
  readonly method: string
  /** With its query. */
  readonly path: string
  readonly headers: IncomingMessage['headers']
  readonly message: IncomingMessage
}

export interface TestRegistry extends AsyncDisposable {
  readonly endpoint: Endpoint
  readonly origin: string
  readonly requests: readonly SeenRequest[]
  /** `GET /v2/…` of every request so far. */
  seen(): readonly string[]
  /** Sockets that are open now. */
  connections(): Promise<number>
}

/** A plain HTTP server on a free loopback port whose every answer is the test's. */
export async function serveRegistry(
  handle: (request: SeenRequest, response: ServerResponse, count: number) => unknown,
): Promise<TestRegistry> {
  const requests: SeenRequest[] = []
  const server: Server = createServer((message, response) => {
    response.on('error', () => undefined)
    message.on('error', () => undefined)
    const request = {
      ...{ method: message.method ?? '', path: message.url ?? '', headers: message.headers, message },
    }
    requests.push(request)
    Promise.resolve(handle(request, response, requests.length)).catch((error: unknown) => {
      if (!message.destroyed) response.destroy(error as Error)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    endpoint: { host, repository: 'team/app', insecure: true, mirror: false },
    origin: `http://${host}`,
    requests,
    seen: () => requests.map(({ method, path }) => `${method} ${path}`),
    connections: () =>
      new Promise((resolve, reject) =>
        server.getConnections((error, count) => (error === null ? resolve(count) : reject(error))),
      ),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

/** Debian's docker-registry, with nothing but a file system behind it. */
export async function startDockerRegistry(): Promise<
  AsyncDisposable & { readonly endpoint: Endpoint; readonly root: string; readonly pid: number }
> {
  const root = mkdtempSync(join(tmpdir(), 'isula-build-registry-'))
  const host = `127.0.0.1:${await freePort()}`
  const config = join(root, 'config.yml')
  writeFileSync(
    config,
    `version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: ${join(root, 'data')} }, delete: { enabled: true } }
http: { addr: '${host}' }
`,
  )
  const child: ChildProcess = spawn('docker-registry', ['serve', config], { stdio: 'ignore' })
  const ended = once(child, 'exit')
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL')
    await ended
    rmSync(root, { recursive: true, force: true })
  }
  const deadline = Date.now() + 15_000
  for (;;) {
    const answer = await fetch(`http://${host}/v2/`).catch(() => undefined)
    if (answer?.ok === true) break
    if (child.exitCode !== null || Date.now() > deadline) {
      await stop()
      throw new Error('docker-registry does not start')
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return {
    endpoint: { host, repository: 'team/app', insecure: true, mirror: false },
    ...{ root, pid: child.pid ?? 0 },
    [Symbol.asyncDispose]: stop,
  }
}

async function freePort(): Promise<number> {
  const server = createNetServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Anonymous, and quick to try again. */
export function registryCall(
  access: Partial<RegistryAccess> = {},
  signal = new AbortController().signal,
): RegistryCall {
  return {
    access: {
      ...{ uid: 0, credentials: () => Promise.resolve(undefined), tlsVerify: undefined },
      ...{ retries: 4, retryDelay: 2, ...access },
    },
    signal,
  }
}

/** Milliseconds. */
export const testLimits = { connect: 5000, head: 5000, idle: 2000, stalled: 500 }

/** HTTP as the daemon has it, with the patience of a test. */
export function testRegistryHttp(): RegistryHttp {
  return createRegistryHttp({ certificates: [], environment: {}, log: silentLogger, limits: testLimits })
}
