import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Every capability in the order of its number (capabilities(7), linux/capability.h). */
export const capabilityNames = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_DAC_READ_SEARCH',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETPCAP',
  'CAP_LINUX_IMMUTABLE',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_BROADCAST',
  'CAP_NET_ADMIN',
  'CAP_NET_RAW',
  'CAP_IPC_LOCK',
  'CAP_IPC_OWNER',
  'CAP_SYS_MODULE',
  'CAP_SYS_RAWIO',
  'CAP_SYS_CHROOT',
  'CAP_SYS_PTRACE',
  'CAP_SYS_PACCT',
  'CAP_SYS_ADMIN',
  'CAP_SYS_BOOT',
  'CAP_SYS_NICE',
  'CAP_SYS_RESOURCE',
  'CAP_SYS_TIME',
  'CAP_SYS_TTY_CONFIG',
  'CAP_MKNOD',
  'CAP_LEASE',
  'CAP_AUDIT_WRITE',
  'CAP_AUDIT_CONTROL',
  'CAP_SETFCAP',
  'CAP_MAC_OVERRIDE',
  'CAP_MAC_ADMIN',
  'CAP_SYSLOG',
  'CAP_WAKE_ALARM',
  'CAP_BLOCK_SUSPEND',
  'CAP_AUDIT_READ',
  'CAP_PERFMON',
  'CAP_BPF',
  'CAP_CHECKPOINT_RESTORE',
] as const

export type Capability = (typeof capabilityNames)[number]

/** What Docker and isula-build give to a build container. */
export const defaultCapabilities: readonly Capability[] = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETPCAP',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_RAW',
  'CAP_SYS_CHROOT',
  'CAP_MKNOD',
  'CAP_AUDIT_WRITE',
  'CAP_SETFCAP',
]

/** Accepts `CAP_NET_ADMIN`, `net_admin` and `ALL`; fails with ISB_ARGUMENT_INVALID. */
export function parseCapabilities(names: readonly string[]): readonly Capability[] {
  const chosen = new Set<Capability>()
  for (const name of names) {
    const upper = name.toUpperCase()
    if (upper === 'ALL') return capabilityNames
    const full = upper.startsWith('CAP_') ? upper : `CAP_${upper}`
    const known = capabilityNames.find((candidate) => candidate === full)
    if (known === undefined) {
      throw new BuilderError('ISB_ARGUMENT_INVALID', `unknown capability "${name}"`, {
        hint: 'Give a name of capabilities(7), for example `CAP_NET_ADMIN`, or `ALL`.',
      })
    }
    chosen.add(known)
  }
  return capabilityNames.filter((candidate) => chosen.has(candidate))
}

/** The bits of `/proc/PID/status` as names; bits without a name are left out. */
export function capabilitiesOfMask(mask: bigint): readonly Capability[] {
  return capabilityNames.filter((_, number) => ((mask >> BigInt(number)) & 1n) === 1n)
}

export function capabilityMask(names: readonly Capability[]): bigint {
  return names.reduce((mask, name) => mask | (1n << BigInt(capabilityNames.indexOf(name))), 0n)
}
