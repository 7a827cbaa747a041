import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Slot } from './build-queue.js'

/** Whose step it is. */
export interface StepOwner {
  readonly uid: number
  /** Of the build among all builds of the daemon: a lower one came earlier. */
  readonly order: number
}

/**
 * What steps of all builds need to run. Users take turns, and of one user's steps those of the oldest build go first,
 * so that of many builds started at once some end early. A user of whom nothing runs never waits for the steps of
 * others: he gets one slot beyond the limit.
 */
export interface StepSlots {
  /** Resolves when the step may run; an abort rejects with ISB_CANCELLED. */
  acquire(owner: StepOwner, signal: AbortSignal): Promise<Slot>
  /** undefined when the step would have to wait. */
  tryAcquire(owner: Pick<StepOwner, 'uid'>): Slot | undefined
}

interface Waiter {
  readonly order: number
  readonly start: () => void
}

/** `limit` steps at once, and one for each user who would have none. */
export function createStepSlots(limit: number): StepSlots {
  let held = 0
  const heldBy = new Map<number, number>()
  /** Users in the order of their next turn; each with his steps, the oldest build's first. */
  const waiting = new Map<number, Waiter[]>()

  function take(uid: number): Slot {
    held++
    heldBy.set(uid, (heldBy.get(uid) ?? 0) + 1)
    let isHeld = true
    const release = (): void => {
      if (!isHeld) return
      isHeld = false
      held--
      const left = (heldBy.get(uid) ?? 0) - 1
      if (left > 0) heldBy.set(uid, left)
      else heldBy.delete(uid)
      admit()
    }
    return { release, [Symbol.dispose]: release }
  }

  function tryAcquire({ uid }: Pick<StepOwner, 'uid'>): Slot | undefined {
    return held < limit || !heldBy.has(uid) ? take(uid) : undefined
  }

  function nextUser(): number | undefined {
    for (const uid of waiting.keys()) if (held < limit || !heldBy.has(uid)) return uid
    return undefined
  }

  function admit(): void {
    for (let uid = nextUser(); uid !== undefined; uid = nextUser()) {
      const waiters = waiting.get(uid) ?? []
      const first = waiters.shift()
      waiting.delete(uid)
      if (waiters.length > 0) waiting.set(uid, waiters)
      first?.start()
    }
  }

  function enqueue(uid: number, waiter: Waiter): void {
    const mine = waiting.get(uid) ?? []
    let place = mine.length
    while (place > 0 && (mine[place - 1]?.order ?? 0) > waiter.order) place--
    mine.splice(place, 0, waiter)
    waiting.set(uid, mine)
  }

  function leave(uid: number, waiter: Waiter): void {
    const left = (waiting.get(uid) ?? []).filter((other) => other !== waiter)
    if (left.length > 0) waiting.set(uid, left)
    else waiting.delete(uid)
  }

  function turn({ uid, order }: StepOwner, signal: AbortSignal): Promise<Slot> {
    return new Promise<Slot>((resolve, reject) => {
      const waiter: Waiter = {
        order,
        start() {
          signal.removeEventListener('abort', onAbort)
          resolve(take(uid))
        },
      }
      const onAbort = (): void => {
        leave(uid, waiter)
        reject(cancelled())
      }
      signal.addEventListener('abort', onAbort, { once: true })
      enqueue(uid, waiter)
    })
  }

  return {
    async acquire({ uid, order }, signal) {
      if (signal.aborted) throw cancelled()
      return tryAcquire({ uid }) ?? (await turn({ uid, order }, signal))
    },
    tryAcquire,
  }
}

function cancelled(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'the build was cancelled while a step waited for its turn')
}
