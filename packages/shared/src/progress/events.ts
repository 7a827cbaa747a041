import type { SourceRange } from '../dockerfile/source.js'
import type { ErrorCode } from '../errors/codes.js'
import type { SkipReason, StepCache } from './cache-reason.js'

/**
 * What a build tells its watchers, in order. The payload of our service, the JSON output and every
 * renderer use this union. Times are milliseconds since the epoch.
 */
export type BuildEvent =
  | { readonly kind: 'queued'; readonly at: number; readonly position: number }
  | { readonly kind: 'started'; readonly at: number; readonly buildId: string; readonly totalSteps: number }
  | {
      readonly kind: 'step-started'
      readonly at: number
      /** Counts from 1 over the whole build, in the order of the Dockerfile. */
      readonly step: number
      readonly stage: string
      /** `RUN make all`: instruction upper-cased, one line. */
      readonly text: string
    }
  | {
      readonly kind: 'step-finished'
      readonly at: number
      readonly step: number
      readonly outcome: 'done' | 'cached' | 'failed' | 'cancelled'
      /** What the cache had to say; absent where nothing is executed and nothing was asked. */
      readonly cache?: StepCache
    }
  /**
   * It is not done, text as in `step-started`. What the target does not need has the number 0, and comes where it stands
   * in the Dockerfile.
   */
  | {
      readonly kind: 'step-skipped'
      readonly at: number
      readonly step: number
      readonly stage: string
      readonly text: string
      /** Absent where the daemon says none that this version knows. */
      readonly reason?: SkipReason['kind']
    }
  /**
   * Raw output of a RUN; latin1 carries the bytes unchanged. Of step 0, before `started`: lines on the images that are
   * fetched for the build.
   */
  | { readonly kind: 'output'; readonly at: number; readonly step: number; readonly data: Uint8Array }
  | {
      readonly kind: 'stage-committed'
      readonly at: number
      readonly stage: number
      readonly imageId: string
    }
  | { readonly kind: 'warning'; readonly at: number; readonly message: string; readonly source?: SourceRange }
  | { readonly kind: 'exported'; readonly at: number; readonly output: string }
  | {
      readonly kind: 'finished'
      readonly at: number
      readonly imageId: string
      readonly names: readonly string[]
    }
  | { readonly kind: 'failed'; readonly at: number; readonly code: ErrorCode; readonly message: string }
