/** A growing buffer; `pos` is the length so far. */
export interface WireWriter {
  bytes: Buffer
  pos: number
}

// Named by its range: a property would be looked up in the tables of all characters at each start.
const loneSurrogate = /[\ud800-\udfff]/u

export function createWriter(): WireWriter {
  return { bytes: Buffer.allocUnsafe(256), pos: 0 }
}

export function written(writer: WireWriter): Buffer {
  return writer.bytes.subarray(0, writer.pos)
}

function reserve(writer: WireWriter, count: number): void {
  const needed = writer.pos + count
  if (needed <= writer.bytes.length) return
  const grown = Buffer.allocUnsafe(Math.max(needed, writer.bytes.length * 2))
  writer.bytes.copy(grown, 0, 0, writer.pos)
  writer.bytes = grown
}

/** An integer from 0 to 2^53 - 1. */
export function writeVarint(writer: WireWriter, value: number): void {
  reserve(writer, 10)
  putVarint(writer, value)
}

/** Any 64-bit value; negative ones as two's complement, ten bytes. */
export function writeVarint64(writer: WireWriter, value: bigint): void {
  reserve(writer, 10)
  let rest = BigInt.asUintN(64, value)
  while (rest >= 0x80n) {
    writer.bytes[writer.pos++] = Number(rest & 0x7fn) | 0x80
    rest >>= 7n
  }
  writer.bytes[writer.pos++] = Number(rest)
}

export function writeTag(writer: WireWriter, number: number, wireType: number): void {
  writeVarint(writer, number * 8 + wireType)
}

export function writeBytes(writer: WireWriter, value: Uint8Array): void {
  writeVarint(writer, value.length)
  reserve(writer, value.length)
  writer.bytes.set(value, writer.pos)
  writer.pos += value.length
}

export function writeString(writer: WireWriter, value: string): void {
  if (loneSurrogate.test(value)) throw new RangeError('string with a lone surrogate')
  const length = Buffer.byteLength(value, 'utf8')
  writeVarint(writer, length)
  reserve(writer, length)
  writer.bytes.write(value, writer.pos, length, 'utf8')
  writer.pos += length
}

/** Writes what `body` writes, preceded by its length. */
export function writeDelimited(writer: WireWriter, body: () => void): void {
  reserve(writer, 1)
  const start = writer.pos++
  body()
  const length = writer.pos - start - 1
  const extra = varintLength(length) - 1
  if (extra > 0) {
    reserve(writer, extra)
    writer.bytes.copyWithin(start + 1 + extra, start + 1, writer.pos)
  }
  const end = writer.pos + extra
  writer.pos = start
  putVarint(writer, length)
  writer.pos = end
}

function varintLength(value: number): number {
  let length = 1
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) length++
  return length
}

/** The room must have been reserved: content may follow directly. */
function putVarint(writer: WireWriter, value: number): void {
  let rest = value
  while (rest >= 0x80) {
    writer.bytes[writer.pos++] = (rest % 0x80) | 0x80
    rest = Math.floor(rest / 0x80)
  }
  writer.bytes[writer.pos++] = rest
}
