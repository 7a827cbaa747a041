import { Client, type ClientDuplexStream, credentials, type ServiceError } from '@grpc/grpc-js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { errorOfStatus } from '@isula-build/shared/errors/wire.js'
import type { Decoded, Encodable, MessageType } from '@isula-build/shared/rpc/codec.js'
import type { Method } from '@isula-build/shared/rpc/service.js'

type AnyMessage = MessageType<unknown, unknown>

/** A client for tests: failures are the daemon's own errors. */
export interface TestClient {
  unary<Req extends AnyMessage, Res extends AnyMessage>(
    method: Method<Req, Res, false, false>,
    request: Encodable<Req>,
  ): Promise<Decoded<Res>>
  /** Yields as the responses come; leaving the loop cancels. */
  stream<Req extends AnyMessage, Res extends AnyMessage>(
    method: Method<Req, Res, false, true>,
    request: Encodable<Req>,
  ): AsyncGenerator<Decoded<Res>, void, undefined>
  duplex<Req extends AnyMessage, Res extends AnyMessage>(
    method: Method<Req, Res, true, true>,
  ): {
    readonly call: ClientDuplexStream<Encodable<Req>, Decoded<Res>>
    readonly responses: AsyncGenerator<Decoded<Res>, void, undefined>
  }
  /** Cancels what is under way. */
  close(): void
}

export function connectClient(socketPath: string): TestClient {
  const client = new Client(`unix://${socketPath}`, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
    'grpc.max_receive_message_length': -1,
  })
  const calls = new Set<{ cancel(): void }>()
  return {
    unary: (method, request) =>
      new Promise((resolve, reject) => {
        client.makeUnaryRequest(
          method.path,
          method.requestSerialize,
          method.responseDeserialize,
          request,
          (error, value) => {
            if (error !== null) reject(errorOfStatus(error))
            else if (value !== undefined) resolve(value)
          },
        )
      }),
    stream(method, request) {
      const { path, requestSerialize, responseDeserialize } = method
      const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request)
      calls.add(call)
      return responsesOf(call)
    },
    duplex(method) {
      const { path, requestSerialize, responseDeserialize } = method
      const call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize)
      calls.add(call)
      return { call, responses: responsesOf(call) }
    },
    close() {
      for (const call of calls) call.cancel()
      client.close()
    },
  }
}

async function* responsesOf<T>(
  call: AsyncIterable<T> & { cancel(): void; on(event: 'error', listener: () => void): unknown },
): AsyncGenerator<T, void, undefined> {
  // The iterator below reports errors; cancelling afterwards makes one nobody waits for.
  call.on('error', () => undefined)
  try {
    for await (const value of call) yield value
  } catch (error) {
    throw errorOfStatus(error as ServiceError)
  } finally {
    call.cancel()
  }
}

/** The BuilderError a promise rejects with. */
export async function failure(promise: Promise<unknown>): Promise<BuilderError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof BuilderError) return error
    throw error
  }
  throw new Error('it did not fail')
}

export async function all<T>(values: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const value of values) found.push(value)
  return found
}

export async function drain(values: AsyncIterable<unknown>): Promise<void> {
  await all(values)
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
