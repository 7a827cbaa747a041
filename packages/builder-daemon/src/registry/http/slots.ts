import { cancellation } from './cancellation.js'

/** The right to use a connection. */
export interface Slot {
  /** Others may go on as if this one were released; until `resume`, which never waits. */
  lend(): void
  resume(): void
  /** Idempotent. */
  release(): void
}

export interface Slots {
  /** Fails with ISB_CANCELLED. */
  take(host: string, uid: number, signal: AbortSignal): Promise<Slot>
}

interface Waiter {
  readonly uid: number
  readonly go: () => void
}

interface HostSlots {
  /** By user. */
  readonly held: Map<number, number>
  lent: number
  waiting: readonly Waiter[]
}

/**
 * At most `limit` for one host; who waits is served by how few his user has, then by when he came. A user who has none
 * never waits, so that nobody can shut out another.
 */
export function createSlots(limit: number): Slots {
  const hosts = new Map<string, HostSlots>()

  const countOf = ({ held }: HostSlots) => [...held.values()].reduce((sum, count) => sum + count, 0)

  function count(host: string, state: HostSlots, uid: number, change: 1 | -1): void {
    const held = (state.held.get(uid) ?? 0) + change
    if (held === 0) state.held.delete(uid)
    else state.held.set(uid, held)
    if (change === 1) return
    while (state.waiting.length > 0) {
      const next = state.waiting.reduce((best, waiter) =>
        (state.held.get(waiter.uid) ?? 0) < (state.held.get(best.uid) ?? 0) ? waiter : best,
      )
      if (countOf(state) >= limit && state.held.has(next.uid)) return
      state.waiting = state.waiting.filter((waiter) => waiter !== next)
      next.go()
    }
    if (state.held.size === 0 && state.lent === 0) hosts.delete(host)
  }

  function slot(host: string, state: HostSlots, uid: number): Slot {
    let status: 'held' | 'lent' | 'released' = 'held'
    return {
      lend() {
        if (status !== 'held') return
        status = 'lent'
        state.lent++
        count(host, state, uid, -1)
      },
      resume() {
        if (status !== 'lent') return
        status = 'held'
        state.lent--
        count(host, state, uid, 1)
      },
      release() {
        const before = status
        status = 'released'
        if (before === 'held') count(host, state, uid, -1)
        if (before === 'lent' && --state.lent === 0 && state.held.size === 0) hosts.delete(host)
      },
    }
  }

  return {
    take(host, uid, signal) {
      if (signal.aborted) return Promise.reject(cancellation(signal))
      const state = hosts.get(host) ?? { held: new Map(), lent: 0, waiting: [] }
      hosts.set(host, state)
      if (countOf(state) < limit || !state.held.has(uid)) {
        count(host, state, uid, 1)
        return Promise.resolve(slot(host, state, uid))
      }
      return new Promise((resolve, reject) => {
        const waiter: Waiter = {
          uid,
          go() {
            signal.removeEventListener('abort', cancel)
            count(host, state, uid, 1)
            resolve(slot(host, state, uid))
          },
        }
        const cancel = () => {
          state.waiting = state.waiting.filter((other) => other !== waiter)
          reject(cancellation(signal))
        }
        signal.addEventListener('abort', cancel, { once: true })
        state.waiting = [...state.waiting, waiter]
      })
    },
  }
}

/** A slot for the host, and then one of a total for all of them. */
export function withTotal(slots: Slots, total: Slots): Slots {
  return {
    async take(host, uid, signal) {
      const own = await slots.take(host, uid, signal)
      try {
        const both = [own, await total.take('', uid, signal)]
        const each = (act: (slot: Slot) => void) => () => {
          for (const slot of both) act(slot)
        }
        return {
          lend: each((slot) => slot.lend()),
          resume: each((slot) => slot.resume()),
          release: each((slot) => slot.release()),
        }
      } catch (error) {
        own.release()
        throw error
      }
    },
  }
}
