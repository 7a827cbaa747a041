import { env, getuid } from 'node:process'
import { beforeAll, describe, expect, test } from 'vitest'
import type { LayerRecord } from '../../packages/builder-daemon/src/ports/layer-store.js'
import { imageIdOf } from '../../packages/builder-daemon/src/storage/image-file.js'
import type { Store } from '../../packages/builder-daemon/src/storage/store.js'
import { bundleEntry, databaseWorkerEntry } from '../support/bundled-worker.js'
import { type Random, seededRandom } from '../support/random-choices.js'
import {
  configBytes,
  diffIdOf,
  makeRoots,
  openAt,
  pruneStore,
  publishContent,
} from '../support/temporary-store.js'

let worker: URL
beforeAll(async () => {
  worker = await bundleEntry(databaseWorkerEntry)
})

const names = ['a:1', 'a:latest', 'b:1', 'b:2', 'c:latest']
const contents = ['k', 'l', 'm', 'n', 'o']

/** What the store should say: names of images, and what each is made of. */
interface Model {
  readonly images: Map<string, readonly string[]>
  readonly names: Map<string, string>
}

async function put(store: Store, random: Random, model: Model): Promise<void> {
  const lease = await store.layers.acquireLease({ uid: 0, purpose: 'model' })
  const stack = Array.from({ length: random.next(4) }, () => random.pick(contents))
  const layers: LayerRecord[] = []
  for (const content of stack) {
    const found = await store.layers.findByDiffId(diffIdOf(content), '', lease, 'names')
    layers.push(found ?? (await publishContent(store, lease, content)))
  }
  const given = names.filter(() => random.next(4) === 0)
  const bytes = configBytes(layers, String(random.next(3)))
  const ids = layers.map((layer) => layer.id)
  await store.images.put({ configBytes: bytes, layers: ids, names: given, owner: 0 }, lease)
  await store.layers.releaseLease(lease)
  const id = imageIdOf(bytes)
  model.images.set(id, stack)
  for (const name of given) model.names.set(name, id)
}

async function remove(store: Store, model: Model, id: string): Promise<void> {
  const stack = model.images.get(id) ?? []
  model.images.delete(id)
  const held = [...model.names].filter(([, image]) => image === id).map(([name]) => name)
  for (const name of held) model.names.delete(name)
  const removed = await store.images.remove(id)
  const used = new Set([...model.images.values()].flat())
  expect(removed.untagged).toEqual(held.sort())
  expect([...removed.removedLayers].sort()).toEqual(
    [...new Set(stack)]
      .filter((content) => !used.has(content))
      .map(diffIdOf)
      .sort(),
  )
}

async function step(store: Store, random: Random, model: Model): Promise<void> {
  const ids = [...model.images.keys()].sort()
  const name = random.pick(names)
  switch (random.next(ids.length === 0 ? 1 : 6)) {
    case 0:
      return put(store, random, model)
    case 1: {
      const id = random.pick(ids)
      await store.images.tag(id, name)
      model.names.set(name, id)
      return
    }
    case 2: {
      const untagged = store.images.untag(name)
      if (model.names.delete(name)) await untagged
      else await expect(untagged).rejects.toMatchObject({ code: 'ISB_IMAGE_NOT_FOUND' })
      return
    }
    case 3:
      return remove(store, model, random.pick(ids))
    case 4: {
      const nameless = ids.filter((id) => ![...model.names.values()].includes(id))
      const removed = await store.images.removeUnnamed()
      expect(removed.map(({ imageId }) => imageId).sort()).toEqual(nameless)
      for (const id of nameless) model.images.delete(id)
      return
    }
    default:
      await pruneStore(store)
  }
}

async function compare(store: Store, model: Model): Promise<void> {
  const listed = await store.images.list()
  expect(Object.fromEntries(listed.map((image) => [image.id, image.names]))).toEqual(
    Object.fromEntries(
      [...model.images.keys()].map((id) => [
        id,
        [...model.names]
          .filter(([, image]) => image === id)
          .map(([name]) => name)
          .sort(),
      ]),
    ),
  )
  for (const [id, stack] of model.images) {
    const image = await store.images.get(id)
    expect(image?.damaged).toBe(false)
    expect(image?.layers.map((layer) => layer.diffId)).toEqual(stack.map(diffIdOf))
  }
  for (const name of names) {
    expect((await store.images.resolve(name))?.id).toBe(
      model.names.get(`${name}:latest`) ?? model.names.get(name),
    )
  }
}

async function runSeed(seed: number): Promise<void> {
  const random = seededRandom(seed)
  const model: Model = { images: new Map(), names: new Map() }
  const roots = await makeRoots()
  let store = await openAt(roots, worker)
  try {
    for (let round = 0; round < 5; round++) {
      for (let count = 0; count < 12; count++) await step(store, random, model)
      await compare(store, model)
      if (random.next(2) === 0) {
        await store.close()
        store = await openAt(roots, worker)
        await compare(store, model)
      }
    }
    await store.settle()
    expect(await store.check()).toEqual([])
  } catch (error) {
    throw new Error(`seed ${seed}`, { cause: error })
  } finally {
    await store.close()
    await roots.remove()
  }
}

describe.skipIf(getuid?.() !== 0)('the store against a model (needs root)', () => {
  test.each([1, 2, 3])('agrees for seed %i', (seed) => runSeed(seed))

  test('agrees for random seeds', { timeout: 600_000 }, async () => {
    const until = performance.now() + Number(env['ISULA_FUZZ_SECONDS'] ?? 5) * 1000
    while (performance.now() < until) await runSeed(Math.trunc(Math.random() * 2 ** 32))
  })
})
