import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { CacheMount, CacheMountRequest, CacheMounts } from '../ports/cache-mounts.js'
import { openCacheMounts } from './cache-mounts.js'

/** One mount of a RUN that has no other. */
interface Mounted extends CacheMount {
  release(): Promise<void>
}

const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
const never = new AbortController().signal
let dataRoot = ''
let mounts: CacheMounts

const discard = async (path: string): Promise<void> => rmSync(path, { recursive: true, force: true })

beforeEach(async () => {
  dataRoot = mkdtempSync(join(tmpdir(), 'isula-cache-mounts-'))
  mounts = await openCacheMounts(dataRoot, discard)
})
afterEach(() => rmSync(dataRoot, { recursive: true, force: true }))

async function acquire(
  id: string,
  sharing: CacheMountRequest['sharing'],
  more: { uid?: number; signal?: AbortSignal; mode?: number; from?: CacheMounts; variant?: string } = {},
): Promise<Mounted> {
  const { uid = 7, signal = never, mode = 0o755, from = mounts, variant = '' } = more
  const held = await from.acquire(uid, [{ id, variant, sharing, mode, ...owner }], signal)
  const [mount] = held.mounts
  if (mount === undefined) throw new Error('a request without a mount')
  const release = async (): Promise<void> => {
    await held[Symbol.asyncDispose]()
  }
  return { ...mount, release }
}

const requests = (...texts: readonly string[]): readonly CacheMountRequest[] =>
  texts.map((text) => {
    const [id = '', sharing = 'shared'] = text.split(' ')
    return { id, variant: '', sharing: sharing as CacheMountRequest['sharing'], mode: 0o755, ...owner }
  })

/** Whether it settles while everything that can happen by itself happens. */
async function waits(promise: Promise<unknown>): Promise<boolean> {
  return (await Promise.race([promise.then(() => 'settled'), sleep(30, 'waiting')])) === 'waiting'
}

async function seed(id: string): Promise<string> {
  const mount = await acquire(id, 'shared')
  mount.seeded()
  await mount.release()
  return mount.path
}

test('what was used is told once it is free again, and nothing is told of none', async () => {
  const told: (readonly string[])[] = []
  const watched = await openCacheMounts(dataRoot, discard, (_uid, used) => {
    told.push(used.map(({ id }) => id))
  })
  const none = await watched.acquire(7, [], never)
  await none[Symbol.asyncDispose]()
  const two = await watched.acquire(7, requests('a', 'b'), never)
  expect(told).toEqual([])
  await two[Symbol.asyncDispose]()
  expect(told).toEqual([['a', 'b']])
})

test('a seeded directory is found again, also by another daemon', async () => {
  const path = await seed('a')
  writeFileSync(join(path, 'content'), 'x')
  for (const from of [mounts, await openCacheMounts(dataRoot, discard)]) {
    const mount = await acquire('a', 'shared', { mode: 0o700, from })
    expect([mount.path, mount.fresh]).toEqual([path, false])
    expect(existsSync(join(path, 'content'))).toBe(true)
    await mount.release()
  }
})

test('a new directory has mode and owner, below parents that are closed', async () => {
  const mount = await acquire('a', 'locked', { mode: 0o1777 })
  const { mode, uid, gid } = statSync(mount.path)
  expect([mode & 0o7777, uid, gid, mount.fresh]).toEqual([0o1777, owner.uid, owner.gid, true])
  expect(statSync(dirname(mount.path)).mode & 0o7777).toBe(0o700)
})

test('variants of an id are apart, and each is found again', async () => {
  const paths: string[] = []
  for (const variant of ['', 'a', 'b', 'a']) {
    const mount = await acquire('id', 'shared', { variant })
    mount.seeded()
    paths.push(mount.path)
    await mount.release()
  }
  expect(new Set(paths).size).toBe(3)
  expect(paths[3]).toBe(paths[1])
})

test('users and ids are apart, and no id names a path', async () => {
  const ids = ['a', 'A', '../../escape', '/', 'x'.repeat(5000), '']
  const made = await Promise.all([
    ...ids.map((id) => acquire(id, 'shared')),
    acquire('a', 'shared', { uid: 8 }),
  ])
  expect(new Set(made.map(({ path }) => path)).size).toBe(made.length)
  for (const { path } of made) {
    expect(relative(join(dataRoot, 'cache-mounts'), path)).toMatch(/^[78]\/[0-9a-f]{64}$/)
  }
})

test('many share a directory', async () => {
  await seed('a')
  const [one, two] = await Promise.all([acquire('a', 'shared'), acquire('a', 'shared')])
  expect(one.path).toBe(two.path)
})

test('locked users take turns, in the order of their coming', async () => {
  await seed('a')
  const first = await acquire('a', 'locked')
  const order: string[] = []
  const second = acquire('a', 'locked').then((mount) => {
    order.push('second')
    return mount
  })
  const third = acquire('a', 'shared').then((mount) => {
    order.push('third')
    return mount
  })
  expect(await waits(second)).toBe(true)
  await first.release()
  await (await second).release()
  await (await third).release()
  expect(order).toEqual(['second', 'third'])
})

test('locked waits for all who share', async () => {
  await seed('a')
  const sharing = [await acquire('a', 'shared'), await acquire('a', 'shared')]
  const locked = acquire('a', 'locked')
  await sharing[0]?.release()
  expect(await waits(locked)).toBe(true)
  await sharing[1]?.release()
  await (await locked).release()
})

test('private never waits: it gets a directory of its own, which goes away', async () => {
  await seed('a')
  const first = await acquire('a', 'private')
  const second = await acquire('a', 'private')
  expect([first.fresh, second.fresh]).toEqual([false, true])
  expect(second.path).not.toBe(first.path)
  await second.release()
  expect(existsSync(second.path)).toBe(false)
  await first.release()
  expect((await acquire('a', 'private')).path).toBe(first.path)
})

test('who waits can be cancelled, and does not disturb the others', async () => {
  await seed('a')
  const holder = await acquire('a', 'locked')
  const impatient = new AbortController()
  const cancelled = acquire('a', 'locked', { signal: impatient.signal })
  const patient = acquire('a', 'locked')
  impatient.abort()
  await expect(cancelled).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  await holder.release()
  await (await patient).release()
})

test('nobody looks into a directory that is being seeded', async () => {
  const first = await acquire('a', 'shared')
  const second = acquire('a', 'shared')
  expect(await waits(second)).toBe(true)
  first.seeded()
  const mount = await second
  expect([mount.path, mount.fresh]).toEqual([first.path, false])
  const locked = acquire('a', 'locked')
  await first.release()
  expect(await waits(locked)).toBe(true)
  await mount.release()
  await (await locked).release()
})

test('a directory that was not seeded to its end is made anew', async () => {
  const first = await acquire('a', 'shared')
  writeFileSync(join(first.path, 'half'), '')
  const waiting = acquire('a', 'shared')
  await first.release()
  const second = await waiting
  expect([second.path, second.fresh]).toEqual([first.path, true])
  expect(existsSync(join(second.path, 'half'))).toBe(false)
  const later = await acquire('a', 'locked', { from: await openCacheMounts(dataRoot, discard) })
  expect(later.fresh).toBe(true)
})

test('a directory that cannot be made locks nobody out', async () => {
  mkdirSync(join(dataRoot, 'cache-mounts'))
  writeFileSync(join(dataRoot, 'cache-mounts/7'), 'in the way')
  await expect(acquire('a', 'locked')).rejects.toThrow(/EEXIST|ENOTDIR/)
  rmSync(join(dataRoot, 'cache-mounts/7'))
  expect((await acquire('a', 'locked')).fresh).toBe(true)
})

test('all mounts of a RUN are locked at once, and nobody holds one while he waits for another', async () => {
  for (const id of ['a', 'b']) await seed(id)
  const holder = await acquire('b', 'locked')
  const both = mounts.acquire(7, requests('a locked', 'b locked'), never)
  expect(await waits(both)).toBe(true)
  // A lock that is free now is promised to the one who came before.
  const late = acquire('a', 'locked')
  expect(await waits(late)).toBe(true)
  await holder.release()
  const { mounts: got, [Symbol.asyncDispose]: release } = await both
  expect(got.map(({ fresh }) => fresh)).toEqual([false, false])
  await release()
  await (await late).release()
})

test('an id that a RUN mounts twice is one directory, as strict as its strictest mount', async () => {
  await seed('a')
  const held = await mounts.acquire(7, requests('a shared', 'b shared', 'a locked'), never)
  const [one, other, again] = held.mounts
  expect([one?.path === again?.path, one?.path === other?.path]).toEqual([true, false])
  expect(await waits(acquire('a', 'shared').then(({ release }) => release()))).toBe(true)
  await held[Symbol.asyncDispose]()
})

test('those who come to share do not overtake one who wants it alone', async () => {
  await seed('a')
  const sharing = await acquire('a', 'shared')
  const alone = acquire('a', 'locked')
  const later = acquire('a', 'shared')
  expect(await waits(later)).toBe(true)
  await sharing.release()
  expect(await waits(later)).toBe(true)
  await (await alone).release()
  await (await later).release()
})

test('a daemon that was killed has left no directory of one RUN alone', async () => {
  await seed('a')
  const first = await acquire('a', 'private')
  const own = await acquire('a', 'private')
  writeFileSync(join(own.path, 'content'), 'x')
  const next = await openCacheMounts(dataRoot, discard)
  expect([existsSync(first.path), existsSync(own.path)]).toEqual([true, false])
  expect((await acquire('a', 'private', { from: next })).path).toBe(first.path)
})
