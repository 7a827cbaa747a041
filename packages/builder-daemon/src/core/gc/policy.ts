import type { CacheEntry, Disk } from '../../ports/build-cache.js'

/** Keeps what it is about from being removed for room until it was not used for that long. */
export interface KeepRule {
  readonly kind: CacheEntry['kind'] | 'any'
  /** Of a cache mount: its ID, where `*` stands for any characters; undefined: every one. */
  readonly id: string | undefined
  /** Milliseconds. */
  readonly for: number
}

/** What the cache may take. */
export interface CachePolicy {
  /** Bytes of all entries together; undefined: a share of the disk. */
  readonly keepBytes: number | undefined
  /** Entries unused for longer go, milliseconds. */
  readonly maxAge: number
  /** What is left free on the disk: bytes, or a share from 0 to 1. */
  readonly minFree: { readonly bytes: number } | { readonly share: number }
  readonly keep: readonly KeepRule[]
}

/** Age up to which some entry may stay, milliseconds. */
export function longestStay({ maxAge, keep }: CachePolicy): number {
  return Math.max(maxAge, ...keep.map((rule) => rule.for))
}

const gigabyte = 1e9

/** A tenth of the disk, from 2 to 100 GB. */
function defaultKeepBytes({ totalBytes }: Disk): number {
  return Math.min(100 * gigabyte, Math.max(2 * gigabyte, totalBytes / 10))
}

/**
 * What has to go, least recently used first: what is too old; more while the rest is larger than it may be; more while
 * the disk is too full. What a rule keeps goes last, and only for the disk.
 */
export function excessEntries(
  entries: readonly CacheEntry[],
  policy: CachePolicy,
  disk: Disk,
  now: number,
): readonly CacheEntry[] {
  const keepBytes = policy.keepBytes ?? defaultKeepBytes(disk)
  const minFree = 'bytes' in policy.minFree ? policy.minFree.bytes : policy.minFree.share * disk.totalBytes
  const queue = leastRecentFirst(entries).map((entry) => ({
    entry,
    isKept: policy.keep.some((rule) => applies(rule, entry) && now - entry.usedAt <= rule.for),
  }))
  let left = entries.reduce((sum, { bytes }) => sum + bytes, 0)
  let free = disk.freeBytes
  const gone = new Set<CacheEntry>()
  const take = (entry: CacheEntry): void => {
    gone.add(entry)
    left -= entry.bytes
    free += entry.bytes
  }
  for (const { entry, isKept } of queue) {
    const isOld = now - entry.usedAt > policy.maxAge
    if (!isKept && (isOld || left > keepBytes || free < minFree)) take(entry)
  }
  for (const { entry } of queue) {
    if (free < minFree && !gone.has(entry)) take(entry)
  }
  return [...gone]
}

/** What a user asks to be removed. */
export interface PruneWish {
  /** Stop when all entries he might remove take no more than this, bytes; 0: everything. */
  readonly keepBytes: number
  /** Only what was last used before then, milliseconds since the epoch. */
  readonly usedBefore: number
}

/** What goes, least recently used first. */
export function prunedEntries(entries: readonly CacheEntry[], wish: PruneWish): readonly CacheEntry[] {
  let left = entries.reduce((sum, { bytes }) => sum + bytes, 0)
  const gone: CacheEntry[] = []
  for (const entry of leastRecentFirst(entries)) {
    if (wish.keepBytes > 0 && left <= wish.keepBytes) break
    if (entry.usedAt >= wish.usedBefore) continue
    gone.push(entry)
    left -= entry.bytes
  }
  return gone
}

/** Of the same age the larger one goes first, so that less has to go; names decide the rest. */
function leastRecentFirst(entries: readonly CacheEntry[]): readonly CacheEntry[] {
  return [...entries].sort(
    (a, b) => a.usedAt - b.usedAt || b.bytes - a.bytes || (a.key < b.key ? -1 : Number(a.key > b.key)),
  )
}

function applies(rule: KeepRule, { kind, name }: CacheEntry): boolean {
  if (rule.kind !== 'any' && rule.kind !== kind) return false
  return rule.id === undefined || (kind === 'mount' && matches(rule.id, name))
}

/** `*` stands for any characters; parts are found from the left, which is enough for one wildcard sign. */
function matches(pattern: string, text: string): boolean {
  const [first = '', ...rest] = pattern.split('*')
  if (rest.length === 0) return pattern === text
  const last = rest.pop() ?? ''
  if (!text.startsWith(first) || !text.endsWith(last) || text.length < first.length + last.length)
    return false
  let at = first.length
  for (const part of rest) {
    const found = text.indexOf(part, at)
    if (found < 0 || found + part.length > text.length - last.length) return false
    at = found + part.length
  }
  return true
}
