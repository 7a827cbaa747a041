import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { RunSpec } from '../ports/runtime.js'
import type { LaunchMount, LaunchRequest } from './launcher-protocol.js'
import { checkLayerCount } from './overlay-mount.js'
import { readonlyPaths } from './protected-paths.js'
import { seccompProfile } from './seccomp-profile.js'
import {
  capabilitySets,
  defaultHostname,
  grantedCapabilities,
  type HostFacts,
  isSharedMemory,
  maskedPathsFor,
  ociConfig,
  resourceLimits,
  sharedMemorySize,
} from './spec.js'

export interface LaunchPlace {
  readonly rootfs: string
  readonly cgroupsPath: string | undefined
  /** Name or path of the OCI runtime; undefined when there is none. */
  readonly runtimePath: string | undefined
}

/**
 * Checks a RUN and turns it into what the launcher does. Fails with ISB_ARGUMENT_INVALID,
 * ISB_LIMIT_EXCEEDED or ISB_RUNTIME_MISSING.
 */
export function launchRequest(spec: RunSpec, host: HostFacts, place: LaunchPlace): LaunchRequest {
  checkSpec(spec)
  // As docker does: an entry without a value unsets, and there is nothing to unset.
  const checked: RunSpec = {
    ...spec,
    env: spec.env.filter((entry) => entry.indexOf('=') > 0),
    cwd: spec.cwd.startsWith('/') ? spec.cwd : `/${spec.cwd}`,
  }
  return {
    id: spec.id,
    lowers: spec.lowers,
    upper: spec.upper,
    work: spec.work,
    cwd: checked.cwd,
    mounts: spec.mounts.filter((mount) => !isSharedMemory(mount)).map(launchMount),
    network: spec.network,
    hostname: spec.hostname ?? defaultHostname,
    spool: spec.spool,
    process: checked.isolation === 'chroot' ? chrootProcess(checked, host) : ociProcess(checked, host, place),
  }
}

function ociProcess(spec: RunSpec, host: HostFacts, place: LaunchPlace): LaunchRequest['process'] {
  const { runtimePath } = place
  if (runtimePath === undefined) {
    throw new BuilderError('ISB_RUNTIME_MISSING', 'no container runtime (runc or crun) was found')
  }
  const config = ociConfig(spec, host, place)
  const { seccomp, ...linux } = config.linux
  const { architecture } = host
  const filter =
    seccomp === undefined ? undefined : { architecture, capabilities: config.process.capabilities.bounding }
  return { kind: 'oci', runtimePath, config: { ...config, linux }, filter }
}

function chrootProcess(spec: RunSpec, host: HostFacts): LaunchRequest['process'] {
  const bounding = grantedCapabilities(spec, host)
  return {
    kind: 'chroot',
    args: spec.args,
    env: spec.env,
    user: spec.user,
    capabilities: capabilitySets(spec.user.uid, bounding),
    rlimits: resourceLimits(host),
    oomScoreAdj: host.oomScoreAdj < 0 ? 0 : undefined,
    maskedPaths: maskedPathsFor(spec, host),
    readonlyPaths: spec.insecure ? [] : readonlyPaths,
    seccomp: spec.insecure ? undefined : seccompProfile(host.architecture, bounding),
    sharedMemorySize: sharedMemorySize(spec),
    writableSysfs: spec.insecure,
  }
}

function launchMount(mount: RunSpec['mounts'][number]): LaunchMount {
  if (mount.type !== 'file') return mount
  return { ...mount, content: Buffer.from(mount.content).toString('base64') }
}

const identifier = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/
const hostName = /^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/

function checkSpec(spec: RunSpec): void {
  if (!identifier.test(spec.id)) throw new Error(`not an identifier of a RUN: ${spec.id}`)
  checkLayerCount(spec.lowers.length)
  if (spec.args.length === 0 || spec.args[0] === '') {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'RUN has no command')
  }
  const texts = [...spec.args, ...spec.env, spec.cwd, ...spec.mounts.map((mount) => mount.target)]
  if (texts.some((text) => text.includes('\0'))) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'a NUL character cannot be passed to a command')
  }
  if (spec.hostname !== undefined && !hostName.test(spec.hostname)) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', `"${spec.hostname}" is not a host name`)
  }
}
