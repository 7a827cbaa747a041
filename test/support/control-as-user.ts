import { type CallEnd, connectControl } from './control-client.js'

/**
 * A client of another user: `node control-as-user.mjs SOCKET UID GID CALLS`. Gives up root, makes all the
 * calls at once and prints how they ended.
 */
export interface CallOfUser {
  readonly kind: 'unary' | 'stream'
  readonly method: string
  /** Hex. */
  readonly request: string
}

export interface EndOfUser extends Omit<CallEnd, 'messages'> {
  /** Hex. */
  readonly messages: readonly string[]
}

const [socket = '', uid = '', gid = '', calls = '[]'] = process.argv.slice(2)
process.setgroups?.([])
process.setgid?.(Number(gid))
process.setuid?.(Number(uid))
const client = connectControl(socket)
const ends = await Promise.all(
  (JSON.parse(calls) as readonly CallOfUser[]).map(async ({ kind, method, request }): Promise<EndOfUser> => {
    const { messages, ...rest } = await client[kind](method, Buffer.from(request, 'hex')).ended
    return { ...rest, messages: messages.map((message) => message.toString('hex')) }
  }),
)
client.close()
console.log(JSON.stringify(ends))
