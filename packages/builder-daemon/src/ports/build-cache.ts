/** What the build cache keeps on the disk beyond images: layers of steps, and directories of cache mounts. */
export interface CacheEntry {
  readonly kind: 'layer' | 'mount'
  /** Names the entry to `remove`. */
  readonly key: string
  /** The ID that `--mount=type=cache` gives it, or the layer's. */
  readonly name: string
  /** Users who may get it from the cache; [] for what nobody remembers. */
  readonly owners: readonly number[]
  /** Room on the disk, bytes; files that entries share are counted for each in part. */
  readonly bytes: number
  /** Last use, exact to an hour, milliseconds since the epoch. */
  readonly usedAt: number
}

export interface Disk {
  /** For root, bytes. */
  readonly freeBytes: number
  readonly totalBytes: number
}

/**
 * Only what neither an image uses nor an operation holds is listed and removed: whoever comes to hold an entry between
 * the two keeps it.
 */
export interface BuildCache {
  /** Measures what was not measured since its last use; never called on the way of a build. */
  entries(): Promise<readonly CacheEntry[]>
  /** Removes in the background what is still unused; gives what that is, in the order given. */
  remove(entries: readonly CacheEntry[], by: Remover): Promise<readonly CacheEntry[]>
  /**
   * Forgets the records whose last use is before then and which hold no entry: what images stand on, and steps without
   * a layer. Gives how many; with `dryRun` only counts.
   */
  forget(by: Remover, usedBefore: number, dryRun: boolean): Promise<number>
  /** Bytes of downloads that nobody uses; they go unless it is a dry run. */
  downloads(dryRun: boolean): Promise<number>
  /** As it is when removals under way have ended. */
  disk(): Promise<Disk>
}

/** A user removes what is his alone; of what he shares, he only lets go. */
export type Remover = { readonly kind: 'everybody' } | { readonly kind: 'user'; readonly uid: number }
