import type { SourceRange } from '../dockerfile/source.js'
import { codeEntry, type ErrorCode } from './codes.js'

/** What a renderer needs beyond the message; everything is optional and safe to send over the wire. */
export interface ErrorDetails {
  /** One imperative sentence; the catalogue's hint is used when absent. */
  readonly hint?: string
  /** Where in the Dockerfile; rendered as a frame with a caret. */
  readonly source?: SourceRange
  /** What the user sees for the step, e.g. `[build 3/7] RUN make`. */
  readonly step?: string
  /** Exit code of a failed RUN; becomes the client's. */
  readonly exitCode?: number
  readonly logTail?: readonly string[]
  readonly cause?: unknown
}

/** An error a user can reach. Broken invariants are plain `Error`s and surface as ISB_INTERNAL. */
export class BuilderError extends Error {
  override readonly name = 'BuilderError'

  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly details: ErrorDetails = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
  }

  get hint(): string | undefined {
    return this.details.hint ?? codeEntry(this.code).hint
  }

  /** The same error with more context; existing details win. */
  with(details: ErrorDetails): BuilderError {
    const merged = new BuilderError(this.code, this.message, { ...details, ...this.details })
    if (this.stack !== undefined) merged.stack = this.stack
    return merged
  }
}

export function isBuilderError(error: unknown, code?: ErrorCode): error is BuilderError {
  return error instanceof BuilderError && (code === undefined || error.code === code)
}
