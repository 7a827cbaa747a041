import type { FeedParams } from './stored-tar.js'

/** How a synchronous job learns that nobody wants its result any more. */
export interface JobControl {
  /** Fails with ISB_CANCELLED once the job was aborted. Cheap: to be called per file and per chunk. */
  check(): void
  /** Work to be done when the result is out, that may be lost; with no one to do it then, it is done at once. */
  afterwards?(work: () => void): void
  /**
   * Asks for one more thread to work on the slots in `memory` (see `pipe/slots`), or to `feed` the job (see `pipe/feed`).
   * It comes sometime or never; the job has to get to its end without it. The first word of the memory grows by one when
   * it came and died.
   */
  help?(memory: SharedArrayBuffer, feed?: FeedParams): void
}

/** For jobs that run to their end. */
export const uncontrolled: JobControl = { check() {} }
