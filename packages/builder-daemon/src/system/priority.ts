import { readdirSync, stat } from 'node:fs'
import { getPriority } from 'node:os'
import { lastErrno, libc, syscallNumber } from './libc.js'
import { errnoName, SystemError } from './system-error.js'

/**
 * Threads that do little and are waited for by everybody go before those of programs that compute (sched(7), "The nice
 * value"). What they start, threads and programs, does not: it begins at the usual value 0
 * (SCHED_FLAG_RESET_ON_FORK), so that nothing of a user's is ever preferred.
 */

const call = {
  setAttributes: libc('long syscall(long, long, const void *, long)'),
}

const SCHED_OTHER = 0
const SCHED_FLAG_RESET_ON_FORK = 1

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

/** Whether the calling thread has the usual value: another one is what somebody wanted this program to have. */
export function hasUsualNice(): boolean {
  return getPriority(0) === 0
}

/**
 * Raises all threads that this process has by now, if this one has the usual value, those of libuv's pool among them, which do the calls of `node:fs`
 * that do not block. Workers that are started later raise themselves, if at all.
 */
export function raiseThreads(nice: number): void {
  if (!hasUsualNice()) return
  // The pool is made by its first task, before this returns.
  stat('/', () => undefined)
  for (const thread of readdirSync('/proc/self/task')) {
    if (!setNice(Number(thread), nice)) return
  }
}
