import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'

/** Time that passes when nothing else can happen. */
export interface VirtualTime {
  readonly now: () => number
  /** Resolves after `duration`; an abort rejects with ISB_CANCELLED, `lag` later. */
  sleep(duration: number, signal?: AbortSignal, lag?: number): Promise<void>
  /** Calls `run` at a time that has not passed. */
  at(time: number, run: () => void): void
  /** Lets time pass until `isOver`; false when nothing more would happen before. */
  pass(isOver: () => boolean): Promise<boolean>
}

/** Only for code that waits for nothing but promises and this time. */
export function createVirtualTime(): VirtualTime {
  let now = 0
  const timers: { readonly time: number; readonly run: () => void }[] = []

  function at(time: number, run: () => void): void {
    let place = timers.length
    while (place > 0 && (timers[place - 1]?.time ?? 0) > time) place--
    timers.splice(place, 0, { time, run })
  }

  return {
    at,
    now: () => now,
    sleep(duration, signal, lag = 0) {
      return new Promise<void>((resolve, reject) => {
        const cancel = (): void => at(now + lag, () => reject(new BuilderError('ISB_CANCELLED', 'cancelled')))
        if (signal?.aborted === true) {
          cancel()
          return
        }
        signal?.addEventListener('abort', cancel, { once: true })
        at(now + duration, () => {
          if (signal?.aborted === true) return
          signal?.removeEventListener('abort', cancel)
          resolve()
        })
      })
    },
    async pass(isOver) {
      for (;;) {
        // Everything that promises alone lead to happens first.
        await new Promise((resolve) => setImmediate(resolve))
        if (isOver()) return true
        const next = timers.shift()
        if (next === undefined) return false
        now = next.time
        next.run()
      }
    },
  }
}
