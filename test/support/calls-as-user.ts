import { Client, type ClientReadableStream, credentials, Metadata, type ServiceError } from '@grpc/grpc-js'

/**
 * A client that is another user: `node calls-as-user.mjs SOCKET UID GID`, the calls as JSON on standard
 * input. Gives up root, makes all calls at once and prints how they ended. SIGTERM gives all of them up.
 */
export interface UserCall {
  /** `/package.Service/Method` */
  readonly path: string
  readonly kind: 'unary' | 'stream' | 'duplex'
  /** Messages, hex. */
  readonly requests: readonly string[]
  /** A duplex call ends its side after the last message. */
  readonly end: boolean
  readonly metadata: Readonly<Record<string, string>>
  /** Milliseconds; the call is given up then. */
  readonly patience: number
  /** Index of another call; soon after that one has failed, this one is given up. */
  readonly follows: number | undefined
}

export interface UserCallEnd {
  /** A gRPC status. */
  readonly code: number
  readonly details: string
  /** Hex. */
  readonly responses: readonly string[]
  readonly milliseconds: number
}

const same = (bytes: Buffer): Buffer => bytes

interface Running {
  readonly ended: Promise<UserCallEnd>
  cancel(): void
}

function make(client: Client, call: UserCall): Running {
  const metadata = new Metadata()
  for (const [key, value] of Object.entries(call.metadata)) metadata.set(key, value)
  const options = { deadline: Date.now() + call.patience }
  const requests = call.requests.map((hex) => Buffer.from(hex, 'hex'))
  const [first = Buffer.alloc(0)] = requests
  const began = performance.now()
  const responses: string[] = []
  let cancel = (): void => undefined
  const ended = new Promise<UserCallEnd>((resolve) => {
    const finish = (error: ServiceError | null): void =>
      resolve({
        ...{ code: error?.code ?? 0, details: error?.details ?? '', responses },
        milliseconds: performance.now() - began,
      })
    const collect = (stream: ClientReadableStream<Buffer>): void => {
      cancel = () => stream.cancel()
      stream.on('data', (value: Buffer) => responses.push(value.toString('hex')))
      stream.on('error', finish)
      stream.on('end', () => finish(null))
    }
    const answered = (error: ServiceError | null, value?: Buffer): void => {
      if (value !== undefined) responses.push(value.toString('hex'))
      finish(error)
    }
    switch (call.kind) {
      case 'unary': {
        const unary = client.makeUnaryRequest(call.path, same, same, first, metadata, options, answered)
        cancel = () => unary.cancel()
        return
      }
      case 'stream':
        collect(client.makeServerStreamRequest(call.path, same, same, first, metadata, options))
        return
      case 'duplex': {
        const stream = client.makeBidiStreamRequest(call.path, same, same, metadata, options)
        collect(stream)
        for (const request of requests) stream.write(request)
        if (call.end) stream.end()
      }
    }
  })
  return { ended, cancel: () => cancel() }
}

const [socket = '', uid = '', gid = ''] = process.argv.slice(2)
const parts: Buffer[] = []
for await (const part of process.stdin) parts.push(part as Buffer)
const calls = JSON.parse(Buffer.concat(parts).toString('utf8')) as readonly UserCall[]
process.setgroups?.([])
process.setgid?.(Number(gid))
process.setuid?.(Number(uid))
const client = new Client(`unix:${socket}`, credentials.createInsecure(), {
  'grpc.use_local_subchannel_pool': 1,
  'grpc.max_receive_message_length': -1,
})
const running = calls.map((call) => make(client, call))
for (const [index, { follows }] of calls.entries()) {
  if (follows === undefined) continue
  void running[follows]?.ended.then(({ code }) => {
    if (code !== 0) setTimeout(() => running[index]?.cancel(), 300).unref()
  })
}
process.once('SIGTERM', () => {
  for (const { cancel } of running) cancel()
})
const ends = await Promise.all(running.map(({ ended }) => ended))
client.close()
process.stdout.write(JSON.stringify(ends))
