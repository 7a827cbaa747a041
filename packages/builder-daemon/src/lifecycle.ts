import type { Logger } from './ports/logger.js'

/** What a start step gives back: how to undo it. */
export type Undo = () => void | PromiseLike<void>

/** Start steps in order, each timed; stopping undoes them in reverse, each at most once. */
export interface Lifecycle {
  step<T>(name: string, run: () => T | Promise<T>, undo?: (value: T) => void | PromiseLike<void>): Promise<T>
  /** Every undo runs, also after one fails; failures are logged. */
  stop(): Promise<void>
}

export function createLifecycle(log: Logger): Lifecycle {
  const undos: { name: string; undo: Undo }[] = []
  return {
    async step(name, run, undo) {
      const begin = performance.now()
      const value = await run()
      log.debug('start.step', { step: name, ms: Math.round(performance.now() - begin) })
      if (undo !== undefined) undos.push({ name, undo: () => undo(value) })
      return value
    },
    async stop() {
      for (let last = undos.pop(); last !== undefined; last = undos.pop()) {
        try {
          await last.undo()
        } catch (error) {
          log.error('stop.failed', { step: last.name, error })
        }
      }
    },
  }
}
