import { closeSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import {
  PR_CAP_AMBIENT,
  PR_CAP_AMBIENT_CLEAR_ALL,
  PR_SET_DUMPABLE,
  PR_SET_KEEPCAPS,
  PR_SET_NO_NEW_PRIVS,
  PR_SET_PDEATHSIG,
  prctl,
  setgroups,
  setresgid,
  setresuid,
} from '../system/processes.js'
import { hasErrno } from '../system/system-error.js'

export interface UnixIdentity {
  readonly uid: number
  readonly gid: number
  readonly groups: readonly number[]
}

const SIGKILL = 9

/**
 * Makes this whole process that user for good; throws when anything of root is left. The order
 * matters: a change of user undoes the death signal and the dumpable flag.
 */
export function becomeUser(identity: UnixIdentity): void {
  const { uid, gid } = identity
  if (uid === 0) throw new Error('an identity helper never works for root')
  prctl(PR_SET_KEEPCAPS, 0)
  setgroups(identity.groups)
  setresgid(gid, gid, gid)
  setresuid(uid, uid, uid)
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
  prctl(PR_SET_NO_NEW_PRIVS, 1)
  prctl(PR_SET_DUMPABLE, 0)
  prctl(PR_SET_PDEATHSIG, SIGKILL)
  for (const task of readdirSync('/proc/self/task')) checkTask(task, identity)
}

/** Every thread, since the kernel keeps credentials per thread. */
function checkTask(task: string, { uid, gid }: UnixIdentity): void {
  let status: string
  try {
    status = readFileSync(`/proc/self/task/${task}/status`, 'latin1')
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ESRCH')) return
    throw error
  }
  const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? ''
  const isUser =
    field('Uid') === Array(4).fill(uid).join('\t') && field('Gid') === Array(4).fill(gid).join('\t')
  const isPowerless = ['CapPrm', 'CapEff', 'CapAmb'].every((name) => /^0+$/.test(field(name)))
  if (!isUser || !isPowerless) throw new Error('the process kept rights of root')
}

/**
 * Closes whatever leaked in from the daemon. `keep` are the descriptors meant for this process; of
 * the others only what Node.js makes for itself stays: event descriptors, and pipes with both ends here.
 */
export function closeInherited(keep: readonly number[]): void {
  const targets = new Map<number, string>()
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      targets.set(Number(name), readlinkSync(`/proc/self/fd/${name}`))
    } catch (error) {
      // The descriptor of the listing itself is gone again.
      if (!hasErrno(error, 'ENOENT')) throw error
    }
  }
  for (const [fd, target] of targets) {
    const isOwnPipe =
      target.startsWith('pipe:') && [...targets.values()].filter((one) => one === target).length > 1
    const isEvent = /^anon_inode:\[(eventpoll|eventfd|io_uring|timerfd|signalfd)\]$/.test(target)
    if (!keep.includes(fd) && !isOwnPipe && !isEvent) closeSync(fd)
  }
}
