/** Sizes in bytes. */
export interface DaemonInfo {
  readonly memTotal: number
  readonly memFree: number
  readonly swapTotal: number
  readonly swapFree: number
  readonly storageDriver: string
  readonly backingFilesystem: string
  readonly searchRegistries: readonly string[]
  readonly insecureRegistries: readonly string[]
  readonly blockedRegistries: readonly string[]
  readonly dataRoot: string
  readonly runRoot: string
  readonly runtime: string
  /** Waiting and running. */
  readonly builds: number
  readonly threads: number
  readonly experimental: boolean
  readonly memory: {
    readonly system: number
    readonly heapSystem: number
    readonly heapAllocated: number
    readonly heapInUse: number
    readonly heapIdle: number
    readonly heapReleased: number
  }
}

export interface DaemonVersion {
  readonly version: string
  /** E.g. `node v20.9.0`. */
  readonly runtimeVersion: string
  readonly gitCommit: string
  /** Milliseconds since the epoch. */
  readonly builtAt: number
  /** E.g. `linux/amd64`. */
  readonly platform: string
}
