import { Client, connectivityState, credentials, type ServiceError } from '@grpc/grpc-js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { errorOfStatus } from '@isula-build/shared/errors/wire.js'
import type { Decoded, Encodable, MessageType } from '@isula-build/shared/rpc/codec.js'
import type { Method } from '@isula-build/shared/rpc/service.js'
import { durationMilliseconds } from './cli/durations.js'
import { checkedSocket, unreachable } from './daemon-socket.js'

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
  const path = checkedSocket(host)
  const client = new Client(`unix://${path}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
    'grpc.enable_channelz': 0,
    'grpc.use_local_subchannel_pool': 1,
  })
  if (!(await isReady(client, Date.now() + wait))) {
    client.close()
    throw await unreachable(path)
  }
  return {
    unary: (method, request) =>
      new Promise((resolve, reject) => {
        const { path: name, requestSerialize, responseDeserialize } = method
        client.makeUnaryRequest(name, requestSerialize, responseDeserialize, request, (error, value) => {
          if (error) reject(errorOf(error))
          else if (value === undefined) reject(new Error(`no answer to ${name}`))
          else resolve(value)
        })
      }),
    stream: (method, request) =>
      translated(
        client.makeServerStreamRequest(
          method.path,
          method.requestSerialize,
          method.responseDeserialize,
          request,
        ),
      ),
    duplex(method) {
      const call = client.makeBidiStreamRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
      )
      const isOver = (): boolean => call.destroyed || !call.writable
      const room = roomIn(call)
      return {
        responses: translated(call),
        // A call that has failed says why through its responses.
        async write(request) {
          if (isOver()) return false
          if (!call.write(request)) await room.next()
          return !isOver()
        },
        end: () => call.end(),
        cancel: () => call.cancel(),
      }
    },
    close: () => client.close(),
  }
}

async function* translated<T>(call: AsyncIterable<T>): AsyncIterable<T> {
  try {
    yield* call
  } catch (error) {
    throw errorOf(error as ServiceError)
  }
}

function errorOf(error: ServiceError): Error {
  return typeof error.code === 'number' ? errorOfStatus(error) : error
}

function timeoutMilliseconds(text: string): number {
  const total = durationMilliseconds(text)
  if (total !== undefined && total >= shortest && total <= longest) return total
  throw new BuilderError(
    'ISB_ARGUMENT_INVALID',
    `invalid timeout value: ${text}, supported range [100ms, 2m0s]`,
  )
}

/** False at the deadline, and as soon as the socket refuses. */
function isReady(client: Client, deadline: number): Promise<boolean> {
  const channel = client.getChannel()
  return new Promise((resolve) => {
    const look = (): void => {
      const state = channel.getConnectivityState(true)
      if (state === connectivityState.READY) resolve(true)
      else if (state === connectivityState.TRANSIENT_FAILURE) resolve(false)
      else {
        channel.watchConnectivityState(state, deadline, (error) => {
          if (error === undefined) look()
          else resolve(false)
        })
      }
    }
    look()
  })
}

/** Wakes everybody who waits for room when there is some, or when the call is over. */
function roomIn(call: NodeJS.EventEmitter): { readonly next: () => Promise<void> } {
  let waiting: (() => void)[] = []
  const wake = (): void => {
    const woken = waiting
    waiting = []
    for (const one of woken) one()
  }
  for (const event of ['drain', 'close', 'error', 'status']) call.on(event, wake)
  return { next: () => new Promise((resolve) => waiting.push(resolve)) }
}
