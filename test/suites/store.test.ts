import { getuid } from 'node:process'
import { afterAll, beforeAll, describe } from 'vitest'
import type { Store } from '../../packages/builder-daemon/src/storage/store.js'
import { bundleEntry, databaseWorkerEntry } from '../support/bundled-worker.js'
import { makeRoots, openAt, pruneStore } from '../support/temporary-store.js'
import { cacheIndexSuite } from './cache-index.js'
import { imageNamesSuite } from './image-names.js'
import { imageStoreSuite } from './image-store.js'
import { layerStoreSuite } from './layer-store.js'

let worker: URL

beforeAll(async () => {
  worker = await bundleEntry(databaseWorkerEntry)
})

const closing: (() => Promise<void>)[] = []
afterAll(async () => {
  for (const close of closing) await close()
})

async function open(durability: 'verified' | 'strict', sharedCache = false) {
  const roots = await makeRoots()
  let store: Store | undefined
  const close = async () => {
    await store?.close()
    await roots.remove()
  }
  closing.push(close)
  const opened = await openAt(roots, worker, { durability, sharedCache })
  store = opened
  const { layers, images, cache } = opened
  const prune = () => pruneStore(opened)
  return { layers, images, cache, prune, dataRoot: roots.dataRoot, close }
}

describe.skipIf(getuid?.() !== 0)('the store (needs root)', () => {
  imageStoreSuite('the store', () => open('verified'))
  imageNamesSuite('the store', () => open('verified'))
  layerStoreSuite('the verified store', () => open('verified'))
  layerStoreSuite('the strict store', () => open('strict'))
  cacheIndexSuite('the store', (shared) => open('verified', shared))
})
