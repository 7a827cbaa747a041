import { buildInfo } from '@isula-build/shared/build-info.js'
import { endTurn } from '../turn.js'
import { CallError, clientStatus, statusOf, statusOfFailure } from './call-status.js'
import { numberAt, putNumber } from './frames.js'
import type { Headers } from './hpack.js'
import { type Http2Session, streamWindow } from './http2-session.js'

/** One gRPC call (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), messages as bytes. */
export interface GrpcCall {
  /** Ends with the call; throws CallError when it fails. Leaving the loop early cancels. For one reader. */
  readonly messages: AsyncGenerator<Buffer, void, undefined>
  /** Resolves when more may be written; to false when the call is over. `last`: nothing follows. */
  write(message: Buffer, last?: boolean): Promise<boolean>
  end(): void
  cancel(): void
}

const prefixLength = 5
/** Bytes up to which a message and its prefix are copied together rather than sent as two frames. */
const joined = 4096
/** Bytes of whole messages that may wait for the reader before the server has to; also the step of credit. */
const unread = streamWindow / 4

export function startCall(session: Http2Session, path: string): GrpcCall {
  const queue: Buffer[] = []
  let queued = 0
  /** Bytes taken that the server got no credit for. */
  let owed = 0
  let headers: Headers | undefined
  let trailers: Headers = []
  let outcome: { readonly error: CallError | undefined } | undefined
  let ended = false
  let wake: (() => void) | undefined
  const wakeReader = (): void => {
    wake?.()
    wake = undefined
  }

  const finish = (error: CallError | undefined): void => {
    outcome ??= { error }
    wakeReader()
  }
  const fail = (error: CallError): void => {
    if (outcome !== undefined) return
    stream.cancel()
    finish(error)
  }
  const assembler = createAssembler((message) => {
    queue.push(message)
    queued += message.length
    wakeReader()
  })
  const stream = session.open(requestHeaders(path), {
    headers(list) {
      if (headers === undefined) headers = list
      else trailers = list
    },
    data(bytes) {
      owed += bytes.length
      const broken = assembler.add(bytes)
      if (broken !== undefined) fail(new CallError(clientStatus.internal, broken))
      else giveCredit()
    },
    closed(failure) {
      if (failure !== undefined) return finish(statusOfFailure(failure))
      const error = statusOf(headers ?? [], trailers)
      const half = error === undefined && !assembler.isEmpty()
      finish(half ? new CallError(clientStatus.internal, 'the daemon ended within a message') : error)
    },
  })

  function giveCredit(): void {
    if (owed < unread || queued >= unread) return
    stream.credit(owed)
    owed = 0
  }

  const cancel = (): void => fail(new CallError(clientStatus.cancelled, 'Cancelled on client'))

  async function* read(): AsyncGenerator<Buffer, void, undefined> {
    try {
      for (;;) {
        const message = queue.shift()
        if (message !== undefined) {
          queued -= message.length
          giveCredit()
          yield message
        } else if (outcome === undefined) {
          await new Promise<void>((resolve) => {
            wake = resolve
          })
        } else if (outcome.error === undefined) return
        else throw outcome.error
      }
    } finally {
      cancel()
    }
  }

  return {
    messages: read(),
    async write(message, last = false) {
      if (outcome !== undefined || ended) return false
      ended = last
      const prefix = Buffer.alloc(prefixLength)
      putNumber(prefix, 1, message.length)
      const parts = message.length <= joined ? [Buffer.concat([prefix, message])] : [prefix, message]
      const sent = parts.map((part, at) => stream.send(part, last && at === parts.length - 1))
      endTurn()
      await Promise.all(sent)
      return outcome === undefined
    },
    end() {
      if (outcome !== undefined || ended) return
      ended = true
      stream.send(Buffer.alloc(0), true).catch(() => undefined)
    },
    cancel,
  }
}

function requestHeaders(path: string): Headers {
  return [
    [':method', 'POST'],
    [':scheme', 'http'],
    [':path', path],
    [':authority', 'localhost'],
    ['te', 'trailers'],
    ['content-type', 'application/grpc'],
    ['user-agent', `isula-build/${buildInfo.version}`],
    ['grpc-accept-encoding', 'identity'],
  ]
}

interface Assembler {
  /** Says what is wrong with the bytes. */
  add(bytes: Buffer): string | undefined
  /** No message has begun. */
  isEmpty(): boolean
}

/** Gives whole messages to `take`. */
function createAssembler(take: (message: Buffer) => void): Assembler {
  let parts: Buffer[] = []
  let size = 0
  /** Of the next message with its prefix; the prefix alone while that is not known. */
  let wanted = prefixLength
  return {
    add(bytes) {
      parts.push(bytes)
      size += bytes.length
      while (size >= wanted) {
        const all = parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts)
        if (all[0] !== 0) return 'the daemon compressed a message that nobody asked it to'
        parts = [all]
        wanted = prefixLength + numberAt(all, 1)
        if (size < wanted) break
        take(all.subarray(prefixLength, wanted))
        size -= wanted
        parts = size === 0 ? [] : [all.subarray(wanted)]
        wanted = prefixLength
      }
      return undefined
    },
    isEmpty: () => size === 0,
  }
}
