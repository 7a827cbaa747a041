import { createInterface } from 'node:readline'
import { Client, credentials, type ServiceError } from '@grpc/grpc-js'

/**
 * A client that stays: `node held-connection.mjs SOCKET UID GID GROUPS`. Gives up root, connects once and
 * makes a call for each line of its standard input, one after the other; each ends in a line on standard output.
 */
export interface HeldCall {
  /** `/package.Service/Method` */
  readonly path: string
  readonly kind: 'unary' | 'stream'
  /** Hex. */
  readonly request: string
}

export interface HeldEnd {
  /** A gRPC status. */
  readonly code: number
  readonly details: string
  /** Hex. */
  readonly responses: readonly string[]
}

const [socket = '', uid = '', gid = '', groups = ''] = process.argv.slice(2)
process.setgroups?.(groups.split(',').filter(Boolean).map(Number))
process.setgid?.(Number(gid))
process.setuid?.(Number(uid))
const client = new Client(`unix:${socket}`, credentials.createInsecure(), {
  'grpc.use_local_subchannel_pool': 1,
})
const same = (bytes: Buffer): Buffer => bytes

function make({ path, kind, request }: HeldCall): Promise<HeldEnd> {
  return new Promise((resolve) => {
    const responses: string[] = []
    const finish = (error: ServiceError | null): void =>
      resolve({ code: error?.code ?? 0, details: error?.details ?? '', responses })
    const bytes = Buffer.from(request, 'hex')
    if (kind === 'unary') {
      client.makeUnaryRequest(path, same, same, bytes, (error, value) => {
        if (value !== undefined) responses.push(value.toString('hex'))
        finish(error)
      })
      return
    }
    const stream = client.makeServerStreamRequest(path, same, same, bytes)
    stream.on('data', (value: Buffer) => responses.push(value.toString('hex')))
    stream.on('error', finish)
    stream.on('end', () => finish(null))
  })
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await make(JSON.parse(line) as HeldCall))}\n`)
}
client.close()
