import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

export interface LockWish {
  readonly name: string
  /** Asked again whenever the lock might be had. */
  readonly isExclusive: () => boolean
}

/** Locks that one operation got together. */
export interface HeldLocks {
  /** From alone in it to one of many. */
  share(name: string): void
  /** Gives all of them back; twice is harmless. */
  release(): void
}

/**
 * Locks that are shared or exclusive, taken all at once. Nobody overtakes an earlier one who waits for the same lock,
 * except that sharing does not disturb who waits to share; so everybody gets his turn, and nobody holds while he waits.
 */
export interface FairLocks {
  acquire(wishes: readonly LockWish[], signal: AbortSignal): Promise<HeldLocks>
  /** Nobody has it or waits for it. */
  isFree(name: string): boolean
}

interface Waiter {
  readonly wishes: readonly LockWish[]
  readonly grant: () => void
}

type Claim = 'shared' | 'exclusive'

export function createFairLocks(): FairLocks {
  /** How many share a lock; -1 when one has it alone. */
  const holders = new Map<string, number>()
  const waiting = new Set<Waiter>()

  function canTake(wish: LockWish, claims: ReadonlyMap<string, Claim>): boolean {
    const held = holders.get(wish.name) ?? 0
    const claim = claims.get(wish.name)
    if (wish.isExclusive()) return held === 0 && claim === undefined
    return held >= 0 && claim !== 'exclusive'
  }

  /** Gives everyone who can have all his locks what he waits for, the earliest first. */
  function admit(): void {
    const claims = new Map<string, Claim>()
    for (const waiter of waiting) {
      if (waiter.wishes.every((wish) => canTake(wish, claims))) {
        waiting.delete(waiter)
        waiter.grant()
        continue
      }
      for (const { name, isExclusive } of waiter.wishes) {
        if (isExclusive()) claims.set(name, 'exclusive')
        else if (!claims.has(name)) claims.set(name, 'shared')
      }
    }
  }

  function take(wishes: readonly LockWish[]): HeldLocks {
    const held = new Map<string, Claim>()
    for (const { name, isExclusive } of wishes) {
      const claim = isExclusive() ? 'exclusive' : 'shared'
      held.set(name, claim)
      holders.set(name, claim === 'exclusive' ? -1 : (holders.get(name) ?? 0) + 1)
    }
    return {
      share(name) {
        if (held.get(name) !== 'exclusive') return
        held.set(name, 'shared')
        holders.set(name, 1)
        admit()
      },
      release() {
        if (held.size === 0) return
        for (const [name, claim] of held) {
          const left = claim === 'exclusive' ? 0 : (holders.get(name) ?? 0) - 1
          if (left > 0) holders.set(name, left)
          else holders.delete(name)
        }
        held.clear()
        admit()
      },
    }
  }

  return {
    isFree(name) {
      if (holders.has(name)) return false
      for (const { wishes } of waiting) if (wishes.some((wish) => wish.name === name)) return false
      return true
    },
    async acquire(wishes, signal) {
      if (signal.aborted) throw cancelled()
      return await new Promise<HeldLocks>((resolve, reject) => {
        const waiter: Waiter = {
          wishes,
          grant() {
            signal.removeEventListener('abort', onAbort)
            resolve(take(wishes))
          },
        }
        const onAbort = (): void => {
          waiting.delete(waiter)
          reject(cancelled())
          admit()
        }
        signal.addEventListener('abort', onAbort, { once: true })
        waiting.add(waiter)
        admit()
      })
    },
  }
}

function cancelled(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'the build was cancelled while it waited for a cache mount')
}
