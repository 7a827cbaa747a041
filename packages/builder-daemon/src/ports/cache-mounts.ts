/** Directories that outlive builds (`RUN --mount=type=cache`), apart for every user. */
export interface CacheMounts {
  /**
   * Takes the locks of all mounts of a RUN at once, when all of them can be had: nobody holds one and waits for
   * another. Who waits is served in the order of his coming, as far as he waits for the same directories. The same id
   * and variant of the same user give the same directory, except that `private` takes another one while it is in use, which goes
   * away afterwards. An abort rejects with ISB_CANCELLED.
   */
  acquire(uid: number, mounts: readonly CacheMountRequest[], signal: AbortSignal): Promise<HeldCacheMounts>
}

export interface CacheMountRequest {
  readonly id: string
  /** What tells caches of one id apart: what they began with, and whose they are. '' = an empty one of root. */
  readonly variant: string
  /** Among mounts of the same directory the strictest counts. */
  readonly sharing: 'shared' | 'private' | 'locked'
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

/** Disposing gives all locks back. */
export interface HeldCacheMounts extends AsyncDisposable {
  /** In the order of the requests; those of the same directory are the same object. */
  readonly mounts: readonly CacheMount[]
}

export interface CacheMount {
  readonly path: string
  /**
   * Just made, empty: the holder fills it and says so with `seeded`, until then he is alone in it. Given back before,
   * it is made anew for the next one.
   */
  readonly fresh: boolean
  /** What a fresh directory begins with is complete. */
  seeded(): void
}
