import type { Platform } from '../core/plan/plan.js'

/** One RUN. All paths are the host's; `lowers` bottom first, relative to the data root (`l/XXXX`). */
export interface RunSpec {
  readonly id: string
  readonly lowers: readonly string[]
  readonly upper: string
  readonly work: string
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly cwd: string
  readonly user: ResolvedUser
  readonly mounts: readonly RuntimeMount[]
  readonly network: 'host' | 'none'
  readonly addCapabilities: readonly string[]
  /** `--security=insecure`: all capabilities, no seccomp, writable sysfs. */
  readonly insecure: boolean
  readonly isolation: 'oci' | 'chroot'
  readonly hostname: string | undefined
  readonly platform: Platform
  /** Output is appended here (stdout and stderr interleaved). */
  readonly spool: string
}

export interface ResolvedUser {
  readonly uid: number
  readonly gid: number
  readonly additionalGids: readonly number[]
}

export type RuntimeMount =
  | { readonly type: 'bind'; readonly source: string; readonly target: string; readonly readOnly: boolean }
  /** `lowers` mounted with a throw-away upper; `subpath` resolved inside it. */
  | {
      readonly type: 'overlay'
      readonly lowers: readonly string[]
      readonly subpath: string
      readonly target: string
      readonly readOnly: boolean
      readonly scratch: string
    }
  | { readonly type: 'tmpfs'; readonly target: string; readonly size: number | undefined }
  /** A tmpfs file with this content (secrets, scripts). */
  | {
      readonly type: 'file'
      readonly target: string
      readonly content: Uint8Array
      readonly mode: number
      readonly uid: number
      readonly gid: number
    }

export type RunExit =
  | { readonly kind: 'exited'; readonly code: number }
  | { readonly kind: 'signalled'; readonly signal: number }

export interface Runtime {
  /**
   * Runs to the end and leaves nothing behind but the upper: no process, mount or cgroup. An abort
   * kills the whole cgroup and rejects with ISB_CANCELLED. Fails with ISB_RUNTIME_MISSING, or
   * ISB_STEP_FAILED when the runtime itself refuses (exit code 125 to 127 semantics of docker).
   */
  run(spec: RunSpec, signal: AbortSignal): Promise<RunExit>
}
