import { existsSync, readdirSync, rmSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { CacheEntry } from '../../packages/builder-daemon/src/ports/build-cache.js'
import type { LayerRecord, Lease } from '../../packages/builder-daemon/src/ports/layer-store.js'
import type { Store } from '../../packages/builder-daemon/src/storage/store.js'
import { bundleEntry, databaseWorkerEntry } from '../support/bundled-worker.js'
import { cacheRecord } from '../support/cache-record.js'
import { configBytes, makeRoots, openAt, publishContent, type Roots } from '../support/temporary-store.js'

const hour = 3_600_000
const everybody = { kind: 'everybody' } as const
const always = Number.MAX_SAFE_INTEGER
const never = new AbortController().signal

let worker: URL
let roots: Roots
let store: Store
let now: number

beforeAll(async () => {
  worker = await bundleEntry(databaseWorkerEntry)
})
beforeEach(async () => {
  now = 1_000_000_000_000
  roots = await makeRoots()
  store = await open()
})
afterEach(async () => {
  await store.close()
  await roots.remove()
})

const open = (): Promise<Store> => openAt(roots, worker, { clock: { now: () => now } })
const lease = (): Promise<Lease> => store.layers.acquireLease({ uid: 0, purpose: 'build' })

/** A layer that only the cache of these users has. */
async function cached(content: string, ...users: readonly number[]): Promise<LayerRecord> {
  const held = await lease()
  const layer = await publishContent(store, held, content)
  for (const uid of users) await store.cache.store(uid, cacheRecord(content, layer.id))
  await store.layers.releaseLease(held)
  return layer
}

async function imageOf(layer: LayerRecord): Promise<void> {
  const held = await lease()
  await store.layers.hold([layer.id], held)
  await store.images.put(
    { configBytes: configBytes([layer]), layers: [layer.id], names: ['i:1'], owner: 0 },
    held,
  )
  await store.layers.releaseLease(held)
}

const byKey = (entries: readonly CacheEntry[]) => new Map(entries.map((entry) => [entry.key, entry]))
const usable = async (uid: number, shape: string): Promise<boolean> =>
  (await store.cache.lookup(uid, shape, [])).some((record) => record.usable)
const evictedAt = async (uid: number, shape: string): Promise<number | undefined> =>
  (await store.cache.lookup(uid, shape, []))[0]?.evictedAt

/** What a RUN does with a cache mount. */
async function useMount(uid: number, id: string, bytes: number): Promise<string> {
  const owner = { mode: 0o755, uid: 0, gid: 0 }
  await using held = await store.cacheMounts.acquire(
    uid,
    [{ id, variant: '', sharing: 'shared', ...owner }],
    never,
  )
  const [mount] = held.mounts
  if (mount === undefined) throw new Error('no mount')
  mount.seeded()
  await writeFile(join(mount.path, 'content'), Buffer.alloc(bytes, 1))
  return mount.path
}

describe.skipIf(getuid?.() !== 0)('what the build cache has on the disk (needs root)', () => {
  test('is listed with whose it is, its room and its last use, images and leases left out', async () => {
    const shared = await cached('shared', 5, 7)
    const orphan = await cached('orphan')
    const ofImage = await cached('of an image', 5)
    await imageOf(ofImage)
    const held = await lease()
    await store.layers.hold([(await cached('held', 5)).id], held)
    now += 3 * hour
    await store.cache.lookup(7, 'shared', [])
    const entries = byKey(await store.buildCache.entries())
    expect([...entries.keys()].sort()).toEqual([shared.id, orphan.id].sort())
    expect(entries.get(shared.id)).toMatchObject({ kind: 'layer', owners: [5, 7] })
    expect(entries.get(orphan.id)).toMatchObject({ owners: [], usedAt: now - 3 * hour })
    expect(entries.get(orphan.id)?.bytes).toBeGreaterThan(4096)
    // The hit was written down meanwhile.
    const later = byKey(await store.buildCache.entries())
    expect(later.get(shared.id)?.usedAt).toBe(now)
  })

  test('is measured once, also for the next daemon', async () => {
    const layer = await cached('measured', 5)
    const [first] = await store.buildCache.entries()
    rmSync(join(roots.dataRoot, 'layers', layer.id, 'diff', 'content'))
    expect((await store.buildCache.entries())[0]?.bytes).toBe(first?.bytes)
    await store.close()
    store = await open()
    expect((await store.buildCache.entries())[0]?.bytes).toBe(first?.bytes)
  })

  test('goes with its records, which then tell when', async () => {
    const layer = await cached('gone', 5)
    const entries = await store.buildCache.entries()
    now += 5
    expect(await store.buildCache.remove(entries, everybody)).toEqual(entries)
    await store.settle()
    expect(existsSync(join(roots.dataRoot, 'layers', layer.id))).toBe(false)
    expect(await usable(5, 'gone')).toBe(false)
    expect(await evictedAt(5, 'gone')).toBe(now)
    expect(await store.check()).toEqual([])
  })

  test('stays when somebody came to hold it since it was listed', async () => {
    const [held, ofImage] = [await cached('held', 5), await cached('of an image', 5)]
    const loose = await cached('loose', 5)
    const entries = await store.buildCache.entries()
    await store.layers.hold([held.id], await lease())
    await imageOf(ofImage)
    const gone = await store.buildCache.remove(entries, everybody)
    expect(gone.map(({ key }) => key)).toEqual([loose.id])
    expect(await usable(5, 'held')).toBe(true)
    expect(await store.check()).toEqual([])
  })

  test('is removed by a user only where it is his alone', async () => {
    const [own, shared, other, orphan] = [
      await cached('own', 5),
      await cached('shared', 5, 7),
      await cached('other', 7),
      await cached('orphan'),
    ]
    const entries = await store.buildCache.entries()
    const gone = await store.buildCache.remove(entries, { kind: 'user', uid: 5 })
    expect(gone.map(({ key }) => key)).toEqual([own.id])
    const left = byKey(await store.buildCache.entries())
    expect([...left.keys()].sort()).toEqual([shared.id, other.id, orphan.id].sort())
  })

  test('has records without room of their own, which each user forgets for himself', async () => {
    const ofImage = await cached('of an image', 5, 7)
    await imageOf(ofImage)
    await store.cache.store(5, cacheRecord('nothing', null))
    await cached('shared', 5, 7)
    await cached('own', 5)
    const held = await cached('held', 5)
    await imageOf(held)
    await store.layers.hold([held.id], await lease())
    const user = { kind: 'user', uid: 5 } as const
    expect(await store.buildCache.forget(user, now, false)).toBe(0)
    now += hour
    expect(await store.buildCache.forget(user, now, true)).toBe(3)
    expect(await store.buildCache.forget(user, now, false)).toBe(3)
    const left = ['of an image', 'nothing', 'shared', 'own', 'held']
    expect(await Promise.all(left.map((shape) => usable(5, shape)))).toEqual([
      ...[false, false, false, true, true],
    ])
    expect(await evictedAt(5, 'nothing')).toBe(now)
    expect(await usable(7, 'of an image')).toBe(true)
    // Now that nobody else remembers it, the layer is one user's alone.
    expect(await store.buildCache.forget(everybody, always, false)).toBe(1)
    expect(await usable(7, 'shared')).toBe(true)
    expect(await store.check()).toEqual([])
  })

  test('has cache mounts under the IDs of the Dockerfile, measured again after each use', async () => {
    const path = await useMount(5, '/root/.cache', 1 << 20)
    const mount = async () => (await store.buildCache.entries())[0]
    expect(await mount()).toMatchObject({ kind: 'mount', name: '/root/.cache', owners: [5], usedAt: now })
    const { bytes = 0 } = (await mount()) ?? {}
    expect(bytes).toBeGreaterThanOrEqual(1 << 20)
    expect(bytes).toBeLessThan((1 << 20) + 20_000)
    now += hour
    await useMount(5, '/root/.cache', 2 << 20)
    now += 1
    expect(await mount()).toMatchObject({ usedAt: now - 1 })
    expect((await mount())?.bytes).toBeGreaterThanOrEqual(2 << 20)
    // Without a use between, it is not looked at.
    await writeFile(join(path, 'more'), Buffer.alloc(1 << 20, 1))
    now += 1
    const again = await mount()
    expect(again?.bytes).toBeLessThan((2 << 20) + 20_000)
  })

  test('has cache mounts that an earlier daemon, or a lost database, told nothing of', async () => {
    const name = 'ab'.repeat(32)
    const directory = join(roots.dataRoot, 'cache-mounts', '7', name)
    await mkdir(directory, { recursive: true })
    await writeFile(join(directory, 'x'), 'x')
    const entries = await store.buildCache.entries()
    expect(entries).toMatchObject([{ kind: 'mount', key: `7/${name}`, name, owners: [7] }])
    expect(await store.buildCache.remove(entries, { kind: 'user', uid: 5 })).toEqual([])
    expect(await store.buildCache.remove(entries, { kind: 'user', uid: 7 })).toEqual(entries)
    expect(readdirSync(join(roots.dataRoot, 'cache-mounts', '7'))).toEqual([])
    expect(await store.buildCache.entries()).toEqual([])
  })

  test('keeps a cache mount that a RUN has or waits for', async () => {
    const owner = { mode: 0o755, uid: 0, gid: 0 }
    await useMount(5, 'busy', 1)
    const entries = await store.buildCache.entries()
    {
      await using held = await store.cacheMounts.acquire(
        5,
        [{ id: 'busy', variant: '', sharing: 'shared', ...owner }],
        never,
      )
      expect(held.mounts).toHaveLength(1)
      expect(await store.buildCache.entries()).toEqual([])
      expect(await store.buildCache.remove(entries, everybody)).toEqual([])
    }
    expect(await store.buildCache.remove(entries, everybody)).toEqual(entries)
  })
})
