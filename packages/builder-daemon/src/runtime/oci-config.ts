import type { Capability } from './capabilities.js'
import type { SeccompProfile } from './seccomp-profile.js'
import type { SeccompRemainder } from './seccomp-shares.js'

/** The part of config.json this daemon writes (OCI runtime spec 1.0.2, config.md and config-linux.md). */
export interface OciConfig {
  readonly ociVersion: string
  readonly process: OciProcess
  readonly root: { readonly path: string; readonly readonly: boolean }
  readonly hostname: string
  readonly mounts: readonly OciMount[]
  readonly linux: OciLinux
}

export interface OciProcess {
  readonly terminal: false
  readonly user: {
    readonly uid: number
    readonly gid: number
    readonly umask: number
    readonly additionalGids?: readonly number[]
  }
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly cwd: string
  readonly capabilities: CapabilitySets
  readonly rlimits: readonly Rlimit[]
  readonly noNewPrivileges: boolean
  readonly oomScoreAdj?: number
}

export interface CapabilitySets {
  readonly bounding: readonly Capability[]
  readonly effective: readonly Capability[]
  readonly permitted: readonly Capability[]
  readonly inheritable: readonly Capability[]
  readonly ambient: readonly Capability[]
}

export interface Rlimit {
  readonly type: 'RLIMIT_NOFILE' | 'RLIMIT_CORE'
  readonly soft: number
  readonly hard: number
}

export interface OciMount {
  readonly destination: string
  readonly type: string
  readonly source: string
  readonly options: readonly string[]
}

export interface OciLinux {
  readonly namespaces: readonly { readonly type: string }[]
  readonly maskedPaths: readonly string[]
  readonly readonlyPaths: readonly string[]
  readonly cgroupsPath?: string
  readonly resources?: {
    readonly devices: readonly DeviceRule[]
    readonly pids?: { readonly limit: number }
  }
  readonly seccomp?: SeccompProfile | SeccompRemainder
  readonly personality?: { readonly domain: 'LINUX32' }
}

export interface DeviceRule {
  readonly allow: boolean
  readonly type?: 'a' | 'b' | 'c'
  readonly major?: number
  readonly minor?: number
  readonly access: string
}
