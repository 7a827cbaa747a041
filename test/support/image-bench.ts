import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll } from 'vitest'
import type { ImageRecord, ImageStore } from '../../packages/builder-daemon/src/ports/image-store.js'
import type { LayerStore, Lease } from '../../packages/builder-daemon/src/ports/layer-store.js'
import { configBytes, publishContent } from './temporary-store.js'

export interface OpenStores {
  readonly layers: LayerStore
  readonly images: ImageStore
  close(): Promise<void>
}

/** Stores that are open while the tests of a suite run, and a lease that protects what they make. */
export interface ImageBench {
  readonly stores: OpenStores
  readonly lease: Lease
  /** A name that nothing has yet. */
  unique(): string
  newLease(): Promise<Lease>
  /** Stores an image of new layers, of user 7. */
  put(names: readonly string[], over?: { contents?: string[]; created?: string }): Promise<ImageRecord>
  /** Gives back what was protected so far. */
  release(): Promise<void>
}

export function useImageBench(open: () => Promise<OpenStores>): ImageBench {
  let stores: OpenStores
  let lease: Lease
  const unique = () => `n${randomBytes(6).toString('hex')}`
  const newLease = () => stores.layers.acquireLease({ uid: 7, purpose: 'build t' })
  beforeAll(async () => {
    stores = await open()
    lease = await newLease()
  })
  afterAll(() => stores.close())
  return {
    get stores() {
      return stores
    },
    get lease() {
      return lease
    },
    ...{ unique, newLease },
    async put(names, over = {}) {
      const contents = over.contents ?? [unique()]
      const layers = []
      for (const content of contents) layers.push(await publishContent(stores, lease, content))
      const bytes = configBytes(layers, unique(), over.created)
      const image = { configBytes: bytes, layers: layers.map((l) => l.id), names, owner: 7 }
      return await stores.images.put(image, lease)
    },
    async release() {
      await stores.layers.releaseLease(lease)
      lease = await newLease()
    },
  }
}
