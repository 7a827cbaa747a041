import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { CachePolicy } from '../core/gc/policy.js'
import type { BuildCache, CacheEntry, Remover } from '../ports/build-cache.js'
import type { Caller } from '../ports/caller.js'
import type { PruneEvent, PruneRequest } from '../rpc/cache-requests.js'
import { type CacheCollector, createCacheCollector } from './cache-collector.js'

const now = 1_000_000_000_000
const hour = 3_600_000
const policy: CachePolicy = { keepBytes: 10, maxAge: 24 * hour, minFree: { bytes: 0 }, keep: [] }
const never = new AbortController().signal
const root = { uid: 0 } as Caller
const alice = { uid: 7 } as Caller
const everything: PruneRequest = { all: true, keepBytes: 0, unusedFor: 0, dryRun: false }

let entries: CacheEntry[]
let calls: unknown[]
let looks: number
let collector: CacheCollector
/** Entries that somebody came to hold since they were listed. */
let held: Set<string>
let warnings: string[]

function entry(key: string, ageInHours: number, bytes: number, owners: readonly number[] = [0]): CacheEntry {
  const kind = key.startsWith('m') ? 'mount' : 'layer'
  return { kind, key, name: key, owners, bytes, usedAt: now - ageInHours * hour }
}

const cache: BuildCache = {
  entries: () => {
    looks++
    return Promise.resolve([...entries])
  },
  remove(wanted, by) {
    const gone = wanted.filter(({ key }) => !held.has(key))
    calls.push([gone.map(({ key }) => key), by])
    entries = entries.filter((one) => !gone.includes(one))
    return Promise.resolve(gone)
  },
  forget(by, usedBefore, dryRun) {
    calls.push(['forget', by, usedBefore, dryRun])
    return Promise.resolve(4)
  },
  downloads(dryRun) {
    calls.push(['downloads', dryRun])
    return Promise.resolve(100)
  },
  disk: () => Promise.resolve({ freeBytes: 1e12, totalBytes: 2e12 }),
}

beforeEach(() => {
  vi.useFakeTimers()
  entries = []
  calls = []
  looks = 0
  held = new Set()
  warnings = []
  const quiet = (): undefined => undefined
  const log = { debug: quiet, info: quiet, error: quiet, warn: (event: string) => void warnings.push(event) }
  collector = createCacheCollector({ cache, policy, clock: { now: () => now }, log })
})
afterEach(() => {
  collector[Symbol.dispose]()
  vi.useRealTimers()
})

async function pruned(request: Partial<PruneRequest>, caller = root): Promise<readonly PruneEvent[]> {
  const events: PruneEvent[] = []
  for await (const event of collector.prune({ ...everything, ...request }, caller, never)) events.push(event)
  return events
}

const keysOf = (events: readonly PruneEvent[]): readonly string[] =>
  events.flatMap((event) => (event.kind === 'removed' ? [event.entry.key] : []))

test('what the policy does not let stay goes, every hour and some time after builds', async () => {
  entries = [entry('old', 25, 1), entry('large', 2, 8), entry('young', 1, 8)]
  collector.soon()
  collector.soon()
  await vi.advanceTimersByTimeAsync(29_000)
  expect(looks).toBe(0)
  await vi.advanceTimersByTimeAsync(2_000)
  expect(looks).toBe(1)
  expect(calls).toEqual([[['old', 'large'], { kind: 'everybody' }]])
  collector.soon()
  await vi.advanceTimersByTimeAsync(31_000)
  expect(looks).toBe(2)
  await vi.advanceTimersByTimeAsync(hour)
  expect(looks).toBe(3)
})

test('a failure is logged, and the next time comes all the same', async () => {
  const broken = vi.spyOn(cache, 'entries').mockRejectedValueOnce(new Error('disk'))
  await vi.advanceTimersByTimeAsync(hour)
  expect(warnings).toEqual(['cache.not-collected'])
  broken.mockRestore()
  entries = [entry('old', 25, 1)]
  await vi.advanceTimersByTimeAsync(hour)
  expect(calls).toHaveLength(1)
})

test('nothing is looked at any more after the end', async () => {
  collector.soon()
  collector[Symbol.dispose]()
  collector.soon()
  await vi.advanceTimersByTimeAsync(2 * hour)
  expect(looks).toBe(0)
})

test('root prunes everything, downloads too, and hears what really went', async () => {
  entries = [entry('a', 1, 5), entry('m', 2, 6, [7]), entry('orphan', 3, 7, [])]
  held.add('a')
  const events = await pruned({})
  expect(keysOf(events)).toEqual(['orphan', 'm'])
  expect(events.at(-1)).toEqual({ kind: 'summary', freedBytes: 113, records: 4, downloads: 100 })
  const by: Remover = { kind: 'everybody' }
  expect(calls.slice(1)).toEqual([
    ['forget', by, Number.MAX_SAFE_INTEGER, false],
    ['downloads', false],
  ])
})

test('others prune what is theirs alone', async () => {
  entries = [entry('a', 1, 5, [7]), entry('b', 1, 5, [0, 7]), entry('c', 1, 5, [0]), entry('o', 1, 5, [])]
  const events = await pruned({}, alice)
  expect(keysOf(events)).toEqual(['a'])
  const by: Remover = { kind: 'user', uid: 7 }
  expect(calls).toEqual([
    [['a'], by],
    ['forget', by, Number.MAX_SAFE_INTEGER, false],
  ])
})

test('without all cache mounts and downloads stay, a dry run takes nothing, a size spares the records', async () => {
  entries = [entry('a', 1, 5), entry('b', 2, 5), entry('m', 3, 6)]
  expect(keysOf(await pruned({ all: false, dryRun: true }))).toEqual(['b', 'a'])
  expect(calls).toEqual([['forget', { kind: 'everybody' }, Number.MAX_SAFE_INTEGER, true]])
  calls = []
  expect(await pruned({ keepBytes: 11, dryRun: true })).toMatchObject([
    { kind: 'removed', entry: { key: 'm' } },
    { kind: 'summary', freedBytes: 6, records: 0, downloads: 0 },
  ])
  expect(calls).toEqual([])
  expect(keysOf(await pruned({ unusedFor: 2.5 * hour }))).toEqual(['m'])
  expect(calls.at(-1)).toEqual(['forget', { kind: 'everybody' }, now - 2.5 * hour, false])
})
