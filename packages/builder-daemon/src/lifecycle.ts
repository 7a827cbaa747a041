import type { Logger } from './ports/logger.js'

/** What a start step gives back: how to undo it. */
export type Undo = () => void | PromiseLike<void>

/**
 * Start steps, each timed; several may be under way at once. Stopping waits for those, then undoes in the reverse of
 * the order in which they began, each at most once.
 */
export interface Lifecycle {
  /** Fails with the reason of the lifecycle's signal, and does nothing, once that is aborted. */
  step<T>(name: string, run: () => T | Promise<T>, undo?: (value: T) => void | PromiseLike<void>): Promise<T>
  /** Every undo runs, also after one fails; failures are logged. */
  stop(): Promise<void>
}

interface Step {
  readonly name: string
  /** Absent while the step is under way, and when there is nothing to undo. */
  undo?: Undo
}

export function createLifecycle(log: Logger, signal?: AbortSignal): Lifecycle {
  const steps: Step[] = []
  const underWay = new Set<Promise<unknown>>()

  const perform = async <T>(
    step: Step,
    run: () => T | Promise<T>,
    undo: ((value: T) => void | PromiseLike<void>) | undefined,
  ): Promise<T> => {
    const begin = performance.now()
    const value = await run()
    log.debug('start.step', { step: step.name, ms: Math.round(performance.now() - begin) })
    if (undo !== undefined) step.undo = () => undo(value)
    return value
  }

  return {
    async step(name, run, undo) {
      signal?.throwIfAborted()
      const step: Step = { name }
      steps.push(step)
      const performed = perform(step, run, undo)
      underWay.add(performed)
      try {
        return await performed
      } finally {
        underWay.delete(performed)
      }
    },
    async stop() {
      await Promise.allSettled(underWay)
      for (let last = steps.pop(); last !== undefined; last = steps.pop()) {
        try {
          await last.undo?.()
        } catch (error) {
          log.error('stop.failed', { step: last.name, error })
        }
      }
    },
  }
}
