import { join } from 'node:path'
import type { RuntimeMount } from '../ports/runtime.js'
import type { Capability } from './capabilities.js'
import type { CapabilitySets, OciConfig, Rlimit } from './oci-config.js'
import type { SeccompProfile } from './seccomp-profile.js'

/**
 * What the daemon and its launcher say to each other over a private pair of pipes: messages of a
 * 4-byte little-endian length and that many bytes of JSON. The daemon's end closing means the daemon
 * is gone.
 */
export const maxMessage = 64 * 1024 * 1024

export interface LauncherSettings {
  /** Overlay lowers are relative to it. */
  readonly dataRoot: string
  /** Holds `runtime/`, which belongs to the launcher alone. */
  readonly runRoot: string
  /** Below every cgroup hierarchy, e.g. `/isula-build/3f2a...`. */
  readonly cgroupParent: string
  /** Output bytes of one RUN before it is made to wait. */
  readonly spoolQuota: number
  /** The OCI runtime that requests will name, to prepare for it; undefined when there is none. */
  readonly runtimePath: string | undefined
}

export interface LauncherPaths {
  /** `<runRoot>/runtime`: the launcher's own. */
  readonly root: string
  readonly lock: string
  /** One file per RUN where no cgroup tells a later launcher what is left. */
  readonly records: string
  /** Mount point of a file system in memory: configurations hold secrets in their environments. */
  readonly memory: string
  /** Directory of each RUN, in memory. */
  readonly runs: string
  /** State of the OCI runtime, in memory. */
  readonly oci: string
}

export function launcherPaths(runRoot: string): LauncherPaths {
  const root = join(runRoot, 'runtime')
  const memory = join(root, 'memory')
  return {
    root,
    lock: join(root, 'launcher.lock'),
    records: join(root, 'records'),
    memory,
    runs: join(memory, 'runs'),
    oci: join(memory, 'oci'),
  }
}

export interface LaunchRequest {
  readonly id: string
  readonly lowers: readonly string[]
  readonly upper: string
  readonly work: string
  readonly cwd: string
  readonly mounts: readonly LaunchMount[]
  readonly network: 'host' | 'none'
  readonly hostname: string
  readonly spool: string
  readonly process: OciProcessRequest | ChrootProcessRequest
}

/** A `RuntimeMount` whose bytes survive JSON. */
export type LaunchMount =
  | Exclude<RuntimeMount, { type: 'file' }>
  | (Omit<Extract<RuntimeMount, { type: 'file' }>, 'content'> & { readonly content: string })

export interface OciProcessRequest {
  readonly kind: 'oci'
  /** Or a name, to be looked for in the system directories. */
  readonly runtimePath: string
  /** config.json but for its filter of system calls. */
  readonly config: OciConfig
  /** Whom the filter is for; undefined: there is none. */
  readonly filter: FilterRequest | undefined
}

export interface FilterRequest {
  /** Node's name of the machine's architecture. */
  readonly architecture: string
  /** The bounding set of the container. */
  readonly capabilities: readonly Capability[]
}

export interface ChrootProcessRequest {
  readonly kind: 'chroot'
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly user: {
    readonly uid: number
    readonly gid: number
    readonly additionalGids: readonly number[]
  }
  readonly capabilities: CapabilitySets
  readonly rlimits: readonly Rlimit[]
  readonly oomScoreAdj: number | undefined
  readonly maskedPaths: readonly string[]
  readonly readonlyPaths: readonly string[]
  /** undefined = every system call is allowed. */
  readonly seccomp: SeccompProfile | undefined
  readonly sharedMemorySize: string
  readonly writableSysfs: boolean
}

export type ToLauncher =
  | { readonly type: 'settings'; readonly settings: LauncherSettings }
  | { readonly type: 'run'; readonly request: LaunchRequest }
  | { readonly type: 'kill'; readonly id: string }
  | { readonly type: 'quota'; readonly id: string; readonly bytes: number }

export type LaunchResult =
  | { readonly kind: 'exited'; readonly code: number }
  | { readonly kind: 'signalled'; readonly signal: number }
  | { readonly kind: 'killed' }
  | {
      readonly kind: 'failed'
      readonly code: LaunchFailure
      readonly message: string
      readonly exitCode?: number
      readonly hint?: string
    }

/** Codes of the catalogue a launcher may answer with. */
export type LaunchFailure =
  | 'ISB_STEP_FAILED'
  | 'ISB_ARGUMENT_INVALID'
  | 'ISB_LIMIT_EXCEEDED'
  | 'ISB_NO_SPACE'
  | 'ISB_RUNTIME_MISSING'
  | 'ISB_INTERNAL'

export interface RecoveryReport {
  /** RUNs of an earlier launcher that were found and ended. */
  readonly runs: readonly string[]
  readonly cgroups: 'v1' | 'v2' | 'hybrid' | 'none'
  /** See `Cgroups.limitsProcesses`. */
  readonly limitsProcesses: boolean
}

export type FromLauncher =
  | { readonly type: 'ready'; readonly recovery: RecoveryReport }
  | { readonly type: 'unusable'; readonly message: string }
  | { readonly type: 'result'; readonly id: string; readonly result: LaunchResult }
  | { readonly type: 'stalled'; readonly id: string; readonly bytes: number }
  | { readonly type: 'log'; readonly event: string; readonly fields: Record<string, unknown> }

export function encodeMessage(message: ToLauncher | FromLauncher): Buffer {
  const body = Buffer.from(JSON.stringify(message), 'utf8')
  if (body.length > maxMessage) throw new RangeError(`message of ${body.length} bytes is too long`)
  const head = Buffer.alloc(4)
  head.writeUInt32LE(body.length)
  return Buffer.concat([head, body])
}

/** Cuts a byte stream into messages; both ends are this program, so a malformed one is a plain Error. */
export function messageDecoder<M>(deliver: (message: M) => void): (chunk: Buffer) => void {
  let pending: Buffer[] = []
  let available = 0
  return (chunk) => {
    pending.push(chunk)
    available += chunk.length
    while (available >= 4) {
      const joined = pending.length === 1 ? (pending[0] ?? Buffer.alloc(0)) : Buffer.concat(pending)
      pending = [joined]
      const length = joined.readUInt32LE(0)
      if (length > maxMessage) throw new RangeError(`message of ${length} bytes is too long`)
      if (available < 4 + length) return
      const body = joined.subarray(4, 4 + length)
      const rest = joined.subarray(4 + length)
      pending = rest.length === 0 ? [] : [rest]
      available = rest.length
      deliver(JSON.parse(body.toString('utf8')) as M)
    }
  }
}
