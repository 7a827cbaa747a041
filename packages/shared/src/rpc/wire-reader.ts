import { isUtf8 } from 'node:buffer'

/** The bytes are no valid message: truncated, overlong, wrong UTF-8, too deep or too many elements. */
export class DecodeError extends Error {
  override readonly name = 'DecodeError'
}

/**
 * A cursor over one encoded message (https://protobuf.dev/programming-guides/encoding/).
 * `end` is that of the innermost length-delimited field; `lo` and `hi` hold the last varint, unsigned.
 */
export interface WireReader {
  readonly bytes: Buffer
  pos: number
  end: number
  lo: number
  hi: number
  /** How many repeated elements, map entries and unknown fields may still come. */
  elements: number
}

export const VARINT = 0
export const FIXED64 = 1
export const DELIMITED = 2
export const GROUP_START = 3
export const GROUP_END = 4
export const FIXED32 = 5

const maxElements = 1 << 18
/** Nesting of messages and groups; the value other implementations of the format use. */
export const maxDepth = 100

export function createReader(bytes: Uint8Array): WireReader {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return { bytes: view, pos: 0, end: view.length, lo: 0, hi: 0, elements: maxElements }
}

/** Reads into `lo` and `hi`. At most ten bytes and 64 bits. */
export function readVarint(reader: WireReader): void {
  let lo = 0
  let hi = 0
  for (let index = 0; index < 10; index++) {
    const byte = reader.pos < reader.end ? reader.bytes[reader.pos] : undefined
    if (byte === undefined) throw new DecodeError('truncated varint')
    reader.pos++
    const bits = byte & 0x7f
    if (index < 4) lo |= bits << (7 * index)
    else if (index === 4) {
      lo |= bits << 28
      hi |= bits >>> 4
    } else if (index < 9) hi |= bits << (7 * index - 32)
    else if (byte > 1) break
    else hi |= bits << 31
    if (byte < 0x80) {
      reader.lo = lo >>> 0
      reader.hi = hi >>> 0
      return
    }
  }
  throw new DecodeError('varint exceeds 64 bits')
}

/** Reads a tag; gives the field number and leaves the wire type in `wireType`. */
export function readTag(reader: WireReader): { readonly number: number; readonly wireType: number } {
  readVarint(reader)
  const number = reader.lo >>> 3
  if (reader.hi !== 0 || number === 0) throw new DecodeError('invalid field number')
  return { number, wireType: reader.lo & 7 }
}

/** Reads a length and gives the end of what it announces. */
export function readEnd(reader: WireReader): number {
  readVarint(reader)
  if (reader.hi !== 0 || reader.lo > reader.end - reader.pos) throw new DecodeError('truncated field')
  return reader.pos + reader.lo
}

/** A view, not a copy: it lives as long as the message's bytes. */
export function readBytes(reader: WireReader): Buffer {
  const end = readEnd(reader)
  const view = reader.bytes.subarray(reader.pos, end)
  reader.pos = end
  return view
}

export function readString(reader: WireReader): string {
  const view = readBytes(reader)
  if (!isUtf8(view)) throw new DecodeError('string field contains invalid UTF-8')
  return view.toString('utf8')
}

/** Accounts for one element whose memory the sender gets almost for free. */
export function countElement(reader: WireReader): void {
  if (reader.elements-- <= 0) throw new DecodeError(`more than ${maxElements} elements in one message`)
}

/** Skips the value of a field nobody knows; groups with everything in them. */
export function skipValue(reader: WireReader, number: number, wireType: number, depth: number): void {
  switch (wireType) {
    case VARINT:
      readVarint(reader)
      return
    case FIXED64:
      skipFixed(reader, 8)
      return
    case DELIMITED:
      reader.pos = readEnd(reader)
      return
    case GROUP_START:
      skipGroup(reader, number, depth)
      return
    case FIXED32:
      skipFixed(reader, 4)
      return
    default:
      throw new DecodeError(
        wireType === GROUP_END ? 'unexpected end of group' : `invalid wire type ${wireType}`,
      )
  }
}

function skipFixed(reader: WireReader, size: number): void {
  if (reader.end - reader.pos < size) throw new DecodeError('truncated field')
  reader.pos += size
}

function skipGroup(reader: WireReader, group: number, depth: number): void {
  if (depth >= maxDepth) throw new DecodeError('nested too deeply')
  for (;;) {
    const { number, wireType } = readTag(reader)
    if (wireType === GROUP_END) {
      if (number !== group) throw new DecodeError('mismatching end of group')
      return
    }
    skipValue(reader, number, wireType, depth + 1)
  }
}
