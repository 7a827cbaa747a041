/** Frame types of HTTP/2 (RFC 9113, 6). */
export const frameType = {
  data: 0,
  headers: 1,
  reset: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const

export const frameFlag = { endStream: 0x1, ack: 0x1, endHeaders: 0x4, padded: 0x8, priority: 0x20 } as const

/** Error codes of HTTP/2 (RFC 9113, 7), as far as they are sent or told apart. */
export const resetCode = {
  none: 0,
  protocol: 1,
  flowControl: 3,
  frameSize: 6,
  refused: 7,
  cancel: 8,
  compression: 9,
  calmDown: 11,
  inadequateSecurity: 12,
} as const

/** Identifiers of settings (RFC 9113, 6.5.2). */
export const setting = { headerTableSize: 1, enablePush: 2, initialWindow: 4, maxFrame: 5 } as const

/** Bytes that a frame may have unless its receiver allows more, and that every receiver allows. */
export const smallestMaxFrame = 16_384
/** Bytes of a window before anybody changes it, and the most it may hold. */
export const initialWindow = 65_535
export const largestWindow = 0x7fff_ffff

export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1')

const headLength = 9

export interface Frame {
  readonly type: number
  readonly flags: number
  readonly stream: number
  readonly payload: Buffer
}

/** What the peer did against RFC 9113; the connection cannot go on. */
export class ProtocolError extends Error {}

export function frameHead(length: number, type: number, flags: number, stream: number): Buffer {
  const head = Buffer.allocUnsafe(headLength)
  head.writeUIntBE(length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return head
}

export function frame(type: number, flags: number, stream: number, payload: Uint8Array): Buffer {
  return Buffer.concat([frameHead(payload.length, type, flags, stream), payload])
}

/** A frame whose payload is one number of 32 bits: RST_STREAM and WINDOW_UPDATE. */
export function numberFrame(type: number, stream: number, value: number): Buffer {
  const payload = Buffer.allocUnsafe(4)
  payload.writeUInt32BE(value)
  return frame(type, 0, stream, payload)
}

export function settingsFrame(values: readonly (readonly [id: number, value: number])[]): Buffer {
  const payload = Buffer.allocUnsafe(values.length * 6)
  for (const [at, [id, value]] of values.entries()) {
    payload.writeUInt16BE(id, at * 6)
    payload.writeUInt32BE(value, at * 6 + 2)
  }
  return frame(frameType.settings, 0, 0, payload)
}

/** Cuts what arrives into frames, whose payloads are views of it. Throws ProtocolError. */
export function createFrameReader(): (bytes: Buffer) => Iterable<Frame> {
  let rest: Buffer | undefined
  return function* (bytes) {
    const all = rest === undefined ? bytes : Buffer.concat([rest, bytes])
    let at = 0
    while (all.length - at >= headLength) {
      const length = all.readUIntBE(at, 3)
      if (length > smallestMaxFrame) throw new ProtocolError('a frame longer than allowed')
      const end = at + headLength + length
      if (end > all.length) break
      const [type = 0, flags = 0] = [all[at + 3], all[at + 4]]
      const stream = all.readUInt32BE(at + 5) & 0x7fff_ffff
      yield { type, flags, stream, payload: all.subarray(at + headLength, end) }
      at = end
    }
    rest = at === all.length ? undefined : all.subarray(at)
  }
}

/** The payload of a DATA or HEADERS frame without padding and priority. Throws ProtocolError. */
export function content({ type, flags, payload }: Frame): Buffer {
  let start = 0
  let end = payload.length
  if ((flags & frameFlag.padded) !== 0) {
    start = 1
    end -= payload[0] ?? 0
  }
  if (type === frameType.headers && (flags & frameFlag.priority) !== 0) start += 5
  if (start > end) throw new ProtocolError('more padding than frame')
  return payload.subarray(start, end)
}
