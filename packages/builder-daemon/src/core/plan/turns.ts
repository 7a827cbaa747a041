import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** For loops that a user may make long: other calls are answered in between, a cancel of this build among them. */
export interface Turns {
  /** Counts work; after much of it everything else that waits for this thread goes first. Fails with ISB_CANCELLED. */
  spend(work: number): Promise<void>
}

/** Steps after which others get their turn: a plan of thousands takes most of a second. */
const stepsPerTurn = 64
/** Variables, labels or lines of history that take as long as a step. */
const entriesPerStep = 300

export function createTurns(signal: AbortSignal): Turns {
  let left = stepsPerTurn
  return {
    async spend(work) {
      left -= work
      if (left > 0) return
      left = stepsPerTurn
      await new Promise((resolve) => setImmediate(resolve))
      if (signal.aborted) throw new BuilderError('ISB_CANCELLED', 'the build was cancelled')
    },
  }
}

/** In steps, what a stage costs whose state holds so many entries. */
export function stageWork(entries: number): number {
  return 1 + Math.trunc(entries / entriesPerStep)
}
