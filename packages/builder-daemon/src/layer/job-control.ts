/** How a synchronous job learns that nobody wants its result any more. */
export interface JobControl {
  /** Fails with ISB_CANCELLED once the job was aborted. Cheap: to be called per file and per chunk. */
  check(): void
  /** Work to be done when the result is out, that may be lost; with no one to do it then, it is done at once. */
  afterwards?(work: () => void): void
}

/** For jobs that run to their end. */
export const uncontrolled: JobControl = { check() {} }
