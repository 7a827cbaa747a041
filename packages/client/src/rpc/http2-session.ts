import { type BytePipe, connectPipe, type PipeEvents } from '../pipe/byte-pipe.js'
import {
  content,
  createFrameReader,
  type Frame,
  frame,
  frameFlag,
  frameHead,
  frameType,
  initialWindow,
  largestWindow,
  numberAt,
  numberFrame,
  ProtocolError,
  preface,
  resetCode,
  setting,
  settingsFrame,
  smallestMaxFrame,
} from './frames.js'
import { decodeHeaders, encodeHeaders, type Headers, HpackError } from './hpack.js'

/** Why a stream ended early: the peer reset it, or the connection is gone. */
export type StreamFailure =
  | { readonly kind: 'reset'; readonly code: number }
  | { readonly kind: 'lost'; readonly reason: string }

/** What one stream brings. `closed` comes once, last, and not after `cancel`. */
export interface StreamSink {
  headers(headers: Headers): void
  data(bytes: Buffer): void
  /** Undefined: the peer ended the stream in order. */
  closed(failure: StreamFailure | undefined): void
}

export interface Http2Stream {
  /** Resolves when the socket has the bytes, or nobody wants them any more. */
  send(bytes: Uint8Array, end: boolean): Promise<void>
  /** Lets the peer send as many bytes more, beyond the first `streamWindow`. */
  credit(bytes: number): void
  cancel(): void
}

/** The client's end of one HTTP/2 connection (RFC 9113) without TLS, push and priorities. */
export interface Http2Session {
  open(headers: Headers, sink: StreamSink): Http2Stream
  /** What was handed to the socket still leaves. */
  close(): void
}

/** Nobody answers; `code` is that of the socket, undefined when the peer was silent or left. */
export class ConnectError extends Error {
  readonly code: string | undefined
  constructor(message: string, code: string | undefined) {
    super(message)
    this.code = code
  }
}

/** Bytes of one stream that the peer may send before it gets credit. */
export const streamWindow = 1 << 20
/** Bytes that the peer may send on the whole connection, and after how many it may send as many more. */
const connectionWindow = 1 << 26
const connectionRefill = 1 << 24
/** Bytes that wait in the socket before senders do. */
const socketRoom = 1 << 18
/** Bytes of one header block. */
const headerLimit = 1 << 18

interface Outgoing {
  readonly bytes: Uint8Array
  readonly end: boolean
  readonly sent: () => void
  at: number
}

interface OpenStream {
  readonly id: number
  readonly sink: StreamSink
  readonly queue: Outgoing[]
  window: number
  endSent: boolean
}

/** Connects, and waits at most `wait` milliseconds for the peer's settings. Fails with ConnectError. */
export function openSession(path: string, wait: number, connect = connectPipe): Promise<Http2Session> {
  return new Promise((resolve, reject) => {
    // Once it is settled these say nothing new: a promise settles once.
    const session = createSession((events) => connect(path, events), {
      ready() {
        clearTimeout(timer)
        resolve(session)
      },
      lost(message, code) {
        clearTimeout(timer)
        reject(new ConnectError(message, code))
      },
    })
    const timer = setTimeout(() => {
      session.close()
      reject(new ConnectError('the peer did not answer in time', undefined))
    }, wait)
  })
}

interface SessionEvents {
  /** The peer's settings are here. */
  ready(): void
  /** The connection is gone. */
  lost(message: string, code: string | undefined): void
}

function createSession(connect: (events: PipeEvents) => BytePipe, events: SessionEvents): Http2Session {
  const streams = new Map<number, OpenStream>()
  const readFrames = createFrameReader()
  let nextId = 1
  let window = initialWindow
  let streamStart = initialWindow
  let maxFrame = smallestMaxFrame
  let received = 0
  /** Of the header block that CONTINUATION frames go on with. */
  let block: { readonly frame: Frame; readonly parts: Buffer[]; size: number } | undefined
  let gone: string | undefined
  /** Of this turn, and how many bytes they are. */
  let leaving: Uint8Array[] = []
  let leavingBytes = 0

  const pipe = connect({
    data(bytes) {
      try {
        for (const one of readFrames(bytes)) receive(one)
      } catch (error) {
        if (!(error instanceof ProtocolError) && !(error instanceof HpackError)) throw error
        lose(error.message)
      }
    },
    drained: flushAll,
    closed: (error) => lose(error?.message ?? 'Connection dropped', error?.code),
  })
  write(preface)
  write(
    settingsFrame([
      [setting.headerTableSize, 0],
      [setting.enablePush, 0],
      [setting.initialWindow, streamWindow],
    ]),
  )
  write(numberFrame(frameType.windowUpdate, 0, connectionWindow - initialWindow))

  /** Frames of one turn leave in one system call. */
  function write(bytes: Uint8Array): void {
    if (leaving.length === 0) process.nextTick(sendTurn)
    leaving.push(bytes)
    leavingBytes += bytes.length
  }

  function sendTurn(): void {
    const parts = leaving
    leaving = []
    leavingBytes = 0
    if (parts.length === 0) return
    pipe.write(parts)
    // Where all of it was taken at once, nobody will tell that there is room again.
    if (pipe.waiting === 0) flushAll()
  }

  function receive(one: Frame): void {
    const { type, flags, stream: id, payload } = one
    if (block !== undefined && (type !== frameType.continuation || id !== block.frame.stream)) {
      throw new ProtocolError('a header block that does not go on')
    }
    switch (type) {
      case frameType.data:
        received += payload.length
        if (received >= connectionRefill) {
          write(numberFrame(frameType.windowUpdate, 0, received))
          received = 0
        }
        receiveData(one, streams.get(id))
        return
      case frameType.headers:
        addToBlock(one, content(one))
        return
      case frameType.continuation:
        addToBlock(one, payload)
        return
      case frameType.reset: {
        const stream = streams.get(id)
        if (stream !== undefined) closed(stream, { kind: 'reset', code: numberIn(payload) })
        return
      }
      case frameType.settings:
        if ((flags & frameFlag.ack) === 0) receiveSettings(payload)
        return
      case frameType.ping:
        if (payload.length !== 8) throw new ProtocolError('a ping that is not 8 bytes')
        if ((flags & frameFlag.ack) === 0) write(frame(frameType.ping, frameFlag.ack, 0, payload))
        return
      case frameType.goAway: {
        // New streams would be refused; those that the peer has not seen are.
        gone = 'the peer takes no more calls'
        const last = numberIn(payload)
        for (const stream of [...streams.values()].filter(({ id }) => id > last)) {
          closed(stream, { kind: 'reset', code: resetCode.refused })
        }
        return
      }
      case frameType.windowUpdate:
        grow(id, numberIn(payload))
        return
      case frameType.pushPromise:
        throw new ProtocolError('a push that was forbidden')
      default:
      // Unknown types are for extensions, and ignored.
    }
  }

  function receiveData(one: Frame, stream: OpenStream | undefined): void {
    // What is under way on a stream that was given up has no reader.
    if (stream === undefined) return
    const bytes = content(one)
    const padding = one.payload.length - bytes.length
    if (padding > 0) write(numberFrame(frameType.windowUpdate, one.stream, padding))
    if (bytes.length > 0) stream.sink.data(bytes)
    if ((one.flags & frameFlag.endStream) !== 0) closed(stream, undefined)
  }

  function addToBlock(one: Frame, part: Buffer): void {
    block ??= { frame: one, parts: [], size: 0 }
    block.parts.push(part)
    block.size += part.length
    if (block.size > headerLimit) throw new ProtocolError('a header block longer than allowed')
    if ((one.flags & frameFlag.endHeaders) === 0) return
    const { frame: begin, parts } = block
    block = undefined
    const headers = decodeHeaders(Buffer.concat(parts))
    const stream = streams.get(begin.stream)
    if (stream === undefined) return
    stream.sink.headers(headers)
    if ((begin.flags & frameFlag.endStream) !== 0) closed(stream, undefined)
  }

  function receiveSettings(payload: Buffer): void {
    if (payload.length % 6 !== 0) throw new ProtocolError('settings of a wrong length')
    for (let at = 0; at < payload.length; at += 6) {
      const value = numberAt(payload, at + 2)
      const id = numberAt(payload, at) >>> 16
      if (id === setting.maxFrame) maxFrame = value
      if (id === setting.initialWindow) {
        if (value > largestWindow) throw new ProtocolError('a window larger than possible')
        for (const stream of streams.values()) stream.window += value - streamStart
        streamStart = value
      }
    }
    write(frame(frameType.settings, frameFlag.ack, 0, Buffer.alloc(0)))
    events.ready()
    flushAll()
  }

  function grow(id: number, by: number): void {
    if (id === 0) {
      window += by
      if (window > largestWindow) throw new ProtocolError('a window larger than possible')
      flushAll()
      return
    }
    const stream = streams.get(id)
    if (stream === undefined) return
    stream.window += by
    flush(stream)
  }

  function flushAll(): void {
    for (const stream of streams.values()) flush(stream)
  }

  function flush(stream: OpenStream): void {
    for (let next = stream.queue[0]; next !== undefined; next = stream.queue[0]) {
      const left = next.bytes.length - next.at
      const size = Math.min(left, maxFrame, window, stream.window)
      if (pipe.waiting + leavingBytes >= socketRoom || (size <= 0 && left > 0)) return
      const end = next.end && size === left
      write(frameHead(size, frameType.data, end ? frameFlag.endStream : 0, stream.id))
      if (size > 0) write(next.bytes.subarray(next.at, next.at + size))
      window -= size
      stream.window -= size
      next.at += size
      if (next.at < next.bytes.length) continue
      stream.queue.shift()
      stream.endSent ||= end
      next.sent()
    }
  }

  function forget(stream: OpenStream): void {
    streams.delete(stream.id)
    for (const { sent } of stream.queue.splice(0)) sent()
  }

  function closed(stream: OpenStream, failure: StreamFailure | undefined): void {
    forget(stream)
    // The peer has said its last; what this side would still send has no reader.
    if (failure === undefined && !stream.endSent) reset(stream)
    stream.sink.closed(failure)
  }

  function reset({ id }: OpenStream): void {
    write(numberFrame(frameType.reset, id, resetCode.cancel))
  }

  function lose(reason: string, code?: string): void {
    gone ??= reason
    leaving = []
    pipe.destroy()
    events.lost(reason, code)
    for (const stream of [...streams.values()]) closed(stream, { kind: 'lost', reason })
  }

  return {
    open(headers, sink) {
      const stream: OpenStream = { id: nextId, sink, queue: [], window: streamStart, endSent: false }
      nextId += 2
      if (gone === undefined) {
        streams.set(stream.id, stream)
        writeHeaders(stream.id, encodeHeaders(headers))
      } else {
        const failure = { kind: 'lost', reason: gone } as const
        process.nextTick(() => sink.closed(failure))
      }
      return {
        send: (bytes, end) =>
          new Promise((sent) => {
            if (!streams.has(stream.id)) return sent()
            stream.queue.push({ bytes, end, sent, at: 0 })
            flush(stream)
          }),
        credit(bytes) {
          if (bytes > 0 && streams.has(stream.id)) {
            write(numberFrame(frameType.windowUpdate, stream.id, bytes))
          }
        },
        cancel() {
          if (!streams.has(stream.id)) return
          forget(stream)
          reset(stream)
        },
      }
    },
    close() {
      gone ??= 'the connection was closed'
      for (const stream of [...streams.values()]) {
        reset(stream)
        closed(stream, { kind: 'lost', reason: gone })
      }
      sendTurn()
      pipe.end()
    },
  }

  function writeHeaders(id: number, encoded: Buffer): void {
    for (let at = 0; at < encoded.length || at === 0; at += maxFrame) {
      const part = encoded.subarray(at, at + maxFrame)
      const last = at + maxFrame >= encoded.length ? frameFlag.endHeaders : 0
      write(frame(at === 0 ? frameType.headers : frameType.continuation, last, id, part))
    }
  }
}

function numberIn(payload: Buffer): number {
  if (payload.length < 4) throw new ProtocolError('a frame without its number')
  return numberAt(payload, 0) & 0x7fff_ffff
}
