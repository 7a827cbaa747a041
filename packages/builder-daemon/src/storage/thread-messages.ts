import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { codes, type ErrorCode } from '@isula-build/shared/errors/codes.js'
import { failureCode } from './failure.js'

/** What a store thread is for; each runs in a thread of its own. */
export type StoreThreadData =
  | { readonly role: 'database'; readonly path: string; readonly backups: BackupPolicy }
  | { readonly role: 'flush'; readonly fd: number }
  /** Number 0 of `stop` other than 0: leave the rest for the next start. */
  | { readonly role: 'look'; readonly dataRoot: string; readonly stop: Int32Array }
  | { readonly role: 'remove'; readonly trash: string; readonly stop: Int32Array }

/** A backup is taken when `commits` durable commits are not in the last one, or the oldest of them is `maxAgeMs` old. */
export interface BackupPolicy {
  readonly directory: string
  readonly commits: number
  readonly maxAgeMs: number
  /** Time between two backups at least. */
  readonly minGapMs: number
  readonly keep: number
}

export interface ThreadRequest {
  readonly id: number
  readonly name: string
  readonly params: unknown
}

/** Number 0 answers nobody: something went wrong in the background of the thread. */
export type ThreadReply =
  | { readonly id: number; readonly ok: true; readonly result: unknown }
  | { readonly id: number; readonly ok: false; readonly failure: ThreadFailure }

/** An error as it crosses threads; classes do not. */
export interface ThreadFailure {
  readonly message: string
  readonly stack: string
  /** An ErrorCode of the catalogue, an errno name or an SQLite code, its own or of its cause; '' when there was none. */
  readonly code: string
  readonly hint: string | undefined
}

export function encodeFailure(error: unknown): ThreadFailure {
  return {
    message: error instanceof Error ? error.message : String(error),
    stack: error instanceof Error ? (error.stack ?? '') : '',
    code: failureCode(error) || (error instanceof Error ? failureCode(error.cause) : ''),
    hint: error instanceof BuilderError ? error.details.hint : undefined,
  }
}

function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(codes, code)
}

export function decodeFailure(failure: ThreadFailure): Error {
  const error = isErrorCode(failure.code)
    ? new BuilderError(
        failure.code,
        failure.message,
        failure.hint === undefined ? {} : { hint: failure.hint },
      )
    : Object.assign(new Error(failure.message), { code: failure.code })
  error.stack = failure.stack
  return error
}
