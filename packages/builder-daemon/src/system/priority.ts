import { readdirSync, stat } from 'node:fs'
import { getPriority, setPriority } from 'node:os'
import { checked, lastErrno, libc, syscallNumber } from './libc.js'
import { errnoName, SystemError } from './system-error.js'

/**
 * Threads that do little and are waited for by everybody go before those of programs that compute (sched(7), "The nice
 * value"). What they start, threads and programs, does not: it begins at the usual value 0
 * (SCHED_FLAG_RESET_ON_FORK), so that nothing of a user's is ever preferred.
 */

const call = {
  setAttributes: libc('long syscall(long, long, const void *, long)'),
  policy: libc('int sched_getscheduler(int)'),
}

const SCHED_OTHER = 0
const SCHED_FLAG_RESET_ON_FORK = 1
/** The same, as sched_getscheduler(2) tells it. */
const SCHED_RESET_ON_FORK = 0x4000_0000

/** Three times the share of a thread at 0, where there is more to do than processors. */
export const shortWork = -5

/**
 * Gives a thread (0: the calling one) a nice value from -20 to 19. False when this process may not, or the thread is
 * gone.
 */
export function setNice(thread: number, nice: number): boolean {
  // struct sched_attr of sched_setattr(2), in its first size.
  const attributes = Buffer.alloc(48)
  attributes.writeUInt32LE(attributes.length, 0)
  attributes.writeUInt32LE(SCHED_OTHER, 4)
  attributes.writeBigUInt64LE(BigInt(SCHED_FLAG_RESET_ON_FORK), 8)
  attributes.writeInt32LE(nice, 16)
  if (call.setAttributes(syscallNumber(314, 274), thread, attributes, 0) === 0) return true
  const errno = lastErrno()
  const name = errnoName(errno)
  if (['EPERM', 'EACCES', 'ESRCH', 'ENOSYS'].includes(name)) return false
  throw new SystemError(errno, 'sched_setattr')
}

/**
 * Whether the calling thread is scheduled as threads usually are: another nice value or policy is what somebody wanted
 * this program, and what it starts, to have.
 */
export function isUsual(): boolean {
  const policy = checked(call.policy(0), 'sched_getscheduler') & ~SCHED_RESET_ON_FORK
  return policy === SCHED_OTHER && getPriority(0) === 0
}

/**
 * Raises all threads that this process has by now, if this one is scheduled as usual, those of libuv's pool among them,
 * which do the calls of `node:fs` that do not block. Workers that are started later raise themselves, if at all.
 */
export function raiseThreads(nice: number): void {
  if (!isUsual()) return
  // The pool is made by its first task, before this returns.
  stat('/', () => undefined)
  raiseAll(readdirSync('/proc/self/task').map(Number), nice)
}

/** Some may have ended meanwhile. */
export function raiseAll(threads: readonly number[], nice: number): void {
  for (const thread of threads) setNice(thread, nice)
}

/** Lets others go before the calling thread: its nice value becomes this one, unless it is higher. */
export function giveWay(nice: number): void {
  // On Linux this is the calling thread alone (setpriority(2), "C library/kernel differences").
  setPriority(0, Math.max(nice, getPriority(0)))
}
