import type { FailedStatus } from '@isula-build/shared/errors/wire.js'
import { resetCode } from './frames.js'
import type { Headers } from './hpack.js'
import type { StreamFailure } from './http2-session.js'

/** Statuses that a client finds by itself (https://grpc.io/docs/guides/status-codes/). */
export const clientStatus = {
  ok: 0,
  cancelled: 1,
  unknown: 2,
  permissionDenied: 7,
  resourceExhausted: 8,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const

/** How a call ended, if not well. */
export class CallError extends Error implements FailedStatus {
  readonly code: number
  readonly details: string
  readonly metadata: FailedStatus['metadata']

  constructor(code: number, details: string, trailers: Headers = []) {
    super(details)
    this.code = code
    this.details = details
    this.metadata = { get: (key) => valuesOf(trailers, key) }
  }
}

/** https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md */
const httpStatuses: ReadonlyMap<string, number> = new Map([
  ['400', clientStatus.internal],
  ['401', clientStatus.unauthenticated],
  ['403', clientStatus.permissionDenied],
  ['404', clientStatus.unimplemented],
  ['429', clientStatus.unavailable],
  ['502', clientStatus.unavailable],
  ['503', clientStatus.unavailable],
  ['504', clientStatus.unavailable],
])

/** https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Errors" */
const resetStatuses: ReadonlyMap<number, number> = new Map([
  [resetCode.refused, clientStatus.unavailable],
  [resetCode.cancel, clientStatus.cancelled],
  [resetCode.calmDown, clientStatus.resourceExhausted],
  [resetCode.inadequateSecurity, clientStatus.permissionDenied],
])

/** The error of a call that the server ended with these headers and trailers; undefined when all is well. */
export function statusOf(headers: Headers, trailers: Headers): CallError | undefined {
  const status = first(trailers, 'grpc-status') ?? first(headers, 'grpc-status')
  if (status === undefined) {
    const http = first(headers, ':status')
    if (http === '200') return new CallError(clientStatus.unknown, 'the call ended without a status')
    return new CallError(
      httpStatuses.get(http ?? '') ?? clientStatus.unknown,
      `Received HTTP status code ${http}`,
    )
  }
  if (status === '0') return undefined
  const code = /^\d{1,9}$/.test(status) ? Number(status) : clientStatus.unknown
  const message = first(trailers, 'grpc-message') ?? first(headers, 'grpc-message') ?? ''
  return new CallError(code, percentDecoded(message), [...headers, ...trailers])
}

export function statusOfFailure(failure: StreamFailure): CallError {
  if (failure.kind === 'lost') return new CallError(clientStatus.unavailable, failure.reason)
  const code = resetStatuses.get(failure.code) ?? clientStatus.internal
  return new CallError(code, `the daemon broke off the call (HTTP/2 error ${failure.code})`)
}

function first(headers: Headers, wanted: string): string | undefined {
  return headers.find(([name]) => name === wanted)?.[1]
}

/** Values of `-bin` names are base64, several of them with commas between. */
function valuesOf(headers: Headers, key: string): readonly (string | Uint8Array)[] {
  const values = headers.filter(([name]) => name === key).map(([, value]) => value)
  if (!key.endsWith('-bin')) return values
  return values.flatMap((value) => value.split(',')).map((part) => Buffer.from(part, 'base64'))
}

function percentDecoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    // Not encoded as the protocol wants it: better as it came than not at all.
    return text
  }
}
