import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { LayerId, LayerStore, Lease } from '../../packages/builder-daemon/src/ports/layer-store.js'
import type { LocalCacheIndex } from '../../packages/builder-daemon/src/storage/cache.js'
import { publishContent } from '../support/temporary-store.js'

export interface OpenCache {
  readonly layers: LayerStore
  readonly cache: LocalCacheIndex
  close(): Promise<void>
}

/** What every CacheIndex promises. */
export function cacheIndexSuite(name: string, open: () => Promise<OpenCache>): void {
  describe(`${name} as a cache index`, () => {
    let store: OpenCache
    let lease: Lease

    beforeAll(async () => {
      store = await open()
      lease = await store.layers.acquireLease({ uid: 1, purpose: 'build t' })
    })
    afterAll(() => store.close())

    test('gives the records of a key, the newest first', async () => {
      const layer = (await publishContent(store, lease, 'c1')).id
      const first = { staticKey: 'k1', contentKey: 'a', layer }
      const second = { staticKey: 'k1', contentKey: 'b', layer: null }
      await store.cache.store(1, first, [])
      await store.cache.store(1, second, [])
      expect(await store.cache.lookup(1, 'k1')).toEqual([second, first])
      expect(await store.cache.lookup(1, 'k2')).toEqual([])
    })

    test('keeps users apart', async () => {
      const layer = (await publishContent(store, lease, 'c2')).id
      await store.cache.store(10, { staticKey: 'u', contentKey: '', layer }, [])
      expect(await store.cache.lookup(11, 'u')).toEqual([])
      expect(await store.cache.lookup(10, 'u')).toHaveLength(1)
      expect(await store.cache.drop(11)).toBe(0)
      expect(await store.cache.drop(10)).toBe(1)
      expect(await store.cache.lookup(10, 'u')).toEqual([])
    })

    test('replaces a record with the same keys, and its parts', async () => {
      const [a, b] = [
        (await publishContent(store, lease, 'c3')).id,
        (await publishContent(store, lease, 'c4')).id,
      ]
      const record = { staticKey: 'r', contentKey: '' }
      await store.cache.store(1, { ...record, layer: a }, [
        { name: 'instruction', value: 'RUN a' },
        { name: 'env', value: 'A=1' },
      ])
      await store.cache.store(1, { ...record, layer: b }, [{ name: 'instruction', value: 'RUN b' }])
      expect(await store.cache.lookup(1, 'r')).toEqual([{ ...record, layer: b }])
      expect(await store.cache.parts(1, 'r', '')).toEqual([{ name: 'instruction', value: 'RUN b' }])
      expect(await store.cache.parts(2, 'r', '')).toBeUndefined()
    })

    test('stores nothing for a layer that is not there', async () => {
      await store.cache.store(1, { staticKey: 'g', contentKey: '', layer: '0'.repeat(32) as LayerId }, [])
      expect(await store.cache.lookup(1, 'g')).toEqual([])
    })

    test('forgets everything when told so', async () => {
      await store.cache.store(5, { staticKey: 'x', contentKey: '', layer: null }, [])
      await store.cache.store(6, { staticKey: 'x', contentKey: '', layer: null }, [])
      expect(await store.cache.drop()).toBeGreaterThanOrEqual(2)
      expect(await store.cache.lookup(5, 'x')).toEqual([])
    })
  })
}
