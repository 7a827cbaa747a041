import { randomBytes } from 'node:crypto'
import { Metadata, type StatusObject } from '@grpc/grpc-js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { encodeError, errorTrailer, grpcStatus } from '@isula-build/shared/errors/wire.js'
import type { Logger } from '../ports/logger.js'

/**
 * What the client is told. A BuilderError travels whole; of anything else only an identifier does,
 * under which the log has the rest.
 */
export function statusOf(error: unknown, method: string, log: Logger): StatusObject {
  const known = error instanceof BuilderError ? error : internalError(error, method, log)
  const metadata = new Metadata()
  metadata.set(errorTrailer, encodeError(known))
  return { ...grpcStatus(known), metadata }
}

function internalError(error: unknown, method: string, log: Logger): BuilderError {
  const id = randomBytes(4).toString('hex')
  const stack = error instanceof Error ? error.stack : String(error)
  log.error('rpc.internal', { id, method, error: stack })
  return new BuilderError('ISB_INTERNAL', `internal error ${id}`)
}
