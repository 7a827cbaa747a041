/** Directories that outlive builds (`RUN --mount=type=cache`), apart for every user. */
export interface CacheMounts {
  /**
   * Waits for the lock that `sharing` asks for. `fresh` = just made, empty: the caller seeds it and says so,
   * until then he is alone in it; released before, it is made anew for the next one. The same id of the same user gives the same directory, except that `private` takes another one while it is in use.
   */
  acquire(
    uid: number,
    mount: {
      readonly id: string
      readonly sharing: 'shared' | 'private' | 'locked'
      readonly mode: number
      readonly uid: number
      readonly gid: number
    },
    signal: AbortSignal,
  ): Promise<CacheMount>
}

export interface CacheMount {
  readonly path: string
  readonly fresh: boolean
  /** What a fresh directory begins with is complete. */
  seeded(): void
  release(): Promise<void>
}
