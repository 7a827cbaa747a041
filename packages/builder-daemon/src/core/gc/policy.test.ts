import { describe, expect, test } from 'vitest'
import type { CacheEntry } from '../../ports/build-cache.js'
import { type CachePolicy, excessEntries, prunedEntries } from './policy.js'

const day = 86_400_000
const now = 100 * day
const GB = 1e9
const roomy = { freeBytes: 500 * GB, totalBytes: 1000 * GB }

let count = 0
function entry(ageInDays: number, gigabytes: number, more: Partial<CacheEntry> = {}): CacheEntry {
  const key = `e${count++}`
  return {
    ...{ kind: 'layer', key, name: key, owners: [0], bytes: gigabytes * GB, usedAt: now - ageInDays * day },
    ...more,
  }
}

const policy: CachePolicy = { keepBytes: 10 * GB, maxAge: 14 * day, minFree: { share: 0.05 }, keep: [] }
const excess = (entries: readonly CacheEntry[], change: Partial<CachePolicy> = {}, disk = roomy) =>
  excessEntries(entries, { ...policy, ...change }, disk, now)

describe('the policy', () => {
  test('leaves a small and young cache alone', () => {
    expect(excess([entry(1, 5), entry(13, 5)])).toEqual([])
  })

  test('removes what is too old, however much room there is', () => {
    const old = entry(15, 0.1)
    expect(excess([entry(1, 1), old])).toEqual([old])
  })

  test('removes the least recently used until the rest may stay', () => {
    const [young, middle, old] = [entry(1, 6), entry(2, 4), entry(3, 3)]
    expect(excess([young, middle, old])).toEqual([old])
    expect(excess([young, middle, old], { keepBytes: 9 * GB })).toEqual([old, middle])
    expect(excess([young, middle, old], { keepBytes: 1 })).toEqual([old, middle, young])
  })

  test('takes a tenth of the disk where nothing is said, from 2 to 100 GB', () => {
    const entries = [entry(1, 60), entry(2, 60)]
    const sized = (terabytes: number) => ({ freeBytes: 500 * GB, totalBytes: terabytes * 1000 * GB })
    const keepBytes = undefined
    expect(excess(entries, { keepBytes }, sized(1))).toEqual([entries[1]])
    expect(excess([entry(1, 60), entry(2, 39)], { keepBytes }, sized(1))).toEqual([])
    expect(excess([entry(1, 99), entry(2, 2)], { keepBytes }, sized(9))).toHaveLength(1)
    const small = { freeBytes: 5 * GB, totalBytes: 10 * GB }
    expect(excess([entry(1, 1), entry(2, 0.9)], { keepBytes }, small)).toEqual([])
    expect(excess([entry(1, 1), entry(2, 1.1)], { keepBytes }, small)).toHaveLength(1)
  })

  test('makes room on a full disk, as far as it can', () => {
    const entries = [entry(1, 3), entry(2, 3), entry(3, 3)]
    const full = (free: number) => ({ freeBytes: free * GB, totalBytes: 100 * GB })
    expect(excess(entries, {}, full(5))).toEqual([])
    expect(excess(entries, {}, full(4))).toEqual([entries[2]])
    expect(excess(entries, { minFree: { bytes: 9 * GB } }, full(4))).toEqual([entries[2], entries[1]])
    expect(excess(entries, {}, full(-50))).toHaveLength(3)
  })

  test('keeps what a rule is about, but for the disk', () => {
    const mount = entry(20, 4, { kind: 'mount', name: 'go-build' })
    const layers = [entry(1, 5), entry(3, 5)]
    const keep = [{ kind: 'mount', id: 'go-*', for: 30 * day }] as const
    expect(excess([mount, ...layers])).toEqual([mount])
    expect(excess([mount, ...layers], { keep })).toEqual([layers[1]])
    expect(excess([mount], { keep: [{ ...keep[0], for: 19 * day }] })).toEqual([mount])
    expect(excess([mount], { keep: [{ ...keep[0], id: 'npm' }] })).toEqual([mount])
    const full = { freeBytes: 1 * GB, totalBytes: 400 * GB }
    expect(excess([mount, ...layers], { keep, minFree: { bytes: 10 * GB } }, full)).toEqual([
      ...[layers[1], layers[0]],
    ])
    expect(excess([mount, ...layers], { keep, minFree: { bytes: 12 * GB } }, full)).toEqual([
      ...[layers[1], layers[0], mount],
    ])
  })

  test.each([
    ['go-*', 'go-', true],
    ['go-*', 'cargo-x', false],
    ['*', '', true],
    ['a*b', 'ab', true],
    ['a*a', 'a', false],
    ['a*b*c', 'axxbyyc', true],
    ['a*b*b', 'aab', false],
    ['.', 'x', false],
  ])('the rule %j is about the mount %j: %j', (id, name, isKept) => {
    const mount = entry(20, 1, { kind: 'mount', name })
    const rule = { kind: 'any', id, for: 30 * day } as const
    expect(excess([mount], { keep: [rule] })).toEqual(isKept ? [] : [mount])
  })

  test('has rules for all of a kind', () => {
    const layer = entry(20, 1)
    expect(excess([layer], { keep: [{ kind: 'layer', id: undefined, for: 30 * day }] })).toEqual([])
    expect(excess([layer], { keep: [{ kind: 'mount', id: undefined, for: 30 * day }] })).toEqual([layer])
  })
})

describe('a wish', () => {
  const [young, middle, old] = [entry(1, 6), entry(2, 4), entry(3, 3)]
  const entries = [middle, young, old]

  test('for everything takes everything', () => {
    expect(prunedEntries(entries, { keepBytes: 0, usedBefore: now + 1 })).toEqual([old, middle, young])
  })

  test('with an age spares what was used since', () => {
    expect(prunedEntries(entries, { keepBytes: 0, usedBefore: now - 1.5 * day })).toEqual([old, middle])
    expect(prunedEntries(entries, { keepBytes: 0, usedBefore: old.usedAt })).toEqual([])
  })

  test('with a size stops as soon as that is reached', () => {
    expect(prunedEntries(entries, { keepBytes: 13 * GB, usedBefore: now })).toEqual([])
    expect(prunedEntries(entries, { keepBytes: 12 * GB, usedBefore: now })).toEqual([old])
    expect(prunedEntries(entries, { keepBytes: 1, usedBefore: now - 2.5 * day })).toEqual([old])
  })
})
