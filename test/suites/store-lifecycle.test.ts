import { spawn } from 'node:child_process'
import {
  chmod,
  cp,
  type FileHandle,
  lstat,
  mkdir,
  open as openFile,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  symlink,
  truncate,
  unlink,
  writeFile,
} from 'node:fs/promises'
import { basename, join } from 'node:path'
import { getuid } from 'node:process'
import Database from 'better-sqlite3'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { ImageRecord } from '../../packages/builder-daemon/src/ports/image-store.js'
import type { LayerRecord } from '../../packages/builder-daemon/src/ports/layer-store.js'
import { leaveCleanMark } from '../../packages/builder-daemon/src/storage/clean-mark.js'
import { layoutOf } from '../../packages/builder-daemon/src/storage/layout.js'
import type { Store, StoreOptions } from '../../packages/builder-daemon/src/storage/store.js'
import { bundleEntry, databaseWorkerEntry } from '../support/bundled-worker.js'
import { cacheRecord } from '../support/cache-record.js'
import {
  collectingLogger,
  configBytes,
  diffIdOf,
  makeRoots,
  type OpenOptions,
  openAt,
  pruneStore,
  publishContent,
  type Roots,
  verifyContent,
} from '../support/temporary-store.js'

let worker: URL
let roots: Roots
let opened: Store[]

beforeAll(async () => {
  worker = await bundleEntry(databaseWorkerEntry)
})
beforeEach(async () => {
  roots = await makeRoots()
  opened = []
})
afterEach(async () => {
  for (const store of opened) await store.close()
  await roots.remove()
})

async function open(options: OpenOptions = {}): Promise<Store> {
  const store = await openAt(roots, worker, options)
  opened.push(store)
  return store
}

const at = (...parts: string[]) => join(roots.dataRoot, ...parts)

async function putImage(store: Store, contents: readonly string[], names: readonly string[]) {
  const lease = await store.layers.acquireLease({ uid: 0, purpose: 'build t' })
  const layers: LayerRecord[] = []
  for (const content of contents) layers.push(await publishContent(store, lease, content))
  const image = await store.images.put(
    { configBytes: configBytes(layers, names.join()), layers: layers.map((l) => l.id), names, owner: 0 },
    lease,
  )
  await store.layers.releaseLease(lease)
  return image
}

/** As after a power cut before the background flush: every layer is unflushed. */
function forgetFlushes(): void {
  const db = new Database(at('db/store.sqlite'))
  db.exec('UPDATE layers SET synced = 0')
  db.close()
}

describe.skipIf(getuid?.() !== 0)('the store (needs root)', () => {
  test('finds everything again after it was closed', async () => {
    const first = await open()
    const image = await putImage(first, ['a', 'b'], ['x:1', 'y:1'])
    await first.close()
    const second = await open()
    expect(second.recovery).toMatchObject({ epoch: 2, suspects: 0, swept: 0 })
    expect(await second.upkeep()).toEqual({ damaged: 0, swept: 0, mended: 0 })
    expect(await second.images.get('x:1')).toEqual(image)
    expect(await second.check()).toEqual([])
  })

  test('creates the data root for root only', async () => {
    await open()
    for (const path of ['', 'db', 'layers', 'l', 'staging', 'trash', 'blobs']) {
      expect((await lstat(at(path))).mode & 0o777).toBe(0o700)
    }
  })

  test('lets one daemon in only, and names the other one', async () => {
    const first = await open({ pid: 4242 })
    await expect(open()).rejects.toMatchObject({
      code: 'ISB_ALREADY_EXISTS',
      message: `lock ${at('lock')} failed, check if there is another daemon running (pid 4242)`,
    })
    const other = await makeRoots()
    try {
      const sharedRun = openAt({ ...other, runRoot: roots.runRoot }, worker)
      await expect(sharedRun).rejects.toThrow(`lock ${roots.runRoot}/isula-builder.lock failed`)
      expect(await readdir(other.dataRoot)).toEqual(['lock'])
    } finally {
      await other.remove()
    }
    expect(await first.check()).toEqual([])
  })

  test('refuses a data root on tmpfs without touching it', async () => {
    const dataRoot = '/dev/shm/isula-refused/data'
    await expect(open({ dataRoot })).rejects.toMatchObject({ code: 'ISB_CONFIG_INVALID' })
    await expect(lstat('/dev/shm/isula-refused')).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('refuses what a newer version wrote, and leaves it alone', async () => {
    await (await open()).close()
    await writeFile(at('layout-version'), '2\n')
    await expect(open()).rejects.toMatchObject({ code: 'ISB_UNSUPPORTED' })
    await writeFile(at('layout-version'), '1\n')
    const db = new Database(at('db/store.sqlite'))
    db.pragma('user_version = 99')
    db.close()
    await expect(open()).rejects.toMatchObject({ code: 'ISB_UNSUPPORTED' })
    expect(await readdir(at('db'))).not.toContain('damaged-1')
  })

  test('sweeps what no row knows', async () => {
    const first = await open()
    const image = await putImage(first, ['a'], ['x:1'])
    await first.close()
    const stray = 'e'.repeat(32)
    await mkdir(at('layers', stray, 'diff'), { recursive: true })
    await writeFile(at('layers', stray, 'diff', 'f'), 'x')
    await symlink(`../layers/${stray}/diff`, at('l/strayxyz'))
    await mkdir(at('staging/abc/upper'), { recursive: true })
    await writeFile(at('blobs/partial.tmp'), 'x')
    await mkdir(at('trash/old'))
    const second = await open()
    expect(second.recovery.swept).toBe(1)
    expect(await second.upkeep()).toEqual({ damaged: 0, swept: 3, mended: 0 })
    await second.settle()
    expect(await second.check()).toEqual([])
    expect(await readdir(at('trash'))).toEqual([])
    expect(await readdir(at('layers'))).toEqual([image.layers[0]?.id])
  })

  test('closes soon although the trash is full, and empties it after the next start', async () => {
    await (await open()).close()
    for (let index = 0; index < 20; index++) {
      await mkdir(at('trash', `old${index}`))
      for (let file = 0; file < 100; file++) await writeFile(at('trash', `old${index}`, `f${file}`), '')
    }
    const log = collectingLogger()
    await (await open({ log })).close()
    expect(log.events.filter(({ event }) => event === 'trash.not-removed')).toEqual([])
    const store = await open()
    await store.settle()
    expect(await readdir(at('trash'))).toEqual([])
  })

  test('empties the trash with a thread that gives way to all others', async () => {
    await (await open()).close()
    await mkdir(at('trash/old'))
    const yielding = async (): Promise<number> => (await niceValues()).filter((nice) => nice > 0).length
    const before = await yielding()
    await open()
    await expect.poll(yielding).toBe(before + 1)
  })

  test('makes lost links and image files again', async () => {
    const first = await open()
    const image = await putImage(first, ['a', 'b'], ['x:1'])
    await first.close()
    await rm(at('l'), { recursive: true })
    await truncate(at('blobs', image.id))
    const second = await open()
    expect(await second.upkeep()).toEqual({ damaged: 0, swept: 0, mended: 3 })
    expect(await second.check()).toEqual([])
  })

  test('reports a missing layer as damage, keeps listing the image, and heals it when it comes again', async () => {
    const first = await open()
    const image = await putImage(first, ['a', 'b'], ['x:1'])
    const other = await putImage(first, ['c'], ['z:1'])
    const lost = image.layers[0] as LayerRecord
    await first.close()
    await rm(at('layers', lost.id), { recursive: true })
    const second = await open()
    expect((await second.upkeep()).damaged).toBe(1)
    expect((await second.images.list()).map(({ id }) => id).sort()).toEqual([image.id, other.id].sort())
    expect((await second.images.get('x:1'))?.damaged).toBe(true)
    expect((await second.images.get('z:1'))?.damaged).toBe(false)
    expect((await second.check()).map(({ invariant }) => invariant).sort()).toEqual(['I1', 'I2'])

    const lease = await second.layers.acquireLease({ uid: 0, purpose: 'pull' })
    await expect(second.layers.hold([lost.id], lease)).rejects.toMatchObject({ code: 'ISB_IMAGE_DAMAGED' })
    expect(await second.layers.findByDiffId(diffIdOf('a'), '', lease, 'names')).toBeUndefined()
    const again = await publishContent(second, lease, 'a')
    const healed = await second.images.get('x:1')
    expect(healed?.damaged).toBe(false)
    expect(healed?.layers[0]).toEqual(again)
    expect(await second.check()).toEqual([])
  })

  test.each([
    ['a file', (path: string) => rm(path, { recursive: true }).then(() => writeFile(path, 'x'))],
    [
      'a link to elsewhere',
      async (path: string) => {
        await rename(path, `${path}-moved`)
        await symlink(`${path}-moved`, path)
      },
    ],
  ])('takes a layer directory that became %s for damage', async (_kind, spoil) => {
    const first = await open()
    const image = await putImage(first, ['a'], ['x:1'])
    await first.close()
    await spoil(at('layers', image.layers[0]?.id ?? ''))
    const second = await open()
    await second.upkeep()
    expect((await second.images.get('x:1'))?.damaged).toBe(true)
    expect((await second.images.remove(image.id)).removedImage).toBe(true)
    await second.settle()
    expect(await second.check()).toEqual([])
  })

  test('looks for a layer before its first use, however soon that is', async () => {
    const first = await open()
    const image = await putImage(first, ['a', 'b'], ['x:1'])
    const [lost, unlinked] = image.layers as [LayerRecord, LayerRecord]
    await first.cache.store(0, cacheRecord('k', lost.id))
    await first.close()
    await rm(at('layers', lost.id, 'diff'), { recursive: true })
    await rm(at(first.layers.shortLink(unlinked.id)))
    const second = await open({ upkeepAfterMs: 1e6 })
    const lease = await second.layers.acquireLease({ uid: 0, purpose: 'build' })
    await expect(second.layers.hold([lost.id], lease)).rejects.toMatchObject({ code: 'ISB_IMAGE_DAMAGED' })
    expect((await second.images.get('x:1'))?.damaged).toBe(true)
    expect(await second.cache.lookup(0, 'k', [])).toEqual([])
    expect(await second.layers.hold([unlinked.id], lease)).toEqual([unlinked])
    expect(await readlink(at(second.layers.shortLink(unlinked.id)))).toBe(`../layers/${unlinked.id}/diff`)
    expect(await second.upkeep()).toEqual({ damaged: 0, swept: 0, mended: 0 })
  })

  test('looks itself through while it is in use, and touches nothing of what is under way', async () => {
    await (await open()).close()
    const store = await open({ upkeepAfterMs: 1e6 })
    const looking = store.upkeep()
    const images = await Promise.all(
      Array.from({ length: 40 }, (_, index) => putImage(store, [`a${index}`, `b${index}`], [`x${index}:1`])),
    )
    await Promise.all(images.slice(0, 20).map(({ id }) => store.images.remove(id)))
    expect(await looking).toEqual({ damaged: 0, swept: 0, mended: 0 })
    await store.settle()
    expect(await store.check()).toEqual([])
  })

  test('tells of a database that went bad where nobody could see it', async () => {
    const first = await open()
    const image = await putImage(first, ['a'], ['x:1'])
    await first.close()
    const db = new Database(at('db/store.sqlite'))
    db.pragma('foreign_keys = OFF')
    db.prepare("INSERT INTO image_layers VALUES (?, 1, 'nowhere')").run(image.id)
    db.close()
    leaveCleanMark(layoutOf(roots.dataRoot))
    const log = collectingLogger()
    const second = await open({ log, upkeepAfterMs: 1e6 })
    expect(second.recovery.databaseLost).toBe(false)
    await expect(second.upkeep()).rejects.toThrow('the image database is damaged')
    expect(log.events.map(({ event }) => event)).toContain('store.database-damaged')
    await second.close()
    expect((await open()).recovery.databaseLost).toBe(true)
  })

  describe('damaged where its mark does not show it', () => {
    /** The root pages of tables, or all pages from one on, as a failing disk would. */
    async function spoil(tables: readonly string[] | number): Promise<void> {
      const path = at('db/store.sqlite')
      const bytes = await readFile(path)
      if (typeof tables === 'number') bytes.fill(0xa5, 4096 * tables)
      else for (const page of rootPages(path, tables)) bytes.fill(0xa5, 4096 * (page - 1), 4096 * page)
      await writeFile(path, bytes)
      leaveCleanMark(layoutOf(roots.dataRoot))
    }

    function rootPages(path: string, tables: readonly string[]): number[] {
      const db = new Database(path)
      const root = db.prepare<[string], number>('SELECT rootpage FROM sqlite_schema WHERE name = ?').pluck()
      const pages = tables.map((table) => root.get(table) ?? Number.NaN)
      db.close()
      return pages
    }

    async function healed(image: ImageRecord): Promise<void> {
      const store = await open()
      expect(store.recovery).toMatchObject({ databaseLost: true, rebuiltImages: 1 })
      expect(await store.images.get('x:1')).toEqual(image)
      expect(await store.check()).toEqual([])
      await store.close()
      expect((await open()).recovery.databaseLost).toBe(false)
    }

    test.each([
      ['names', ['names']],
      ['images', ['images']],
      ['the cache', ['cache_records']],
      ['images and their layers', ['images', 'image_layers']],
    ])('it is healed by the start after the look, when %s are gone', async (_what, tables) => {
      const first = await open()
      const image = await putImage(first, ['a'], ['x:1'])
      await first.close()
      await spoil(tables)
      const log = collectingLogger()
      const second = await open({ log, upkeepAfterMs: 1e6 })
      expect(second.recovery.databaseLost).toBe(false)
      await expect(second.upkeep()).rejects.toThrow('the image database is damaged')
      expect(log.events.map(({ event }) => event)).toContain('store.database-damaged')
      await second.close()
      await healed(image)
    })

    test('it is healed by the start that meets it', async () => {
      const first = await open()
      const image = await putImage(first, ['a'], ['x:1'])
      await first.close()
      await spoil(3)
      await healed(image)
    })

    test('it is healed when leases, which every start changes, are gone', async () => {
      const first = await open()
      const image = await putImage(first, ['a'], ['x:1'])
      await first.close()
      await spoil(['leases'])
      await healed(image)
    })

    test.each<[string, (store: Store) => Promise<unknown>]>([
      ['a look-up', (store) => store.images.get('x:1')],
      ['a list', (store) => store.images.list()],
      ['a write', (store) => store.images.untag('x:1')],
      ['a backup', (store) => store.backup()],
    ])('it is healed by the start after %s that met it', async (_what, meet) => {
      const first = await open()
      const image = await putImage(first, ['a'], ['x:1'])
      await first.close()
      await spoil(['names', 'names_by_image'])
      const log = collectingLogger()
      const second = await open({ log, upkeepAfterMs: 1e6 })
      await expect(meet(second)).rejects.toThrow('malformed')
      expect(log.events.filter(({ event }) => event === 'store.database-damaged')).toHaveLength(1)
      await second.close()
      await healed(image)
    })

    test('it is checked by the next start when the look could not be taken', async () => {
      const first = await open()
      await first.close()
      const second = await open({ upkeepAfterMs: 1e6 })
      await rename(at('l'), at('l-moved'))
      await expect(second.upkeep()).rejects.toThrow('ENOENT')
      await rename(at('l-moved'), at('l'))
      await second.close()
      expect(await readdir(at('db'))).not.toContain('clean')
    })

    test('it is known as sound after a daemon that only read it', async () => {
      const first = await open()
      await putImage(first, ['a'], ['x:1'])
      await first.close()
      const second = await open()
      expect(await second.images.list()).toHaveLength(1)
      await second.upkeep()
      await second.close()
      expect(await readdir(at('db'))).toContain('clean')
      const third = await open()
      expect(await third.images.list()).toHaveLength(1)
      await third.close()
    })

    test('a look that a stop ended says nothing about it', async () => {
      const first = await open()
      const image = await putImage(first, ['a'], ['x:1'])
      await first.close()
      await spoil(['names'])
      const second = await open({ upkeepAfterMs: 1e6 })
      const looking = second.upkeep()
      const closing = second.close()
      await expect(looking).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
      await closing
      expect(await readdir(at('db'))).toContain('clean')
      const third = await open({ upkeepAfterMs: 1e6 })
      await expect(third.upkeep()).rejects.toThrow('the image database is damaged')
      await third.close()
      await healed(image)
    })
  })

  test('flushes what an unflushed layer cannot be verified without, and nothing that only saves time', async () => {
    const store = await open()
    const lease = await store.layers.acquireLease({ uid: 0, purpose: 'build' })
    const staging = await store.layers.stage(lease)
    await writeFile(join(staging.upper, 'content'), 'a')
    for (const name of ['headers.gz', 'sources', 'marks']) await writeFile(join(staging.root, name), name)
    const flushed: string[] = []
    await using some = await openFile('/dev/null')
    const handles = Object.getPrototypeOf(some) as FileHandle
    const { sync } = handles
    vi.spyOn(handles, 'sync').mockImplementation(async function (this: FileHandle) {
      flushed.push(basename(await readlink(`/proc/self/fd/${this.fd}`)))
      await sync.call(this)
    })
    try {
      const sealed = { diffId: diffIdOf('a'), tarSize: 1, keepsHeaders: true, parentKey: null }
      const { id } = await store.layers.publish(staging, sealed, lease)
      expect(flushed).toContain('headers.gz')
      expect(flushed).not.toContain('sources')
      expect(flushed).not.toContain('marks')
      for (const name of ['sources', 'marks'])
        expect(await readFile(join(store.layers.directory(id), name), 'utf8')).toBe(name)
    } finally {
      vi.restoreAllMocks()
    }
  })

  test('verifies an unflushed layer once before its first use, not before', async () => {
    const first = await open()
    const image = await putImage(first, ['a', 'b'], ['x:1'])
    await first.close()
    forgetFlushes()
    const verified: string[] = []
    const options: Partial<StoreOptions> = {
      verify: async (directory, headers, expected) => {
        verified.push(expected)
        return verifyContent(directory, headers, expected)
      },
    }
    const second = await open(options)
    expect(second.recovery.suspects).toBe(2)
    await second.images.list()
    await second.images.resolve('x')
    expect(verified).toEqual([])
    const lease = await second.layers.acquireLease({ uid: 0, purpose: 'build' })
    const ids = image.layers.map((layer) => layer.id)
    await Promise.all([second.layers.hold(ids, lease), second.layers.hold(ids, lease)])
    expect(verified.sort()).toEqual([diffIdOf('a'), diffIdOf('b')].sort())
    await second.layers.hold(ids, lease)
    expect(verified).toHaveLength(2)
    await second.close()
    expect((await open(options)).recovery.suspects).toBe(0)
  })

  test('never gives out an unflushed layer whose content is not what it was', async () => {
    const first = await open()
    const image = await putImage(first, ['a', 'b'], ['x:1'])
    const [bottom, top] = image.layers as [LayerRecord, LayerRecord]
    await first.close()
    forgetFlushes()
    await writeFile(at('layers', bottom.id, 'diff/content'), '')
    await unlink(at('layers', top.id, 'diff/content'))
    const second = await open()
    const lease = await second.layers.acquireLease({ uid: 0, purpose: 'build' })
    await expect(second.layers.hold([bottom.id], lease)).rejects.toMatchObject({ code: 'ISB_IMAGE_DAMAGED' })
    expect(await second.layers.findByDiffId(diffIdOf('b'), '', lease, 'names')).toBeUndefined()
    expect((await second.images.get('x:1'))?.damaged).toBe(true)
  })

  test('does not condemn a layer that could not be looked at', async () => {
    const first = await open()
    const image = await putImage(first, ['a'], ['x:1'])
    const layer = image.layers[0] as LayerRecord
    await first.close()
    forgetFlushes()
    let fails = true
    const second = await open({
      verify: async (directory, headers, expected) => {
        if (fails) throw new Error('the worker died')
        return verifyContent(directory, headers, expected)
      },
    })
    const lease = await second.layers.acquireLease({ uid: 0, purpose: 'build' })
    await expect(second.layers.hold([layer.id], lease)).rejects.toThrow('the worker died')
    fails = false
    expect(await second.layers.hold([layer.id], lease)).toEqual([layer])
  })

  test('drops an unflushed layer without a diff ID', async () => {
    const first = await open({ flushDelayMs: 1e6 })
    const lease = await first.layers.acquireLease({ uid: 0, purpose: 'build' })
    const layer = await publishContent(first, lease, 'a', { diffId: null, tarSize: null })
    await first.cache.store(0, cacheRecord('k', layer.id))
    await first.close()
    forgetFlushes()
    const second = await open()
    const next = await second.layers.acquireLease({ uid: 0, purpose: 'build' })
    await expect(second.layers.hold([layer.id], next)).rejects.toMatchObject({ code: 'ISB_IMAGE_DAMAGED' })
    expect(await second.cache.lookup(0, 'k', [])).toEqual([])
  })

  test('collects what nobody uses only after its grace, and what is cached only when it is old', async () => {
    let now = 1_000_000_000_000
    const hour = 3_600_000
    const limits = { graceMs: hour, cacheMs: 48 * hour }
    const store = await open({ clock: { now: () => now }, limits })
    const lease = await store.layers.acquireLease({ uid: 0, purpose: 'build' })
    const [loose, cached, held] = [
      await publishContent(store, lease, 'loose'),
      await publishContent(store, lease, 'cached'),
      await publishContent(store, lease, 'held'),
    ]
    const image = await putImage(store, ['of an image'], ['x:1'])
    await store.cache.store(3, cacheRecord('k', cached.id))
    const other = await store.layers.acquireLease({ uid: 0, purpose: 'build' })
    await store.layers.hold([held.id], other)
    expect((await store.collect()).layers).toBe(0)
    await store.layers.releaseLease(lease)
    expect((await store.collect()).layers).toBe(0)
    now += hour
    expect(await store.collect()).toMatchObject({ layers: 1, bytes: 5 })
    await expect(store.layers.hold([loose.id], other)).rejects.toMatchObject({ code: 'ISB_IMAGE_DAMAGED' })
    now += 46 * hour
    expect(await store.cache.lookup(3, 'k', [])).toHaveLength(1)
    await store.settle()
    now += 3 * hour
    expect((await store.collect()).layers).toBe(0)
    now += 48 * hour
    expect(await store.collect()).toMatchObject({ layers: 1, cacheRecords: 1 })
    expect(await pruneStore(store)).toMatchObject({ layers: 0 })
    await store.layers.releaseLease(other)
    expect(await pruneStore(store)).toMatchObject({ layers: 1 })
    await store.settle()
    expect(await readdir(at('layers'))).toEqual([image.layers[0]?.id])
    expect(await store.check()).toEqual([])
  })

  test('lets a clock that was set back make nothing immortal', async () => {
    let now = 2_000_000_000_000
    const store = await open({ clock: { now: () => now }, limits: { graceMs: 10, cacheMs: 10 } })
    const lease = await store.layers.acquireLease({ uid: 0, purpose: 'build' })
    await publishContent(store, lease, 'a')
    await store.layers.releaseLease(lease)
    now = 1_000_000_000_000
    expect((await store.collect()).layers).toBe(0)
    now += 11
    expect((await store.collect()).layers).toBe(1)
  })

  test('removes nameless images but those in use, of one owner or of all', async () => {
    const store = await open()
    const named = await putImage(store, ['a'], ['x:1'])
    const first = await putImage(store, ['b'], ['y:1'])
    const second = await putImage(store, ['c'], ['y:2'])
    await store.images.untag('y:1')
    await store.images.untag('y:2')
    const lease = await store.layers.acquireLease({ uid: 0, purpose: 'push' })
    await store.images.resolve(second.id, lease)
    expect(await store.images.removeUnnamed(99)).toEqual([])
    expect((await store.images.removeUnnamed()).map(({ imageId }) => imageId)).toEqual([first.id])
    await store.layers.releaseLease(lease)
    expect((await store.images.removeUnnamed(0)).map(({ imageId }) => imageId)).toEqual([second.id])
    expect((await store.images.list()).map(({ id }) => id)).toEqual([named.id])
  })

  test('finishes a removal that was cut short', async () => {
    const first = await open()
    const image = await putImage(first, ['a', 'b'], ['x:1'])
    await first.close()
    const db = new Database(at('db/store.sqlite'))
    db.pragma('foreign_keys = ON')
    db.prepare('DELETE FROM images WHERE id = ?').run(image.id)
    db.exec("UPDATE layers SET state = 'deleting'")
    db.close()
    const second = await open()
    await second.settle()
    expect(await readdir(at('layers'))).toEqual([])
    expect((await second.usage()).layers).toBe(0)
    expect(await second.check()).toEqual([])
  })

  test.each([
    ['empty', (path: string) => truncate(path)],
    ['garbage', (path: string) => writeFile(path, Buffer.alloc(65536, 0x5a))],
    ['gone', (path: string) => unlink(path)],
    [
      'damaged in the middle',
      async (path: string) => {
        const bytes = await readFile(path)
        bytes.fill(0xa5, 4096 * 3, bytes.length)
        await writeFile(path, bytes)
      },
    ],
  ])('rebuilds images, layers and names when the database is %s', async (_kind, spoil) => {
    const first = await open()
    const image = await putImage(first, ['a', 'b'], ['x:1', 'x:2'])
    const bare = await putImage(first, [], ['bare:1'])
    await first.close()
    await spoil(at('db/store.sqlite'))
    const log = collectingLogger()
    const second = await open({ log })
    expect(second.recovery).toMatchObject({
      databaseLost: true,
      rebuiltLayers: 2,
      rebuiltImages: 2,
      suspects: 2,
    })
    expect(log.events.map(({ event }) => event)).toContain('store.database-lost')
    expect(await second.images.get('x:2')).toEqual(image)
    expect(await second.images.get('bare:1')).toEqual(bare)
    expect(await second.check()).toEqual([])
    const lease = await second.layers.acquireLease({ uid: 0, purpose: 'build' })
    expect(
      await second.layers.hold(
        image.layers.map((l) => l.id),
        lease,
      ),
    ).toEqual(image.layers)
  })

  test('restores the newest sound backup and adds what came after it', async () => {
    const first = await open()
    const before = await putImage(first, ['a'], ['x:1'])
    expect(await first.backup()).toBe(1)
    await first.images.tag(before.id, 'late:1')
    expect(await first.backup()).toBe(2)
    const after = await putImage(first, ['b'], ['y:1'])
    await first.backup()
    await first.close()
    await writeFile(at('db/backup/3.sqlite'), 'not a database at all')
    await writeFile(at('db/store.sqlite'), 'nor is this')
    const second = await open()
    expect(second.recovery).toMatchObject({ databaseLost: true, restoredBackup: 2, rebuiltImages: 1 })
    expect((await second.images.get('late:1'))?.id).toBe(before.id)
    expect(await second.images.get('y:1')).toEqual(after)
    expect(await readFile(at('db/damaged-1/store.sqlite'), 'utf8')).toBe('nor is this')
    expect(await second.check()).toEqual([])
  })

  test('takes up the replacement of a lost database that was itself cut short', async () => {
    const first = await open()
    const image = await putImage(first, ['a'], ['x:1'])
    await first.close()
    // As if killed after the new database was made and before anything was put into it.
    await rm(at('db/store.sqlite'))
    await writeFile(at('db/lost'), '')
    const keep = at('keep')
    await cp(at('layers'), join(keep, 'layers'), { recursive: true })
    const empty = await makeRoots()
    await (await openAt(empty, worker)).close()
    await cp(join(empty.dataRoot, 'db/store.sqlite'), at('db/store.sqlite'))
    await empty.remove()
    const second = await open()
    expect(second.recovery).toMatchObject({ databaseLost: true, rebuiltImages: 1 })
    expect((await second.images.get('x:1'))?.id).toBe(image.id)
    await second.close()
    expect((await open()).recovery.databaseLost).toBe(false)
  })

  test('sees damage while it is in use', async () => {
    const store = await open()
    const image = await putImage(store, ['a', 'b', 'c'], ['x:1'])
    const [a, b, c] = image.layers as [LayerRecord, LayerRecord, LayerRecord]
    await rm(at('layers', a.id, 'diff'), { recursive: true })
    await writeFile(at('layers', b.id, 'meta.json'), '{}')
    await rm(at(store.layers.shortLink(c.id)))
    await writeFile(at('blobs', image.id), 'x')
    await mkdir(at('layers/stray'))
    const found = await store.check()
    expect(found.map(({ invariant, subject }) => `${invariant} ${subject}`).sort()).toEqual(
      [`I1 ${a.id}`, `I1 ${b.id}`, `I1 ${c.id}`, `I2 ${image.id}`, `I4 ${at('layers/stray')}`].sort(),
    )
  })

  test('stays sound under callers that do everything at once while it is checked', async () => {
    const store = await open()
    const outcomes: unknown[] = []
    const caller = async (number: number) => {
      for (let round = 0; round < 6; round++) {
        const image = await putImage(
          store,
          [`${number}`, `r${round}`, `${number}-${round}`],
          [`c${number}:${round}`],
        )
        await store.images.tag(image.id, 'shared:1')
        if (round % 2 === 0) await store.images.remove(image.id).catch((error) => outcomes.push(error.code))
        await pruneStore(store)
        outcomes.push(...(await store.check()))
      }
    }
    await Promise.all([1, 2, 3, 4].map(caller))
    await store.settle()
    expect(outcomes.filter((outcome) => outcome !== 'ISB_IMAGE_IN_USE')).toEqual([])
    expect(await store.check()).toEqual([])
    expect(await readdir(at('trash'))).toEqual([])
  })

  test('lists 10,000 images without stopping the thread', { timeout: 60_000 }, async () => {
    const first = await open()
    await first.close()
    const db = new Database(at('db/store.sqlite'))
    const config = Buffer.alloc(3000, 0x20)
    db.transaction(() => {
      for (let index = 0; index < 10_000; index++) {
        const id = index.toString(16).padStart(64, '0')
        db.prepare('INSERT INTO images VALUES (?, ?, ?, 1, 0, ?)').run(id, index, index, config)
        db.prepare('INSERT INTO names (name, image_id) VALUES (?, ?)').run(`n${index}:1`, id)
      }
    })()
    db.close()
    const second = await open()
    let longest = 0
    let last = performance.now()
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last)
      last = performance.now()
    }, 0)
    const before = await second.images.list()
    expect(await second.images.list()).toBe(before)
    const times: number[] = []
    const pauses: number[] = []
    for (const index of [0, 1, 2]) {
      await second.images.untag(`n${index}:1`)
      longest = 0
      const began = performance.now()
      const listed = await second.images.list()
      times.push(performance.now() - began)
      pauses.push(longest)
      expect(listed).toHaveLength(10_000)
      expect(listed[0]?.names).toEqual(['n9999:1'])
      expect(listed.at(-1 - index)?.names).toEqual([])
    }
    clearInterval(timer)
    // A busy machine only ever adds to it; 20 ms and 3 ms are usual.
    expect(Math.min(...times)).toBeLessThan(1000)
    expect(Math.min(...pauses)).toBeLessThan(100)
    console.info(
      `listing 10,000 images: ${times.map(Math.round)} ms, longest pauses ${pauses.map(Math.round)} ms`,
    )
  })

  test('opens within two seconds with 1,000 layers', { timeout: 120_000 }, async () => {
    // A backup, due after a number of commits, would bring back the layers published until then.
    const backups = { commits: 1e6, maxAgeMs: 1e6, minGapMs: 0, keep: 1 }
    const first = await open({ flushDelayMs: 1e6, backups })
    const lease = await first.layers.acquireLease({ uid: 0, purpose: 'build' })
    for (let batch = 0; batch < 10; batch++) {
      await Promise.all(
        Array.from({ length: 100 }, (_, index) => publishContent(first, lease, `layer ${batch}-${index}`)),
      )
    }
    await first.close()
    const second = await open()
    console.info(`opening with 1,000 layers: ${second.recovery.ms} ms`)
    expect((await second.usage()).layers).toBe(1000)
    expect(second.recovery.ms).toBeLessThan(2000)
    await second.close()
    await rm(at('db/store.sqlite'))
    const third = await open()
    console.info(`rebuilding 1,000 layers: ${third.recovery.ms} ms`)
    expect(third.recovery.rebuiltLayers).toBe(1000)
    expect(third.recovery.ms).toBeLessThan(2000)
  })

  test('gives the locks up when the process is killed', async () => {
    const script = `
      import { open } from 'node:fs/promises'
      import { spawnSync } from 'node:child_process'
      console.log('held'); setInterval(() => {}, 1000)`
    await mkdir(roots.dataRoot, { recursive: true })
    const holder = spawn('flock', [at('lock'), process.execPath, '--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    })
    try {
      await new Promise((resolve) => holder.stdout?.once('data', resolve))
      await expect(open()).rejects.toMatchObject({ code: 'ISB_ALREADY_EXISTS' })
    } finally {
      const ended = new Promise((resolve) => holder.once('close', resolve))
      process.kill(-(holder.pid ?? 0), 'SIGKILL')
      await ended
    }
    await chmod(roots.dataRoot, 0o755)
    const store = await open()
    expect(await store.check()).toEqual([])
    expect((await lstat(roots.dataRoot)).mode & 0o777).toBe(0o700)
  })
})

/** Of every thread of this process (proc(5), field 19 of stat). */
async function niceValues(): Promise<number[]> {
  const threads = await readdir('/proc/self/task')
  const stats = await Promise.all(
    threads.map((id) => readFile(`/proc/self/task/${id}/stat`, 'utf8').catch(() => '')),
  )
  return stats.filter((stat) => stat !== '').map((stat) => Number(stat.replace(/^.*\) /, '').split(' ')[16]))
}
