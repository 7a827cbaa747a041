import { decodeSource, encodeSource, errorCode } from '../rpc/build-event.js'
import type { Decoded, Encodable } from '../rpc/codec.js'
import { ErrorDetail } from '../rpc/error-detail.js'
import { DecodeError } from '../rpc/wire-reader.js'
import { redactUrls } from '../text/redact.js'
import { BuilderError, type ErrorDetails } from './builder-error.js'
import { codeEntry, type ErrorCode, type GrpcStatus } from './codes.js'

/** Trailer that carries an encoded ErrorDetail (builder.proto). */
export const errorTrailer = 'isb-error-bin'

/** Trailers travel in one header block, which peers limit; larger errors lose detail, least useful first. */
export const maxErrorBytes = 16 * 1024

/** https://grpc.io/docs/guides/status-codes/ */
export const grpcStatusNumbers: Readonly<Record<GrpcStatus, number>> = {
  CANCELLED: 1,
  INVALID_ARGUMENT: 3,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
}

/** The status message is one percent-encoded header; three bytes of it for one of text. */
const maxStatusText = 2048

export function grpcStatus(error: BuilderError): { readonly code: number; readonly details: string } {
  return {
    code: grpcStatusNumbers[codeEntry(error.code).grpc],
    details: clean(error.message, maxStatusText),
  }
}

/** At most `maxErrorBytes`. */
export function encodeError(error: BuilderError): Buffer {
  let detail = errorDetail(error)
  for (const shrink of shrinkers) {
    const bytes = ErrorDetail.encode(detail)
    if (bytes.length <= maxErrorBytes) return bytes
    detail = shrink(detail)
  }
  return ErrorDetail.encode(detail)
}

/** Undefined when the bytes are no error. */
export function decodeError(bytes: Uint8Array): BuilderError | undefined {
  try {
    return errorOfDetail(ErrorDetail.decode(bytes))
  } catch (error) {
    if (error instanceof DecodeError) return undefined
    throw error
  }
}

/** Not limited in size: for messages, not for trailers. */
export function errorDetail(error: BuilderError): Encodable<typeof ErrorDetail> {
  const { source, step, exitCode, logTail } = error.details
  return {
    code: error.code,
    message: clean(error.message),
    hint: clean(error.hint ?? ''),
    source: encodeSource(
      source && { ...source, file: clean(source.file), lines: source.lines.map((line) => clean(line)) },
    ),
    step: clean(step ?? ''),
    exitCode,
    logTail: logTail?.map((line) => clean(line)),
  }
}

export function errorOfDetail(wire: Decoded<typeof ErrorDetail>): BuilderError {
  const source = decodeSource(wire.source)
  const details: ErrorDetails = {
    ...(wire.hint !== '' && { hint: wire.hint }),
    ...(source !== undefined && { source }),
    ...(wire.step !== '' && { step: wire.step }),
    ...(wire.exitCode !== undefined && { exitCode: wire.exitCode }),
    ...(wire.logTail.length > 0 && { logTail: wire.logTail }),
  }
  return new BuilderError(errorCode(wire.code), wire.message, details)
}

/** A failed call as a gRPC library reports it. */
export interface FailedStatus {
  readonly code: number
  readonly details: string
  readonly metadata?: { get(key: string): readonly (string | Uint8Array)[] } | undefined
}

/** The error the daemon threw; for a status without our trailer the closest code. */
export function errorOfStatus(status: FailedStatus): BuilderError {
  const trailer = status.metadata?.get(errorTrailer)[0]
  const decoded = trailer instanceof Uint8Array ? decodeError(trailer) : undefined
  return decoded ?? new BuilderError(bareStatusCodes.get(status.code) ?? 'ISB_INTERNAL', status.details)
}

const deadlineExceeded = 4
const bareStatusCodes: ReadonlyMap<number, ErrorCode> = new Map([
  [grpcStatusNumbers.CANCELLED, 'ISB_CANCELLED'],
  [grpcStatusNumbers.INVALID_ARGUMENT, 'ISB_ARGUMENT_INVALID'],
  [deadlineExceeded, 'ISB_DAEMON_UNREACHABLE'],
  [grpcStatusNumbers.PERMISSION_DENIED, 'ISB_PERMISSION_DENIED'],
  [grpcStatusNumbers.UNAUTHENTICATED, 'ISB_PERMISSION_DENIED'],
  [grpcStatusNumbers.RESOURCE_EXHAUSTED, 'ISB_LIMIT_EXCEEDED'],
  [grpcStatusNumbers.UNIMPLEMENTED, 'ISB_UNSUPPORTED'],
  [grpcStatusNumbers.UNAVAILABLE, 'ISB_DAEMON_UNREACHABLE'],
])

type Detail = Encodable<typeof ErrorDetail>

// Applied in this order until the error fits. After the last one it does: every text is bounded.
const shrinkers: readonly ((detail: Detail) => Detail)[] = [
  (detail) => ({ ...detail, logTail: detail.logTail?.slice(-20).map((line) => clean(line, 200)) }),
  (detail) => ({ ...detail, logTail: [] }),
  (detail) => ({
    ...detail,
    source: detail.source && {
      ...detail.source,
      file: clean(detail.source.file ?? '', 512),
      lines: detail.source.lines?.slice(0, 20).map((line) => clean(line, 256)),
    },
  }),
  (detail) => ({
    ...detail,
    message: clean(detail.message ?? '', 4096),
    hint: clean(detail.hint ?? '', 1024),
    step: clean(detail.step ?? '', 1024),
  }),
]

/** Without credentials and lone surrogates, at most `limit` UTF-8 bytes. */
function clean(text: string, limit = Number.POSITIVE_INFINITY): string {
  const bytes = Buffer.from(redactUrls(text), 'utf8')
  if (bytes.length <= limit) return bytes.toString('utf8')
  let end = limit
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--
  return `${bytes.toString('utf8', 0, end)}…`
}
