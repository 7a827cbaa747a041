import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

export interface QueueLimits {
  /** Builds that run at once. */
  readonly running: number
  /** Builds that may wait; one more is refused with ISB_TOO_MANY_BUILDS. */
  readonly waiting: number
}

interface Waiter {
  readonly start: () => void
  readonly position: (position: number) => void
}

/** A place in the running set; releasing it twice is harmless. */
export interface Slot extends Disposable {
  readonly release: () => void
}

/**
 * Admits builds: at most `limits.running` at once, users in turn, so that one user's backlog delays
 * another's first build by one slot at most.
 */
export class BuildQueue {
  private running = 0
  /** Users in the order of their next turn; each with its builds in the order of arrival. */
  private readonly waiting = new Map<number, Waiter[]>()

  constructor(private readonly limits: QueueLimits) {}

  get runningCount(): number {
    return this.running
  }

  /** Resolves when the build may run; `onQueued` hears its place (from 1) while it waits. */
  async acquire(uid: number, signal: AbortSignal, onQueued: (position: number) => void): Promise<Slot> {
    signal.throwIfAborted()
    if (this.running < this.limits.running) {
      this.running++
      return this.slot()
    }
    if (this.waitingCount() >= this.limits.waiting) {
      throw new BuilderError(
        'ISB_TOO_MANY_BUILDS',
        `${this.running} builds are running and ${this.waitingCount()} are waiting, which is the limit`,
      )
    }
    await new Promise<void>((resolve, reject) => {
      const waiter: Waiter = {
        start: () => {
          signal.removeEventListener('abort', onAbort)
          resolve()
        },
        position: onQueued,
      }
      const onAbort = (): void => {
        this.leave(uid, waiter)
        reject(new BuilderError('ISB_CANCELLED', 'the build was cancelled while it waited for its turn'))
      }
      signal.addEventListener('abort', onAbort, { once: true })
      const mine = this.waiting.get(uid)
      if (mine === undefined) this.waiting.set(uid, [waiter])
      else mine.push(waiter)
      onQueued(this.waitingCount())
    })
    return this.slot()
  }

  private waitingCount(): number {
    let count = 0
    for (const waiters of this.waiting.values()) count += waiters.length
    return count
  }

  private slot(): Slot {
    let held = true
    const release = (): void => {
      if (!held) return
      held = false
      this.running--
      this.admit()
    }
    return { release, [Symbol.dispose]: release }
  }

  private admit(): void {
    const next = this.waiting.entries().next()
    if (next.done || this.running >= this.limits.running) return
    const [uid, waiters] = next.value
    const waiter = waiters.shift()
    this.waiting.delete(uid)
    if (waiters.length > 0) this.waiting.set(uid, waiters)
    if (waiter === undefined) return
    this.running++
    waiter.start()
  }

  private leave(uid: number, waiter: Waiter): void {
    const waiters = this.waiting.get(uid)
    const index = waiters?.indexOf(waiter) ?? -1
    if (waiters === undefined || index === -1) return
    waiters.splice(index, 1)
    if (waiters.length === 0) this.waiting.delete(uid)
  }
}
