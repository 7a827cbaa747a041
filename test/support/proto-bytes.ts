// Protocol Buffers by hand (https://protobuf.dev/programming-guides/encoding/): what tests of the
// original's service send and read, so that they have nothing in common with the tables under test.

const delimited = 2

export function varint(value: number | bigint): Buffer {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, BigInt(value))
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128)
  return Buffer.from([...bytes, Number(rest)])
}

/** A nested message, written even when it is empty. */
export function part(number: number, ...content: readonly Buffer[]): Buffer {
  const bytes = Buffer.concat(content)
  return Buffer.concat([varint((number << 3) | delimited), varint(bytes.length), bytes])
}

/** One string, or every string of a repeated field; a single empty one is left out. */
export function text(number: number, value: string | readonly string[]): Buffer {
  if (typeof value !== 'string') {
    return Buffer.concat(value.map((item) => part(number, Buffer.from(item, 'utf8'))))
  }
  return value === '' ? Buffer.alloc(0) : part(number, Buffer.from(value, 'utf8'))
}

/** A bool or an integer; zero is left out. */
export function number(field: number, value: number | bigint | boolean): Buffer {
  const wide = BigInt(value)
  return wide === 0n ? Buffer.alloc(0) : Buffer.concat([varint(field << 3), varint(wide)])
}

/** What a message holds, by field number; fails for anything but varints and length-delimited fields. */
export function fieldsOf(bytes: Buffer): ReadonlyMap<number, readonly (Buffer | bigint)[]> {
  const found = new Map<number, (Buffer | bigint)[]>()
  let at = 0
  const next = (): bigint => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes.readUInt8(at++)
      value |= BigInt(byte & 127) << shift
      if (byte < 128) return value
    }
  }
  while (at < bytes.length) {
    const tag = Number(next())
    const value = next()
    if ((tag & 7) === 0) found.set(tag >> 3, [...(found.get(tag >> 3) ?? []), value])
    else if ((tag & 7) !== delimited || at + Number(value) > bytes.length) throw new Error(`bad tag ${tag}`)
    else {
      const content = bytes.subarray(at, at + Number(value))
      found.set(tag >> 3, [...(found.get(tag >> 3) ?? []), content])
      at += content.length
    }
  }
  return found
}

/** The strings of a field. */
export function textsIn(bytes: Buffer, field: number): readonly string[] {
  return (fieldsOf(bytes).get(field) ?? []).map((value) => {
    if (typeof value === 'bigint') throw new Error(`field ${field} is a number`)
    return value.toString('utf8')
  })
}

export function textIn(bytes: Buffer, field: number): string {
  return textsIn(bytes, field).at(-1) ?? ''
}

export function numberIn(bytes: Buffer, field: number): number {
  return Number(fieldsOf(bytes).get(field)?.at(-1) ?? 0n)
}

export function partsIn(bytes: Buffer, field: number): readonly Buffer[] {
  return (fieldsOf(bytes).get(field) ?? []).flatMap((value) => (typeof value === 'bigint' ? [] : [value]))
}
