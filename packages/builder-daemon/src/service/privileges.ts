import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Caller } from '../ports/caller.js'

export interface PrivilegePolicy {
  readonly uids: readonly number[]
  readonly gids: readonly number[]
}

/** Linux capabilities (capabilities(7)) that `--cap-add` may name. */
const capabilities: ReadonlySet<string> = new Set(
  `AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH
   FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN
   NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT
   SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM`
    .split(/\s+/)
    .map((name) => `CAP_${name}`),
)

/** Root may do everything; others what the administrator allows their uid or one of their gids. */
export function isPrivileged(caller: Caller, policy: PrivilegePolicy): boolean {
  if (caller.uid === 0 || policy.uids.includes(caller.uid)) return true
  return [caller.gid, ...caller.groups].some((gid) => policy.gids.includes(gid))
}

/** Fails with ISB_PERMISSION_DENIED naming what was asked for. */
export function requirePrivilege(caller: Caller, policy: PrivilegePolicy, what: string): void {
  if (isPrivileged(caller, policy)) return
  throw new BuilderError('ISB_PERMISSION_DENIED', `${what} is not allowed for uid ${caller.uid}`, {
    hint: 'An administrator can allow it under [privileged] in configuration.toml.',
  })
}

/** Fails with ISB_ARGUMENT_INVALID for a name that is no capability. */
export function requireCapabilities(names: readonly string[]): void {
  for (const name of names) {
    if (!capabilities.has(name)) {
      throw new BuilderError('ISB_ARGUMENT_INVALID', `cap ${name} is invalid`, {
        hint: 'Expected names like CAP_SYS_PTRACE.',
      })
    }
  }
}
