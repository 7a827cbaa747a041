import type { ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { type ChildStatus, peekEndedChild, reapChild } from '../system/containment.js'
import { PR_SET_CHILD_SUBREAPER, prctl } from '../system/processes.js'
import { hasErrno } from '../system/system-error.js'

/**
 * Statuses of processes this one did not start itself: a detached runtime leaves the container's
 * first process to its nearest subreaper. Unlike a runtime's exit code, the status tells an exit with
 * 137 from a kill.
 */
export interface ChildReaper {
  /** Keeps away from a child that Node.js started and reaps on its own. */
  own(child: ChildProcess): void
  /** Resolves when the adopted process has ended, also when it already has; rejects when it is not ours. */
  ended(pid: number): Promise<ChildStatus>
  /** False once it has ended, when its pid may already be another's. */
  isRunning(pid: number): boolean
  /** To be called on SIGCHLD. */
  collect(): void
}

export function createChildReaper(self: number): ChildReaper {
  prctl(PR_SET_CHILD_SUBREAPER, 1)
  const owned = new Set<number>()
  const statuses = new Map<number, ChildStatus>()
  const waiting = new Map<number, (status: ChildStatus) => void>()

  const collect = (): void => {
    for (;;) {
      const pid = peekEndedChild()
      if (pid === undefined) return
      if (owned.has(pid)) {
        // It hides whoever ended behind it; Node.js reaps it within this turn of the loop.
        setImmediate(collect)
        return
      }
      const status = reapChild(pid)
      if (status === undefined) return
      const resolve = waiting.get(pid)
      waiting.delete(pid)
      if (resolve === undefined) remember(pid, status)
      else resolve(status)
    }
  }

  // Strays, such as what a killed runtime leaves, are never asked for.
  const remember = (pid: number, status: ChildStatus): void => {
    statuses.delete(pid)
    statuses.set(pid, status)
    if (statuses.size <= 4096) return
    const [oldest] = statuses.keys()
    if (oldest !== undefined) statuses.delete(oldest)
  }

  /** What is known of an earlier process with the same pid, such as a stray, says nothing about a child that is there. */
  const isChild = (pid: number): boolean => {
    if (parentOf(pid) !== self) return false
    statuses.delete(pid)
    return true
  }

  return {
    own(child) {
      const { pid } = child
      if (pid === undefined) return
      owned.add(pid)
      child.once('exit', () => owned.delete(pid))
    },
    ended(pid) {
      if (!isChild(pid)) {
        const status = statuses.get(pid)
        statuses.delete(pid)
        if (status !== undefined) return Promise.resolve(status)
        return Promise.reject(new Error(`the status of process ${pid} is lost`))
      }
      return new Promise((resolve) => {
        waiting.set(pid, resolve)
        collect()
      })
    },
    isRunning: (pid) => isChild(pid) || !statuses.has(pid),
    collect,
  }
}

/** undefined when the process is gone (proc_pid_stat(5)). */
function parentOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ESRCH')) return undefined
    throw error
  }
}
