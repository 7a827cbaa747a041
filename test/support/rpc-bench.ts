import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach } from 'vitest'
import type { ImageSummary } from '../../packages/builder-daemon/src/ports/image-store.js'
import type { Logger } from '../../packages/builder-daemon/src/ports/logger.js'
import { createBuilderService } from '../../packages/builder-daemon/src/rpc/builder-service.js'
import { createControlService } from '../../packages/builder-daemon/src/rpc/control-service.js'
import { createFakeCore, type FakeCore } from '../../packages/builder-daemon/src/rpc/fake-core.js'
import {
  createRpcServer,
  type RpcServer,
  type RpcServerOptions,
} from '../../packages/builder-daemon/src/rpc/server.js'
import { connectClient, type TestClient } from '../../packages/builder-daemon/src/rpc/test-client.js'

/** Neither sorted by age nor by name. */
export const storedImages: readonly ImageSummary[] = [
  {
    id: `1${'0'.repeat(63)}`,
    names: ['old:1'],
    createdAt: Date.UTC(2020, 0, 2, 3, 4, 5),
    size: 2_134_000,
    owner: 0,
  },
  { id: `2${'0'.repeat(63)}`, names: [], createdAt: Date.UTC(2022, 0, 1), size: 999, owner: 0 },
  {
    id: `3${'0'.repeat(63)}`,
    names: ['localhost:5000/x/y:v1', 'old:2'],
    createdAt: Date.UTC(2021, 0, 1),
    size: 210_000_000,
    owner: 0,
  },
]

interface Logged {
  readonly level: string
  readonly event: string
  readonly fields: Record<string, unknown> | undefined
}

/**
 * For every test a fake core with these images, and both services over it: at `socketPath` once `serve` was called.
 * Afterwards clients, server and directory are gone.
 */
export function useRpcServer(images?: readonly ImageSummary[]) {
  let directory = ''
  let core: FakeCore
  let server: RpcServer | undefined
  let logged: Logged[] = []
  const clients: TestClient[] = []
  const record = (level: string) => (event: string, fields?: Record<string, unknown>) => {
    logged.push({ level, event, fields })
  }
  const log: Logger = {
    debug: record('debug'),
    info: record('info'),
    warn: record('warn'),
    error: record('error'),
  }

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'isb-rpc-'))
    chmodSync(directory, 0o755)
    core = createFakeCore(images)
    logged = []
  })
  afterEach(async () => {
    for (const one of clients.splice(0)) one.close()
    await server?.close(0)
    server = undefined
    rmSync(directory, { recursive: true, force: true })
  })

  const bench = {
    get directory() {
      return directory
    },
    get socketPath() {
      return join(directory, 'builder.sock')
    },
    get core() {
      return core
    },
    get logged(): readonly Logged[] {
      return logged
    },
    async serve(options: Partial<RpcServerOptions> = {}): Promise<RpcServer> {
      server = await createRpcServer({
        socketPath: bench.socketPath,
        group: undefined,
        services: [createControlService(core), createBuilderService(core)],
        log,
        ...options,
      })
      return server
    },
    client(): TestClient {
      const made = connectClient(bench.socketPath)
      clients.push(made)
      return made
    },
  }
  return bench
}

/** The same, served and with one client from the beginning of every test. */
export function useRpcClient(images: readonly ImageSummary[]) {
  const bench = useRpcServer(images)
  let client: TestClient
  beforeEach(async () => {
    await bench.serve()
    client = bench.client()
  })
  return {
    get core() {
      return bench.core
    },
    get client() {
      return client
    },
    /** From now on `client` is another one. */
    reconnect(): void {
      client = bench.client()
    },
  }
}
