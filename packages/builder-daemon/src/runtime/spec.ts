import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import type { RunSpec } from '../ports/runtime.js'
import { type Capability, capabilityNames, defaultCapabilities, parseCapabilities } from './capabilities.js'
import type { CapabilitySets, DeviceRule, OciConfig, OciMount, Rlimit } from './oci-config.js'
import { maskedPaths, readonlyPaths } from './protected-paths.js'
import { seccompProfile } from './seccomp-profile.js'

/** What the configuration depends on beyond the RUN; read once by `readHostFacts`. */
export interface HostFacts {
  /** Node's name of the machine's architecture: `x64`, `arm64`, ... */
  readonly architecture: string
  /** The daemon's own bounding set: nobody can be given more. */
  readonly capabilities: readonly Capability[]
  /** The daemon's hard RLIMIT_NOFILE; raising it would need CAP_SYS_RESOURCE. */
  readonly openFilesLimit: number
  /** The daemon's oom_score_adj. */
  readonly oomScoreAdj: number
  /** Existing `thermal_throttle` directories, one per CPU (a side channel, masked like powercap). */
  readonly thermalPaths: readonly string[]
  /** The machine can limit the processes of a container. */
  readonly limitsProcesses: boolean
  /** Unified (v2) only: the container gets a cgroup namespace. */
  readonly cgroupNamespace: boolean
}

export interface ContainerPlace {
  /** Absolute path of the mounted root file system. */
  readonly rootfs: string
  /** Below every cgroup hierarchy; undefined where cgroups cannot be written. */
  readonly cgroupsPath: string | undefined
}

/** Name of the container where the build gives none; constant, so that results do not depend on it. */
export const defaultHostname = 'isula-build'

export const pidsLimit = 2048

/** `size` of /dev/shm, as Docker's default. */
const sharedMemory = '65536k'

/**
 * config.json of one RUN. Mounts of the RUN itself, /etc/hosts and /etc/resolv.conf are not in it:
 * they are part of the root file system when the runtime gets it. Fails with ISB_ARGUMENT_INVALID for
 * unknown capabilities.
 */
export function ociConfig(spec: RunSpec, host: HostFacts, place: ContainerPlace): OciConfig {
  const capabilities = grantedCapabilities(spec, host)
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: {
        uid: spec.user.uid,
        gid: spec.user.gid,
        umask: 0o022,
        ...(spec.user.additionalGids.length === 0 ? {} : { additionalGids: spec.user.additionalGids }),
      },
      args: spec.args,
      env: spec.env,
      cwd: spec.cwd,
      capabilities: capabilitySets(spec.user.uid, capabilities),
      rlimits: resourceLimits(host),
      noNewPrivileges: false,
      ...(host.oomScoreAdj < 0 ? { oomScoreAdj: 0 } : {}),
    },
    root: { path: place.rootfs, readonly: false },
    hostname: spec.hostname ?? defaultHostname,
    mounts: systemMounts(spec),
    linux: {
      namespaces: namespaces(spec, host),
      maskedPaths: maskedPathsFor(spec, host),
      readonlyPaths: spec.insecure ? [] : [...readonlyPaths, '/sys/fs/cgroup'],
      ...(place.cgroupsPath === undefined
        ? {}
        : {
            cgroupsPath: place.cgroupsPath,
            resources: {
              devices: deviceRules(spec.insecure),
              ...(host.limitsProcesses ? { pids: { limit: pidsLimit } } : {}),
            },
          }),
      ...(spec.insecure ? {} : { seccomp: seccompProfile(host.architecture, capabilities) }),
      ...(needsPersonality(spec, host) ? { personality: { domain: 'LINUX32' } } : {}),
    },
  }
}

/** The bounding set of the RUN, in the order of the capability numbers. */
export function grantedCapabilities(spec: RunSpec, host: HostFacts): readonly Capability[] {
  const wanted = spec.insecure
    ? capabilityNames
    : [...defaultCapabilities, ...parseCapabilities(spec.addCapabilities)]
  return capabilityNames.filter((name) => wanted.includes(name) && host.capabilities.includes(name))
}

/**
 * Inheritable and ambient stay empty (CVE-2022-24769, CVE-2022-27651): otherwise programs with file
 * capabilities, or a USER other than root, would keep what only root should have.
 */
export function capabilitySets(uid: number, bounding: readonly Capability[]): CapabilitySets {
  const own = uid === 0 ? bounding : []
  return { bounding, effective: own, permitted: own, inheritable: [], ambient: [] }
}

export function resourceLimits(host: HostFacts): readonly Rlimit[] {
  const hard = Math.min(524_288, host.openFilesLimit)
  return [
    { type: 'RLIMIT_NOFILE', soft: Math.min(1024, hard), hard },
    { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
  ]
}

export function maskedPathsFor(spec: RunSpec, host: HostFacts): readonly string[] {
  return spec.insecure ? [] : [...maskedPaths, ...host.thermalPaths]
}

/** Size option of /dev/shm: a tmpfs mount of the RUN there only changes the size. */
export function sharedMemorySize(spec: RunSpec): string {
  for (const mount of spec.mounts) {
    if (isSharedMemory(mount) && mount.size !== undefined) return String(mount.size)
  }
  return sharedMemory
}

/** `RUN --mount=type=tmpfs,target=/dev/shm` is a setting of the container's own /dev/shm, not a mount. */
export function isSharedMemory(
  mount: RunSpec['mounts'][number],
): mount is Extract<RunSpec['mounts'][number], { type: 'tmpfs' }> {
  return mount.type === 'tmpfs' && bytesOfText(mount.target).replace(/\/+$/, '') === '/dev/shm'
}

function namespaces(spec: RunSpec, host: HostFacts): readonly { type: string }[] {
  const types = ['mount', 'pid', 'ipc', 'uts']
  if (spec.network === 'none') types.push('network')
  if (host.cgroupNamespace) types.push('cgroup')
  return types.map((type) => ({ type }))
}

function systemMounts(spec: RunSpec): readonly OciMount[] {
  const sysfs = spec.insecure ? 'rw' : 'ro'
  return [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    {
      destination: '/dev',
      type: 'tmpfs',
      source: 'tmpfs',
      options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
    },
    {
      destination: '/dev/pts',
      type: 'devpts',
      source: 'devpts',
      options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
    },
    {
      destination: '/dev/shm',
      type: 'tmpfs',
      source: 'shm',
      options: ['nosuid', 'noexec', 'nodev', 'mode=1777', `size=${sharedMemorySize(spec)}`],
    },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', sysfs] },
    {
      destination: '/sys/fs/cgroup',
      type: 'cgroup',
      source: 'cgroup',
      options: ['nosuid', 'noexec', 'nodev', 'relatime', sysfs],
    },
  ]
}

const device = (type: 'b' | 'c', major: number, minor?: number, access = 'rwm'): DeviceRule => ({
  allow: true,
  type,
  major,
  ...(minor === undefined ? {} : { minor }),
  access,
})

/** Everything is refused but what /dev holds; nodes may be made (debootstrap does), not opened. */
function deviceRules(insecure: boolean): readonly DeviceRule[] {
  if (insecure) return [{ allow: true, access: 'rwm' }]
  return [
    { allow: false, access: 'rwm' },
    { allow: true, type: 'c', access: 'm' },
    { allow: true, type: 'b', access: 'm' },
    device('c', 1, 3),
    device('c', 1, 5),
    device('c', 1, 7),
    device('c', 1, 8),
    device('c', 1, 9),
    device('c', 5, 0),
    device('c', 5, 1),
    device('c', 5, 2),
    device('c', 136),
  ]
}

/** A 32-bit image on a 64-bit machine of its family sees `uname -m` of its own. */
function needsPersonality(spec: RunSpec, host: HostFacts): boolean {
  const { architecture } = spec.platform
  return (
    (architecture === '386' && host.architecture === 'x64') ||
    (architecture === 'arm' && host.architecture === 'arm64')
  )
}
