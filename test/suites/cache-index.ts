import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { LayerId, LayerStore, Lease } from '../../packages/builder-daemon/src/ports/layer-store.js'
import type { LocalCacheIndex } from '../../packages/builder-daemon/src/storage/cache.js'
import { cacheRecord, layerId } from '../support/cache-record.js'
import { publishContent } from '../support/temporary-store.js'

export interface OpenCache {
  readonly layers: LayerStore
  readonly cache: LocalCacheIndex
  /** Removes what nobody uses, and dates it. */
  prune(): Promise<unknown>
  close(): Promise<void>
}

/** What every CacheIndex promises. */
export function cacheIndexSuite(name: string, open: (shared: boolean) => Promise<OpenCache>): void {
  describe(`${name} as a cache index`, () => {
    let store: OpenCache
    let lease: Lease
    const publish = async (content: string): Promise<LayerId> =>
      (await publishContent(store, lease, content)).id

    beforeAll(async () => {
      store = await open(false)
      lease = await store.layers.acquireLease({ uid: 1, purpose: 'build t' })
    })
    afterAll(() => store.close())

    test('gives the records of a shape, those over the same layers first, then the newest', async () => {
      const layer = await publish('c1')
      const over = (digit: string) => ({ origin: { parent: [layerId(digit)], inputs: [[layerId('9')]] } })
      const first = cacheRecord('k1', layer, { contentKey: 'a', ...over('1') })
      const second = cacheRecord('k1', null, { contentKey: 'b', ...over('2') })
      const third = cacheRecord('k1', null, { contentKey: 'c', state: 's', inputsKey: 'i', ...over('2') })
      for (const record of [first, second, third]) await store.cache.store(1, record)
      const found = await store.cache.lookup(1, 'k1', [layerId('1')])
      expect(found).toMatchObject([first, third, second])
      expect(found.every(({ usable, foreign }) => usable && !foreign)).toBe(true)
      expect(await store.cache.lookup(1, 'k2', [])).toEqual([])
    })

    test('gives the layers of records of a user', async () => {
      const [layer, others] = [await publish('l1'), await publish('l2')]
      const stored = [
        await store.cache.store(1, cacheRecord('of user', layer)),
        await store.cache.store(1, cacheRecord('of user', null, { contentKey: 'x' })),
        await store.cache.store(2, cacheRecord('of user', others)),
      ]
      const ids = [...stored.flatMap((id) => id ?? []), 999_999]
      expect(ids).toHaveLength(4)
      expect(await store.cache.layersOf(1, ids)).toEqual([layer])
    })

    test('keeps users apart', async () => {
      await store.cache.store(10, cacheRecord('u', await publish('c2')))
      expect(await store.cache.lookup(11, 'u', [])).toEqual([])
      expect(await store.cache.lookup(10, 'u', [])).toHaveLength(1)
      expect(await store.cache.drop(11)).toBe(0)
      expect(await store.cache.drop(10)).toBe(1)
      expect(await store.cache.lookup(10, 'u', [])).toEqual([])
    })

    test('gives to others what is not tainted, where the cache is shared', async () => {
      await using shared = await closing(open(true))
      await shared.cache.store(10, cacheRecord('s', null))
      await shared.cache.store(10, cacheRecord('s', null, { contentKey: 'secret', tainted: true }))
      expect(await shared.cache.lookup(11, 's', [])).toMatchObject([{ contentKey: '', foreign: true }])
      expect(await shared.cache.lookup(10, 's', [])).toHaveLength(2)
    })

    test('replaces a record of the same origin and content', async () => {
      const [a, b] = [await publish('c3'), await publish('c4')]
      const id = await store.cache.store(1, cacheRecord('r', a, { state: 'known' }))
      expect(await store.cache.store(1, cacheRecord('r', b))).toBe(id)
      expect(await store.cache.lookup(1, 'r', [])).toMatchObject([{ layer: b, state: 'known' }])
    })

    test('learns what a record stands on', async () => {
      const id = await store.cache.store(1, cacheRecord('l', null))
      await store.cache.learn([{ id: id ?? 0, state: 's' }])
      await store.cache.learn([
        { id: id ?? 0, inputsKey: 'i' },
        { id: 999_999, state: 'of nothing' },
      ])
      expect(await store.cache.lookup(1, 'l', [])).toMatchObject([{ state: 's', inputsKey: 'i' }])
    })

    test('stores nothing for a layer that is not there', async () => {
      expect(await store.cache.store(1, cacheRecord('g', layerId('0')))).toBeUndefined()
      expect(await store.cache.lookup(1, 'g', [])).toEqual([])
    })

    test('remembers a project by user', async () => {
      expect(await store.cache.recall(1, 'p')).toBeUndefined()
      await store.cache.remember(1, 'p', 'one')
      await store.cache.remember(1, 'p', 'two')
      expect([await store.cache.recall(1, 'p'), await store.cache.recall(2, 'p')]).toEqual(['two', undefined])
    })

    test('a record whose layer was removed matches no more, and says when that was', async () => {
      await using other = await closing(open(false))
      const own = await other.layers.acquireLease({ uid: 1, purpose: 'build t' })
      const layer = (await publishContent(other, own, 'gone')).id
      const id = (await other.cache.store(1, cacheRecord('e', layer))) ?? 0
      expect(await other.cache.evictions([id])).toEqual(new Map())
      await other.layers.releaseLease(own)
      const before = Date.now()
      await other.prune()
      const [record] = await other.cache.lookup(1, 'e', [])
      expect(record).toMatchObject({ usable: false, layer: null })
      expect(record?.evictedAt).toBeGreaterThanOrEqual(before)
      expect(await other.cache.evictions([id, 999_999])).toEqual(new Map([[id, record?.evictedAt]]))
      await other.cache.store(1, cacheRecord('e', null))
      expect(await other.cache.lookup(1, 'e', [])).toMatchObject([{ id, usable: true, evictedAt: undefined }])
    })

    test('forgets everything when told so', async () => {
      await store.cache.store(5, cacheRecord('x', null))
      await store.cache.store(6, cacheRecord('x', null))
      expect(await store.cache.drop()).toBeGreaterThanOrEqual(2)
      expect(await store.cache.lookup(5, 'x', [])).toEqual([])
    })
  })
}

async function closing(opening: Promise<OpenCache>): Promise<OpenCache & AsyncDisposable> {
  const store = await opening
  return { ...store, [Symbol.asyncDispose]: () => store.close() }
}
