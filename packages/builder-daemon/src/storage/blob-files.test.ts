import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type Digest, digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createBlobFiles, type LocalBlobFiles } from './blob-files.js'
import { layoutOf } from './layout.js'

let root = ''
let hashed: string[] = []
const logged: string[] = []
const content = 'the content of a blob'
const digest = digestOf(content)
const never = new AbortController().signal

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'isula-build-blobs-'))
  hashed = []
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

/** One daemon's life. */
async function life(limits = { ageMs: 1000_000, bytes: 1 << 30 }): Promise<LocalBlobFiles> {
  const record = (event: string): void => void logged.push(event)
  const layout = layoutOf(root)
  await mkdir(layout.downloads, { recursive: true })
  return createBlobFiles({
    ...{ layout, limits, clock: { now: () => Date.now() } },
    trash: { discard: (path) => rm(path, { force: true }) },
    log: { debug: record, info: record, warn: record, error: record },
    digestFile: async (path) => {
      hashed.push(path)
      return digestOf(await readFile(path))
    },
  })
}

function pathOf(uid: number, blob: Digest): string {
  return join(root, 'downloads', String(uid), digestHex(blob))
}

function filling(text = content): { readonly fill: (partial: string) => Promise<void>; times: number } {
  const filled = {
    times: 0,
    async fill(partial: string) {
      filled.times += 1
      await new Promise((resolve) => setTimeout(resolve, 5))
      writeFileSync(partial, text)
    },
  }
  return filled
}

describe('a blob', () => {
  test('is filled once however many want it at once, and kept for the next one', async () => {
    const files = await life()
    const filled = filling()
    const held = await Promise.all(
      Array.from({ length: 100 }, () => files.obtain(7, digest, filled.fill, new AbortController().signal)),
    )
    expect(new Set(held.map(({ path }) => readFileSync(path, 'utf8')))).toEqual(new Set([content]))
    for (const one of held) one[Symbol.dispose]()
    using again = await files.obtain(7, digest, filled.fill, never)
    expect([again.path, filled.times, hashed]).toEqual([pathOf(7, digest), 1, []])
    expect(statSync(again.path).mode & 0o777).toBe(0o600)
    expect(statSync(join(root, 'downloads/7')).mode & 0o777).toBe(0o700)
  })

  test('of another user is another file', async () => {
    const files = await life()
    const filled = filling()
    using one = await files.obtain(7, digest, filled.fill, never)
    using other = await files.obtain(8, digest, filled.fill, never)
    expect([filled.times, one.path === other.path]).toEqual([2, false])
  })

  test('that lay through a restart is hashed once before it is used', async () => {
    const filled = filling()
    const first = await life()
    ;(await first.obtain(7, digest, filled.fill, never))[Symbol.dispose]()
    const second = await life()
    for (let i = 0; i < 3; i++) (await second.obtain(7, digest, filled.fill, never))[Symbol.dispose]()
    expect([filled.times, hashed]).toEqual([1, [pathOf(7, digest)]])
  })

  test('that was damaged meanwhile is filled again', async () => {
    const filled = filling()
    const first = await life()
    ;(await first.obtain(7, digest, filled.fill, never))[Symbol.dispose]()
    writeFileSync(pathOf(7, digest), 'the content of a BLOB')
    const second = await life()
    using held = await second.obtain(7, digest, filled.fill, never)
    expect([filled.times, readFileSync(held.path, 'utf8')]).toEqual([2, content])
  })

  test('that somebody removed is filled again', async () => {
    const files = await life()
    const filled = filling()
    ;(await files.obtain(7, digest, filled.fill, never))[Symbol.dispose]()
    rmSync(pathOf(7, digest))
    using held = await files.obtain(7, digest, filled.fill, never)
    expect([filled.times, existsSync(held.path)]).toEqual([2, true])
  })

  test('goes on from its beginning in the next life', async () => {
    const first = await life()
    const broken = first.obtain(
      7,
      digest,
      async (partial) => {
        writeFileSync(partial, content.slice(0, 5))
        throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', 'gone')
      },
      never,
    )
    await expect(broken).rejects.toMatchObject({ code: 'ISB_REGISTRY_UNAVAILABLE' })
    expect(existsSync(pathOf(7, digest))).toBe(false)
    const second = await life()
    let found = ''
    using _held = await second.obtain(
      7,
      digest,
      async (partial) => {
        found = readFileSync(partial, 'utf8')
        writeFileSync(partial, content)
      },
      never,
    )
    expect(found).toBe(content.slice(0, 5))
  })

  test('of no bytes at all is there too', async () => {
    const files = await life()
    using held = await files.obtain(7, digestOf(''), async () => undefined, never)
    expect(readFileSync(held.path, 'utf8')).toBe('')
  })
})

describe('when a fill fails', () => {
  test('by the abort of whose it was, the next one goes on', async () => {
    const files = await life()
    const leader = new AbortController()
    const first = files.obtain(
      7,
      digest,
      (partial, signal) =>
        new Promise((_, reject) => {
          writeFileSync(partial, content.slice(0, 3))
          signal.addEventListener('abort', () => reject(new Error('stopped')))
        }),
      leader.signal,
      's',
    )
    const seen: string[] = []
    const others = Array.from({ length: 5 }, () =>
      files.obtain(
        7,
        digest,
        async (partial) => {
          seen.push(readFileSync(partial, 'utf8'))
          writeFileSync(partial, content)
        },
        never,
        's',
      ),
    )
    await new Promise((resolve) => setTimeout(resolve, 10))
    leader.abort()
    await expect(first).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    for (const held of await Promise.all(others)) held[Symbol.dispose]()
    expect(seen).toEqual([content.slice(0, 3)])
  })

  test('only those with the same source fail with it', async () => {
    const files = await life()
    const filled = filling()
    let failures = 0
    const fail = async (): Promise<void> => {
      failures += 1
      await new Promise((resolve) => setTimeout(resolve, 10))
      throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', 'down')
    }
    const [first, same, other] = await Promise.allSettled([
      files.obtain(7, digest, fail, never, 'a'),
      files.obtain(7, digest, fail, never, 'a'),
      files.obtain(7, digest, filled.fill, never, 'b'),
    ])
    expect([first.status, same.status, other.status]).toEqual(['rejected', 'rejected', 'fulfilled'])
    expect([failures, filled.times]).toEqual([1, 1])
  })

  test.each(['ISB_REGISTRY_DENIED', 'ISB_IMAGE_NOT_FOUND'] as const)(
    'for want of rights, everybody else asks himself: %s',
    async (code) => {
      const files = await life()
      const filled = filling()
      const denied = async (): Promise<void> => {
        await new Promise((resolve) => setTimeout(resolve, 10))
        throw new BuilderError(code, 'no')
      }
      const results = await Promise.allSettled([
        files.obtain(7, digest, denied, never, 'a'),
        files.obtain(7, digest, filled.fill, never, 'a'),
      ])
      expect(results.map(({ status }) => status)).toEqual(['rejected', 'fulfilled'])
    },
  )

  test('one who waits can leave without stopping it', async () => {
    const files = await life()
    const filled = filling()
    const leaving = new AbortController()
    const first = files.obtain(7, digest, filled.fill, never)
    const waiting = files.obtain(7, digest, filled.fill, leaving.signal)
    leaving.abort()
    await expect(waiting).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    using _held = await first
    expect(filled.times).toBe(1)
  })

  test('on a full disk, what it wrote goes', async () => {
    const files = await life()
    const full = files.obtain(
      7,
      digest,
      async (partial) => {
        writeFileSync(partial, 'x'.repeat(1000))
        throw new BuilderError('ISB_NO_SPACE', 'full')
      },
      never,
    )
    await expect(full).rejects.toMatchObject({ code: 'ISB_NO_SPACE' })
    expect(await readdir(join(root, 'downloads/7'))).toEqual([])
  })
})

describe('files go', () => {
  test('when they are released, but not under the hands of who holds them', async () => {
    const files = await life()
    const filled = filling()
    const one = await files.obtain(7, digest, filled.fill, never)
    const two = await files.obtain(7, digest, filled.fill, never)
    await files.release(7, [digest])
    one[Symbol.dispose]()
    one[Symbol.dispose]()
    expect(existsSync(two.path)).toBe(true)
    two[Symbol.dispose]()
    await files.idle()
    expect(await readdir(join(root, 'downloads/7'))).toEqual([])
    ;(await files.obtain(7, digest, filled.fill, never))[Symbol.dispose]()
    await files.release(7, [digest, digestOf('never fetched')])
    expect([await readdir(join(root, 'downloads/7')), filled.times]).toEqual([[], 2])
  })

  test('when they are old or take too much room, the oldest first, never held ones', async () => {
    const files = await life({ ageMs: 60_000, bytes: 250 })
    const names = ['old', 'held', 'older', 'newer', 'new']
    const digests = names.map((name) => digestOf(name))
    let seconds = 100
    const kept: Disposable[] = []
    for (const [i, blob] of digests.entries()) {
      const held = await files.obtain(
        7,
        blob,
        async (partial) => writeFileSync(partial, 'x'.repeat(100)),
        never,
      )
      const at = Date.now() / 1000 - seconds
      utimesSync(held.path, at, at)
      seconds = [100, 50, 40, 30, 20][i + 1] ?? 0
      if (i === 1) kept.push(held)
      else held[Symbol.dispose]()
    }
    writeFileSync(join(root, 'downloads/7/of-somebody-else'), 'stays')
    await files.sweep()
    const left = await readdir(join(root, 'downloads/7'))
    const here = names.filter((_, i) => left.includes(digestHex(digests[i] ?? digest)))
    expect(here).toEqual(['held', 'newer', 'new'])
    for (const held of kept) held[Symbol.dispose]()
    await files.sweep(true)
    expect(await readdir(join(root, 'downloads/7'))).toEqual(['of-somebody-else'])
  })

  test('of who takes much room before those of others, however old', async () => {
    const files = await life({ ageMs: 60_000, bytes: 250 })
    const store = async (uid: number, name: string, age: number): Promise<string> => {
      const write = async (partial: string) => writeFileSync(partial, 'x'.repeat(100))
      using held = await files.obtain(uid, digestOf(name), write, never)
      const at = Date.now() / 1000 - age
      utimesSync(held.path, at, at)
      return held.path
    }
    const modest = await store(8, 'modest', 50)
    const greedy = [await store(7, 'a', 30), await store(7, 'b', 20), await store(7, 'c', 10)]
    await files.sweep()
    expect([modest, ...greedy].map((path) => existsSync(path))).toEqual([true, false, false, true])
  })

  test('when they never got a digest', async () => {
    const first = await life()
    const made = await first.create(7)
    writeFileSync(made.path, 'half of it')
    await first.sweep(true)
    expect(existsSync(made.path)).toBe(true)
    const second = await life()
    await second.sweep()
    expect(existsSync(made.path)).toBe(false)
    const other = await second.create(7)
    other[Symbol.dispose]()
    await second.idle()
    expect(existsSync(other.path)).toBe(false)
  })
})
