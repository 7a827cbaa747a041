import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { errorOfStatus } from '@isula-build/shared/errors/wire.js'
import type { Decoded, Encodable, MessageType } from '@isula-build/shared/rpc/codec.js'
import type { Method } from '@isula-build/shared/rpc/service.js'
import { durationMilliseconds } from './cli/durations.js'
import { socketPath, unreachable } from './daemon-socket.js'
import { CallError } from './rpc/call-status.js'
import { type GrpcCall, startCall } from './rpc/grpc-call.js'
import { ConnectError, type Http2Session, openSession } from './rpc/http2-session.js'

type AnyMessage = MessageType<unknown, unknown>

export interface Duplex<Req, Res> {
  readonly responses: AsyncIterable<Res>
  /** Resolves when more may be written; to false when the call is over and nothing reads any more. */
  write(request: Req): Promise<boolean>
  end(): void
  cancel(): void
}

/** A connected daemon. Failed calls reject with the daemon's own BuilderError. */
export interface Connection {
  unary<Req extends AnyMessage, Res extends AnyMessage>(
    method: Method<Req, Res, false, false>,
    request: Encodable<Req>,
  ): Promise<Decoded<Res>>
  stream<Req extends AnyMessage, Res extends AnyMessage>(
    method: Method<Req, Res, false, true>,
    request: Encodable<Req>,
  ): AsyncIterable<Decoded<Res>>
  duplex<Req extends AnyMessage, Res extends AnyMessage>(
    method: Method<Req, Res, true, true>,
  ): Duplex<Encodable<Req>, Decoded<Res>>
  close(): void
}

/** Milliseconds: the original's range of `--timeout`. */
const shortest = 100
const longest = 120_000

/** Dials the socket and waits until the daemon answers. Fails with ISB_DAEMON_UNREACHABLE. */
export async function connect(host: string, timeout: string): Promise<Connection> {
  const wait = timeoutMilliseconds(timeout)
  const path = socketPath(host)
  const session = await dial(path, wait)
  const startRequest = (name: string, request: Buffer): GrpcCall => {
    const call = startCall(session, name)
    call.write(request, true)
    return call
  }
  return {
    async unary({ path: name, requestSerialize, responseDeserialize }, request) {
      const call = startRequest(name, withinLimit(requestSerialize(request)))
      const [first, ...more] = await all(decoded(call, responseDeserialize))
      if (first === undefined || more.length > 0) throw new Error(`not one answer to ${name}`)
      return first
    },
    stream({ path: name, requestSerialize, responseDeserialize }, request) {
      const call = startRequest(name, withinLimit(requestSerialize(request)))
      return decoded(call, responseDeserialize)
    },
    duplex({ path: name, requestSerialize, responseDeserialize }) {
      const call = startCall(session, name)
      return {
        responses: decoded(call, responseDeserialize),
        // A call that has failed says why through its responses.
        write: async (request) => await call.write(withinLimit(requestSerialize(request))),
        end: call.end,
        cancel: call.cancel,
      }
    },
    close: session.close,
  }
}

/** Bytes of one message that the daemon takes. */
const longestRequest = 4 << 20

function withinLimit(request: Buffer): Buffer {
  if (request.length <= longestRequest) return request
  throw new BuilderError(
    'ISB_LIMIT_EXCEEDED',
    `what the call says has ${request.length} bytes, and the daemon takes ${longestRequest}`,
    {
      hint: 'Put long values (build args, labels, variables) into files of the context, and give fewer or smaller secrets.',
    },
  )
}

async function dial(path: string, wait: number): Promise<Http2Session> {
  try {
    return await openSession(path, wait)
  } catch (error) {
    throw error instanceof ConnectError ? unreachable(path, error.code) : error
  }
}

async function* decoded<T>(call: GrpcCall, decode: (bytes: Buffer) => T): AsyncIterable<T> {
  try {
    for await (const message of call.messages) yield decode(message)
  } catch (error) {
    throw error instanceof CallError ? errorOfStatus(error) : error
  }
}

async function all<T>(values: AsyncIterable<T>): Promise<readonly T[]> {
  const found: T[] = []
  for await (const value of values) found.push(value)
  return found
}

function timeoutMilliseconds(text: string): number {
  const total = durationMilliseconds(text)
  if (total !== undefined && total >= shortest && total <= longest) return total
  throw new BuilderError(
    'ISB_ARGUMENT_INVALID',
    `invalid timeout value: ${text}, supported range [100ms, 2m0s]`,
  )
}
