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

/** The number of 32 bits at `at`, of bytes that are there. Node.js compiles its own ways to do so at each start. */
export function numberAt(bytes: Uint8Array, at: number): number {
  const [a = 0, b = 0, c = 0, d = 0] = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
  return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0
}

/** Puts a number of 32 bits at `at`, where there is room for it. */
export function putNumber(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24
  bytes[at + 1] = value >>> 16
  bytes[at + 2] = value >>> 8
  bytes[at + 3] = value
}

export function frameHead(length: number, type: number, flags: number, stream: number): Buffer {
  return putHead(Buffer.allocUnsafe(headLength), length, type, flags, stream)
}

function putHead(bytes: Buffer, length: number, type: number, flags: number, stream: number): Buffer {
  // 24 bits of length, then the type in the place of the lowest ones.
  putNumber(bytes, 0, length << 8)
  bytes[3] = type
  bytes[4] = flags
  putNumber(bytes, 5, stream)
  return bytes
}

export function frame(type: number, flags: number, stream: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.allocUnsafe(headLength + payload.length)
  bytes.set(payload, headLength)
  return putHead(bytes, payload.length, type, flags, stream)
}

/** A frame whose payload is one number of 32 bits: RST_STREAM and WINDOW_UPDATE. */
export function numberFrame(type: number, stream: number, value: number): Buffer {
  const payload = Buffer.allocUnsafe(4)
  putNumber(payload, 0, value)
  return frame(type, 0, stream, payload)
}

export function settingsFrame(values: readonly (readonly [id: number, value: number])[]): Buffer {
  const payload = Buffer.allocUnsafe(values.length * 6)
  for (const [at, [id, value]] of values.entries()) {
    payload[at * 6] = id >>> 8
    payload[at * 6 + 1] = id
    putNumber(payload, at * 6 + 2, value)
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
      const length = numberAt(all, at) >>> 8
      if (length > smallestMaxFrame) throw new ProtocolError('a frame longer than allowed')
      const end = at + headLength + length
      if (end > all.length) break
      const [type = 0, flags = 0] = [all[at + 3], all[at + 4]]
      const stream = numberAt(all, at + 5) & 0x7fff_ffff
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
