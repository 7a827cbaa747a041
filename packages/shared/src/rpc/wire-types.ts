import {
  DELIMITED,
  DecodeError,
  readBytes,
  readString,
  readVarint,
  VARINT,
  type WireReader,
} from './wire-reader.js'
import { type WireWriter, writeBytes, writeString, writeVarint, writeVarint64 } from './wire-writer.js'

/** A scalar of the format: how it is read, written and recognised as absent. */
export interface ScalarType<T> {
  readonly kind: 'scalar' | 'enum'
  /** As a .proto file spells it. */
  readonly proto: string
  readonly wireType: number
  readonly zero: T
  isZero(value: T): boolean
  read(reader: WireReader): T
  write(writer: WireWriter, value: T): void
}

/** An enum as a union of names; a number without a name decodes as UNRECOGNIZED, which cannot be encoded. */
export interface EnumType<T extends string> extends ScalarType<T | 'UNRECOGNIZED'> {
  readonly values: Readonly<Record<T, number>>
}

const two32 = 0x1_0000_0000

export const text: ScalarType<string> = {
  kind: 'scalar',
  proto: 'string',
  wireType: DELIMITED,
  zero: '',
  isZero: (value) => value === '',
  read: readString,
  write: writeString,
}

/** Of the same class as what is decoded, so that an absent field equals an empty one. */
const noBytes: Uint8Array = Buffer.alloc(0)

/** Decoded as a view of the received bytes. */
export const bytes: ScalarType<Uint8Array> = {
  kind: 'scalar',
  proto: 'bytes',
  wireType: DELIMITED,
  zero: noBytes,
  isZero: (value) => value.length === 0,
  read: readBytes,
  write: writeBytes,
}

export const bool: ScalarType<boolean> = {
  kind: 'scalar',
  proto: 'bool',
  wireType: VARINT,
  zero: false,
  isZero: (value) => !value,
  read: (reader) => {
    readVarint(reader)
    return reader.lo !== 0 || reader.hi !== 0
  },
  write: (writer, value) => writeVarint(writer, value ? 1 : 0),
}

export const int32: ScalarType<number> = number('int32', -0x8000_0000, 0x7fff_ffff, (reader) => reader.lo | 0)

export const uint32: ScalarType<number> = number('uint32', 0, 0xffff_ffff, (reader) => reader.lo)

/** A 64-bit field kept as a number; values beyond 2^53 - 1 are refused both ways. */
export const int64: ScalarType<number> = number(
  'int64',
  Number.MIN_SAFE_INTEGER,
  Number.MAX_SAFE_INTEGER,
  (reader) => safe((reader.hi | 0) * two32 + reader.lo),
)

/** Like `int64`, unsigned. */
export const uint64: ScalarType<number> = number('uint64', 0, Number.MAX_SAFE_INTEGER, (reader) =>
  safe(reader.hi * two32 + reader.lo),
)

/** Device and inode numbers and the like: all 64 bits. */
export const bigUint64: ScalarType<bigint> = {
  kind: 'scalar',
  proto: 'uint64',
  wireType: VARINT,
  zero: 0n,
  isZero: (value) => value === 0n,
  read: (reader) => {
    readVarint(reader)
    return (BigInt(reader.hi) << 32n) | BigInt(reader.lo)
  },
  write: (writer, value) => {
    if (value < 0n || value > 0xffff_ffff_ffff_ffffn) throw new RangeError(`${value} is no uint64`)
    writeVarint64(writer, value)
  },
}

export function enumeration<const V extends Readonly<Record<string, number>>>(
  proto: string,
  values: V,
): EnumType<Extract<keyof V, string>> {
  type Name = Extract<keyof V, string>
  const names = new Map<number, Name>()
  for (const [name, value] of Object.entries(values)) names.set(value, name as Name)
  const zero = names.get(0)
  if (zero === undefined) throw new Error(`${proto} has no name for 0`)
  return {
    kind: 'enum',
    proto,
    values,
    wireType: VARINT,
    zero,
    isZero: (value) => value === zero,
    read: (reader) => {
      readVarint(reader)
      return names.get(reader.lo | 0) ?? 'UNRECOGNIZED'
    },
    write: (writer, value) => {
      const wire = value === 'UNRECOGNIZED' ? undefined : values[value]
      if (wire === undefined) throw new RangeError(`${proto} has no value ${value}`)
      writeInteger(writer, wire)
    },
  }
}

function number(
  proto: string,
  min: number,
  max: number,
  take: (reader: WireReader) => number,
): ScalarType<number> {
  return {
    kind: 'scalar',
    proto,
    wireType: VARINT,
    zero: 0,
    isZero: (value) => value === 0,
    read: (reader) => {
      readVarint(reader)
      return take(reader)
    },
    write: (writer, value) => {
      if (!Number.isInteger(value) || value < min || value > max)
        throw new RangeError(`${value} is no ${proto}`)
      writeInteger(writer, value)
    },
  }
}

function writeInteger(writer: WireWriter, value: number): void {
  if (value < 0) writeVarint64(writer, BigInt(value))
  else writeVarint(writer, value)
}

function safe(value: number): number {
  if (!Number.isSafeInteger(value)) throw new DecodeError('integer beyond 2^53 - 1')
  return value
}
