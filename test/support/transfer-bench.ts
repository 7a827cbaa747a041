import { createSharedWork } from '../../packages/builder-daemon/src/core/transfer/shared-work.js'
import type {
  TransferCall,
  TransferServices,
} from '../../packages/builder-daemon/src/core/transfer/transfer.js'
import type { Lease } from '../../packages/builder-daemon/src/ports/layer-store.js'
import type { JobName, LayerWorkers } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import type { Store, StoreOptions } from '../../packages/builder-daemon/src/storage/store.js'
import { createLayerPool } from '../../packages/builder-daemon/src/workers/layer-pool.js'
import { bundleEntry, databaseWorkerEntry } from './bundled-worker.js'
import { anonymous } from './memory-registry.js'
import { plainRules, type SourceRegistry, sourceRegistry } from './source-registry.js'
import { collectingLogger, makeRoots, openAt, type Roots } from './temporary-store.js'

/** A real store and real layer threads for pulls from a registry in memory. */
export interface TransferBench extends AsyncDisposable {
  readonly roots: Roots
  readonly registry: SourceRegistry
  readonly services: TransferServices
  readonly store: Store
  readonly lease: Lease
  /** Jobs that layer threads were given. */
  readonly jobs: JobName[]
  readonly lines: string[]
  call(rest?: Partial<TransferCall>): TransferCall
  /** Ends the store and opens it again, as a new daemon would. */
  reopen(): Promise<void>
}

export async function openTransferBench(options: Partial<StoreOptions> = {}): Promise<TransferBench> {
  const databaseWorker = await bundleEntry(databaseWorkerEntry)
  const entry = await bundleEntry('packages/builder-daemon/src/workers/layer-worker.ts')
  const pool = createLayerPool({ entry, size: 2, log: collectingLogger() })
  const roots = await makeRoots()
  const registry = sourceRegistry()
  const jobs: JobName[] = []
  const lines: string[] = []
  const workers: LayerWorkers = {
    run(job, params, signal) {
      jobs.push(job)
      return pool.run(job, params, signal)
    },
  }
  const verify = async (): Promise<boolean> => true
  let store = await openAt(roots, databaseWorker, { verify, ...options })
  let lease = await store.layers.acquireLease({ uid: 0, purpose: 'pull t' })
  const unpacking = createSharedWork()
  return {
    ...{ roots, registry, jobs, lines },
    get store() {
      return store
    },
    get lease() {
      return lease
    },
    get services() {
      return {
        ...{ client: registry.client, rules: plainRules(), workers, unpacking },
        ...{ memory: store.memory, files: store.blobFiles, layers: store.layers, images: store.images },
        clock: { now: () => Date.now() },
        platform: { os: 'linux', architecture: 'amd64' },
      }
    },
    call: (rest = {}) => ({
      ...{ access: anonymous, lease, signal: new AbortController().signal },
      onLog: (line) => void lines.push(line),
      ...rest,
    }),
    async reopen() {
      await store.close()
      store = await openAt(roots, databaseWorker, { verify, ...options })
      lease = await store.layers.acquireLease({ uid: 0, purpose: 'pull t' })
    },
    async [Symbol.asyncDispose]() {
      await store.close()
      await pool[Symbol.asyncDispose]()
      await roots.remove()
    },
  }
}
