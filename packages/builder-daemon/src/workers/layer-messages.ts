import { BuilderError, type ErrorDetails } from '@isula-build/shared/errors/builder-error.js'
import type { ErrorCode } from '@isula-build/shared/errors/codes.js'
import type { FeedParams } from '../layer/stored-tar.js'
import type { JobName, LayerJobs } from '../ports/layer-worker.js'
import { hasErrno } from '../system/system-error.js'

/** `workerData` of a layer thread. */
export interface LayerThreadData {
  /** One Int32: not 0 once the job under way is to stop. */
  readonly cancelled: SharedArrayBuffer
}

export interface LayerRequest<N extends JobName = JobName> {
  readonly id: number
  readonly job: N
  readonly params: LayerJobs[N]['params']
}

/** A request to work on the memory of another thread's job (see `JobControl.help`). */
export interface HelpRequest {
  readonly id: number
  readonly job: 'help'
  readonly params: HelpParams
}
export interface HelpParams {
  readonly memory: SharedArrayBuffer
  readonly feed: FeedParams | undefined
}

/** What a thread says. */
export type LayerMessage = LayerReply | HelpWanted | LayerComplaint

/** The job under way could do with one more thread. */
export interface HelpWanted extends HelpParams {
  readonly id: number
  readonly ok: 'help'
}

export type LayerReply =
  | { readonly id: number; readonly ok: true; readonly result: unknown }
  | { readonly id: number; readonly ok: false; readonly failure: LayerFailure }

/** What failed when the answer was out: for the log. */
export interface LayerComplaint {
  readonly ok: 'late'
  readonly afterwards: LayerFailure
}

/** An error as it crosses threads, where classes are lost. */
export interface LayerFailure {
  /** undefined for what is no BuilderError. */
  readonly code: ErrorCode | undefined
  readonly message: string
  readonly details: Omit<ErrorDetails, 'cause'>
  readonly stack: string | undefined
  /** The cause as text. */
  readonly cause: string | undefined
  /** errno's name, for a system call that failed. */
  readonly errno: string | undefined
}

export function encodeFailure(error: unknown): LayerFailure {
  if (error instanceof BuilderError) {
    const { cause, ...details } = error.details
    return {
      ...basics(error),
      code: error.code,
      details,
      cause: cause === undefined ? undefined : text(cause),
    }
  }
  // A full disk is nobody's bug, wherever it shows.
  if (hasErrno(error, 'ENOSPC', 'EDQUOT')) {
    const full = new BuilderError('ISB_NO_SPACE', 'no space left in the data root', { cause: error })
    return { ...basics(full), code: full.code, details: {}, cause: text(error) }
  }
  const errno =
    error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
  const basic = basics(error instanceof Error ? error : new Error(String(error)))
  return { ...basic, code: undefined, details: {}, cause: undefined, errno }
}

function basics(error: Error): Pick<LayerFailure, 'message' | 'stack' | 'errno'> {
  return { message: error.message, stack: error.stack, errno: undefined }
}

function text(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}

export function decodeFailure(failure: LayerFailure): Error {
  const cause = failure.cause === undefined ? undefined : new Error(failure.cause)
  const details = cause === undefined ? failure.details : { ...failure.details, cause }
  const error =
    failure.code === undefined
      ? Object.assign(new Error(failure.message), failure.errno === undefined ? {} : { code: failure.errno })
      : new BuilderError(failure.code, failure.message, details)
  if (failure.stack !== undefined) error.stack = failure.stack
  return error
}
