import { execFileSync, spawn } from 'node:child_process'
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execPath, getuid } from 'node:process'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { LayerRecord } from '../../packages/builder-daemon/src/ports/layer-store.js'
import type { Store } from '../../packages/builder-daemon/src/storage/store.js'
import { bundleEntry, databaseWorkerEntry } from '../support/bundled-worker.js'
import { canMountLoop, type LoopImage, mountLoopImage } from '../support/loop-image.js'
import type { VictimLine } from '../support/store-victim.js'
import {
  collectingLogger,
  configBytes,
  makeRoots,
  openAt,
  publishContent,
  type Roots,
  verifyContent,
} from '../support/temporary-store.js'

const isRoot = getuid?.() === 0
let worker: URL
let victim: URL
const cleanups: (() => void | Promise<void>)[] = []

beforeAll(async () => {
  worker = await bundleEntry(databaseWorkerEntry)
  victim = await bundleEntry('test/support/store-victim.ts')
})
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

function onDisk(image: LoopImage, run: Roots): Roots {
  return {
    dataRoot: join(image.mountPoint, 'data'),
    runRoot: run.runRoot,
    remove: () => Promise.resolve(),
  }
}

async function putImage(store: Store, label: string, content = `content of ${label}`) {
  const lease = await store.layers.acquireLease({ uid: 0, purpose: 'build t' })
  try {
    const layer: LayerRecord = await publishContent(store, lease, content)
    return await store.images.put(
      { configBytes: configBytes([layer], label), layers: [layer.id], names: [`${label}:1`], owner: 0 },
      lease,
    )
  } finally {
    await store.layers.releaseLease(lease)
  }
}

describe.skipIf(!isRoot || !canMountLoop())(
  'the store on a disk of its own (needs root and loop devices)',
  () => {
    async function setUp(mebibytes: number): Promise<{ image: LoopImage; roots: Roots }> {
      const image = mountLoopImage(mebibytes)
      cleanups.push(() => image.remove())
      const run = await makeRoots()
      cleanups.push(() => run.remove())
      return { image, roots: onDisk(image, run) }
    }

    test.each(['verified', 'strict'] as const)(
      'is never silently wrong after a power cut when it is %s',
      async (durability) => {
        const { image, roots } = await setUp(64)
        // Flushes come later than the cut, so that layers are recorded and their files are not on the disk.
        const store = await openAt(roots, worker, { durability, flushDelayMs: 1e6 })
        const first = await putImage(store, 'first', 'x'.repeat(100_000))
        const second = await putImage(store, 'second', 'y'.repeat(100_000))
        image.snapshot()
        await store.close()
        image.cutPower()

        const verified: string[] = []
        const again = await openAt(roots, worker, {
          durability,
          verify: (directory, headers, expected) => {
            verified.push(expected)
            return verifyContent(directory, headers, expected)
          },
        })
        cleanups.push(() => again.close())
        expect(again.recovery.databaseLost).toBe(false)
        expect((await again.images.list()).map(({ id }) => id).sort()).toEqual([first.id, second.id].sort())
        for (const stored of [first, second]) {
          const layer = stored.layers[0] as LayerRecord
          const lease = await again.layers.acquireLease({ uid: 0, purpose: 'look' })
          const held = again.layers.hold([layer.id], lease)
          if (durability === 'strict') {
            await held
            const content = await readFile(join(again.layers.directory(layer.id), 'diff/content'), 'utf8')
            expect(content).toBe((stored === first ? 'x' : 'y').repeat(100_000))
            continue
          }
          await expect(held).rejects.toMatchObject({ code: 'ISB_IMAGE_DAMAGED' })
          await again.layers.releaseLease(lease)
          expect((await again.images.get(stored.id))?.damaged).toBe(true)
        }
        if (durability === 'strict') {
          expect(verified).toEqual([])
          // Configs are in the database; what lies beside it, for the day it is lost, is mended after the start.
          await again.settle()
          expect(await again.check()).toEqual([])
          return
        }
        await putImage(again, 'first', 'x'.repeat(100_000))
        await putImage(again, 'second', 'y'.repeat(100_000))
        expect((await again.images.get(first.id))?.damaged).toBe(false)
        await again.settle()
        expect(await again.check()).toEqual([])
      },
    )

    test('loses nothing on a full disk, says so, and still removes images', async () => {
      const { image, roots } = await setUp(40)
      const log = collectingLogger()
      const store = await openAt(roots, worker, { log })
      cleanups.push(() => store.close())
      const kept = [await putImage(store, 'a'), await putImage(store, 'b')]
      const filler = join(image.mountPoint, 'filler')
      fill(filler)
      let refused = 0
      for (let index = 0; index < 40 && refused < 3; index++) {
        await putImage(store, `n${index}`, 'z'.repeat(20_000)).then(
          (stored) => kept.push(stored),
          (error) => {
            expect(error).toMatchObject({ code: 'ISB_NO_SPACE' })
            refused++
          },
        )
      }
      expect(refused).toBe(3)
      fill(filler)
      expect((await store.images.list()).map(({ id }) => id).sort()).toEqual(kept.map(({ id }) => id).sort())
      const goner = kept.shift()
      expect((await store.images.remove(goner?.id ?? '')).removedImage).toBe(true)
      rmSync(filler)
      await store.settle()
      kept.push(await putImage(store, 'after'))
      expect((await store.images.list()).map(({ id }) => id).sort()).toEqual(kept.map(({ id }) => id).sort())
      await store.settle()
      expect(await store.check()).toEqual([])
    })

    test('opens on a full disk', async () => {
      const { image, roots } = await setUp(40)
      const store = await openAt(roots, worker)
      const stored = await putImage(store, 'a')
      await store.close()
      await writeFile(join(roots.dataRoot, 'staging', 'stray'), 'x')
      fill(join(image.mountPoint, 'filler'))
      const again = await openAt(roots, worker)
      cleanups.push(() => again.close())
      expect((await again.images.get('a:1'))?.id).toBe(stored.id)
      await again.images.remove(stored.id)
      expect(await again.images.list()).toEqual([])
    })
  },
)

/** Takes every free block. */
function fill(path: string): void {
  const fd = openSync(path, 'a')
  try {
    for (const size of [1024 * 1024, 4096, 512]) {
      try {
        for (;;) writeSync(fd, Buffer.alloc(size, 1))
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error
      }
    }
  } finally {
    closeSync(fd)
  }
  execFileSync('sync', ['-f', path])
}

function canTrace(): boolean {
  try {
    execFileSync('strace', ['-qq', '-e', 'trace=none', 'true'])
    return true
  } catch {
    return false
  }
}

describe.skipIf(!isRoot || !canTrace())('the store on a failing disk (needs root and strace)', () => {
  /** Six puts with some system calls made to fail; every thread has its own count of calls. */
  async function runUnder(
    strace: readonly string[],
    durability: string,
    roots: Roots,
  ): Promise<VictimLine[]> {
    const store = [roots.dataRoot, roots.runRoot, worker.href, '5', 'put', '6', durability, '1000000']
    const child = spawn(
      'strace',
      ['-f', '-qq', '-o', '/dev/null', ...strace].concat(execPath, fileURLToPath(victim)).concat(store),
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (part: string) => {
      text += part
    })
    await new Promise((resolve) => child.once('close', resolve))
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as VictimLine)
  }

  async function openRoots(): Promise<Roots> {
    const roots = await makeRoots()
    cleanups.push(() => roots.remove())
    return roots
  }

  test('takes layers for damaged when the background flush fails', async () => {
    const roots = await openRoots()
    const lines = await runUnder(['-e', 'inject=syncfs:error=EIO'], 'verified', roots)
    expect(lines.at(-1)).toEqual({ at: 'end' })
    const store = await openAt(roots, worker)
    cleanups.push(() => store.close())
    const listed = await store.images.list()
    expect(listed.length).toBeGreaterThan(0)
    for (const { id } of listed) {
      const image = await store.images.get(id)
      const ids = image?.layers.map((layer) => layer.id) ?? []
      const lease = await store.layers.acquireLease({ uid: 0, purpose: 'look' })
      expect(image?.damaged).toBe(true)
      await expect(store.layers.hold(ids, lease)).rejects.toMatchObject({ code: 'ISB_IMAGE_DAMAGED' })
    }
  })

  test('acknowledges nothing in strict mode while flushes fail', async () => {
    const roots = await openRoots()
    const lines = await runUnder(['-e', 'inject=syncfs:error=EIO'], 'strict', roots)
    expect(lines.filter((line) => line.at === 'done')).toEqual([])
    expect(lines.filter((line) => line.at === 'failed').length).toBe(6)
    const store = await openAt(roots, worker)
    cleanups.push(() => store.close())
    expect(await store.images.list()).toEqual([])
    await store.settle()
    expect(await store.check()).toEqual([])
  })

  test('says that there is no space when a flush runs out of it', async () => {
    const roots = await openRoots()
    const lines = await runUnder(['-e', 'inject=syncfs:error=ENOSPC'], 'strict', roots)
    const codes = lines.flatMap((line) => (line.at === 'failed' ? [line.code] : []))
    expect(codes).toEqual(Array.from({ length: 6 }, () => 'ISB_NO_SPACE'))
  })

  test.each([
    ['the log of the database', 'fsync:error=EIO:when=3+3', 'db/store.sqlite-wal'],
    ['the log of the database, for want of space', 'pwrite64:error=ENOSPC:when=30+9', 'db/store.sqlite-wal'],
    ['the log of the database, for want of quota', 'pwrite64:error=EDQUOT:when=30+9', 'db/store.sqlite-wal'],
    ['renames', 'rename:error=EIO:when=3+7', undefined],
  ])(
    'keeps what it acknowledged, and only that, when the disk fails under %s',
    async (_what, inject, path) => {
      const roots = await openRoots()
      await (await openAt(roots, worker)).close()
      const only = path === undefined ? [] : ['-P', join(roots.dataRoot, path)]
      const lines = await runUnder(['-e', `inject=${inject}`, ...only], 'verified', roots)
      const done = lines.flatMap((line) =>
        line.at === 'done' && line.op.kind === 'put' && line.op.id !== undefined ? [line.op.id] : [],
      )
      const failed = lines.flatMap((line) => (line.at === 'failed' ? [line.code] : []))
      expect(failed.length).toBeGreaterThan(0)
      if (inject.includes('ENOSPC')) expect(failed).toContain('ISB_NO_SPACE')
      const store = await openAt(roots, worker)
      cleanups.push(() => store.close())
      const listed = (await store.images.list()).map(({ id }) => id)
      expect(listed).toEqual(expect.arrayContaining(done))
      expect(store.recovery.databaseLost).toBe(false)
      await store.settle()
      expect(await store.check()).toEqual([])
    },
  )
})
