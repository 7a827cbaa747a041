import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { TransferServices } from '../../packages/builder-daemon/src/core/transfer/transfer.js'
import type { ImageRecord } from '../../packages/builder-daemon/src/ports/image-store.js'
import type { LayerRecord, Lease } from '../../packages/builder-daemon/src/ports/layer-store.js'
import type { LayerWorkers } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import type { RegistryClient } from '../../packages/builder-daemon/src/ports/registry.js'
import type { RegistryRules } from '../../packages/builder-daemon/src/ports/registry-rules.js'
import type { Store } from '../../packages/builder-daemon/src/storage/store.js'
import { createLayerPool } from '../../packages/builder-daemon/src/workers/layer-pool.js'
import { bundleEntry, databaseWorkerEntry } from './bundled-worker.js'
import { type MemoryRegistry, memoryRegistry } from './memory-registry.js'
import { collectingLogger, configBytes, makeRoots, openAt, type Roots } from './temporary-store.js'

/** Threads and entries that the tests of one file share. */
export interface PushWorkshop extends AsyncDisposable {
  readonly workers: LayerWorkers
  /** With the registry in memory, unless another client is given. */
  open(rules?: Partial<RegistryRules>, client?: RegistryClient): Promise<PushBench>
}

/** A real store with images to push, and a registry in memory. */
export interface PushBench {
  readonly registry: MemoryRegistry
  readonly roots: Roots
  readonly store: Store
  readonly lease: Lease
  readonly services: TransferServices
  /** A layer made here, as a step of a build would leave it. */
  layerWith(files: Readonly<Record<string, string | Buffer>>): Promise<LayerRecord>
  imageOf(layers: readonly LayerRecord[], name?: string): Promise<ImageRecord>
  /** The store as the next daemon finds it. */
  reopened(): Promise<PushBench>
  /** What lies below `downloads` when nothing is under way, all users together. */
  files(): Promise<readonly string[]>
  close(): Promise<void>
}

export async function openPushWorkshop(): Promise<PushWorkshop> {
  const databaseWorker = await bundleEntry(databaseWorkerEntry)
  const entry = await bundleEntry('packages/builder-daemon/src/workers/layer-worker.ts')
  const workers = createLayerPool({ entry, size: 2, log: collectingLogger() })

  async function bench(
    roots: Roots,
    registry: MemoryRegistry,
    rules: RegistryRules,
    client: RegistryClient,
  ): Promise<PushBench> {
    const store = await openAt(roots, databaseWorker)
    const lease = await store.layers.acquireLease({ uid: 0, purpose: 'push t' })
    const services: TransferServices = {
      ...{ client, rules, memory: store.memory, files: store.blobFiles },
      ...{ layers: store.layers, images: store.images, workers, clock: { now: () => Date.now() } },
      platform: { os: 'linux', architecture: 'amd64' },
    }
    return {
      ...{ registry, roots, store, lease, services },
      async layerWith(files) {
        const staging = await store.layers.stage(lease)
        for (const [name, content] of Object.entries(files)) {
          mkdirSync(dirname(join(staging.upper, name)), { recursive: true })
          writeFileSync(join(staging.upper, name), content)
        }
        const { upper } = staging
        const { diffId, tarSize } = await workers.run('seal', { upper, fixedTime: undefined })
        const sealed = { diffId, tarSize, keepsHeaders: false, parentKey: null }
        return await store.layers.publish(staging, sealed, lease)
      },
      imageOf: (layers, name = 'image:1') =>
        store.images.put(
          {
            configBytes: configBytes(layers, name),
            layers: layers.map(({ id }) => id),
            names: [name],
            owner: 0,
          },
          lease,
        ),
      async reopened() {
        await store.close()
        return await bench(roots, registry, rules, client)
      },
      async files() {
        await store.settle()
        return readdirSync(join(roots.dataRoot, 'downloads'), { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile())
          .map(({ name }) => name)
      },
      async close() {
        await store.close()
        await roots.remove()
      },
    }
  }

  return {
    workers,
    async open(rules = {}, client = undefined) {
      const registry = memoryRegistry()
      return await bench(await makeRoots(), registry, rules as RegistryRules, client ?? registry.client)
    },
    [Symbol.asyncDispose]: () => workers[Symbol.asyncDispose](),
  }
}
