import { Client, credentials, type ServiceError, status } from '@grpc/grpc-js'

// The original's client, as far as the wire is concerned: generic calls with bytes made elsewhere.

const service = '/isula.build.v1.Control/'
const same = (bytes: Buffer): Buffer => bytes

/** How a call ended, and every message it gave. */
export interface CallEnd {
  readonly messages: readonly Buffer[]
  readonly code: number
  readonly details: string
}

export interface RunningCall {
  readonly ended: Promise<CallEnd>
  /** What has come so far. */
  readonly messages: readonly Buffer[]
  cancel(): void
}

export interface ControlClient {
  unary(method: string, request?: Buffer): RunningCall
  stream(method: string, request?: Buffer): RunningCall
  close(): void
}

export function connectControl(socket: string): ControlClient {
  const client = new Client(`unix:${socket}`, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
  })
  const end = (messages: readonly Buffer[], error: ServiceError | null): CallEnd => ({
    messages,
    code: error?.code ?? status.OK,
    details: error?.details ?? '',
  })
  return {
    unary(method, request = Buffer.alloc(0)) {
      const messages: Buffer[] = []
      let cancel = (): void => undefined
      const ended = new Promise<CallEnd>((resolve) => {
        const call = client.makeUnaryRequest(service + method, same, same, request, (error, value) => {
          if (value !== undefined) messages.push(value)
          resolve(end(messages, error))
        })
        cancel = () => call.cancel()
      })
      return { ended, messages, cancel }
    },
    stream(method, request = Buffer.alloc(0)) {
      const messages: Buffer[] = []
      const call = client.makeServerStreamRequest(service + method, same, same, request)
      const ended = new Promise<CallEnd>((resolve) => {
        call.on('data', (value: Buffer) => messages.push(value))
        call.on('error', (error: ServiceError) => resolve(end(messages, error)))
        call.on('end', () => resolve(end(messages, null)))
      })
      return { ended, messages, cancel: () => call.cancel() }
    },
    close: () => client.close(),
  }
}
