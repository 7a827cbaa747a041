import type { Cgroups } from './cgroups.js'
import type { ChildReaper } from './child-reaper.js'
import type { FilteredStarts } from './filtered-starts.js'
import type { LaunchRequest, LaunchResult } from './launcher-protocol.js'
import type { OutputPipe } from './output-pipe.js'
import type { SealedPrograms } from './sealed-programs.js'
import type { StartTurns } from './start-turns.js'

/** What one RUN has while its container runs. */
export interface RunContext {
  readonly request: LaunchRequest
  /** Private to this RUN, in memory. */
  readonly directory: string
  readonly rootfs: string
  /** State of the OCI runtime for all RUNs (`--root`). */
  readonly runtimeState: string
  readonly pipe: OutputPipe
  /** /dev/null, for reading. */
  readonly nothing: number
  readonly reaper: ChildReaper
  readonly starts: FilteredStarts
  readonly programs: SealedPrograms
  readonly turns: StartTurns
  readonly cgroups: Cgroups
  readonly cgroupPath: string
  /** How to start this program again: Node.js and its arguments. */
  readonly self: readonly [string, ...string[]]
  /** To be called when the container has a mount namespace of its own. */
  readonly started: () => void
  readonly killed: () => boolean
  /**
   * Announces a process to be killed with the RUN, at once when the RUN already is. The returned
   * function has to be called when the process has ended, since its pid then means nothing any more.
   */
  readonly watch: (pid: number) => () => void
}

/** Runs the container to its end; processes it leaves behind are the caller's. */
export type RunContainer = (context: RunContext) => Promise<LaunchResult>

/** All a tool of this machine needs; nothing of the daemon's own environment leaks. */
export const toolEnvironment = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' }
