import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { BLOCK } from './entry.js'

/** A header block as it stands, before pax and GNU extensions apply. Strings are latin1 bytes. */
export interface RawHeader {
  readonly name: string
  readonly linkName: string
  /** The type flag as a character; '\0' is the old form of '0'. */
  readonly flag: string
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly size: number
  /** Seconds. */
  readonly mtime: number
  readonly format: 'v7' | 'ustar' | 'gnu'
  readonly deviceMajor: number
  readonly deviceMinor: number
}

/** undefined for a block of zeros. Fails with ISB_ARCHIVE_INVALID. */
export function decodeHeader(block: Buffer, at: number): RawHeader | undefined {
  if (isZero(block, at)) return undefined
  verifyChecksum(block, at)
  const magic = block.toString('latin1', at + 257, at + 265)
  const format = magic === 'ustar\x0000' ? 'ustar' : magic === 'ustar  \0' ? 'gnu' : 'v7'
  const flag = String.fromCharCode(block[at + 156] ?? 0)
  const device = format !== 'v7' && (flag === '3' || flag === '4')
  let name = text(block, at, 100)
  if (format === 'ustar') {
    const prefix = text(block, at + 345, 155)
    if (prefix !== '') name = `${prefix}/${name}`
  }
  return {
    name,
    linkName: text(block, at + 157, 100),
    flag,
    mode: numeric(block, at + 100, 8, 'mode') & 0o7777,
    uid: identity(block, at + 108, 'uid'),
    gid: identity(block, at + 116, 'gid'),
    size: natural(block, at + 124, 12, 'size'),
    mtime: numeric(block, at + 136, 12, 'mtime'),
    format,
    deviceMajor: device ? natural(block, at + 329, 8, 'device number') : 0,
    deviceMinor: device ? natural(block, at + 337, 8, 'device number') : 0,
  }
}

const zeroBlock = Buffer.alloc(BLOCK)

function isZero(block: Buffer, at: number): boolean {
  return block[at] === 0 && block.compare(zeroBlock, 0, BLOCK, at, at + BLOCK) === 0
}

// Some old programs summed signed bytes; both sums are accepted, as everywhere.
function verifyChecksum(block: Buffer, at: number): void {
  let unsigned = 0
  let high = 0
  for (let index = 0; index < BLOCK; index += 1) {
    const byte = index >= 148 && index < 156 ? 0x20 : (block[at + index] ?? 0)
    unsigned += byte
    if (byte > 127) high += 1
  }
  const stored = octal(block, at + 148, 8)
  if (stored === undefined || (stored !== unsigned && stored !== unsigned - high * 256)) {
    throw new BuilderError('ISB_ARCHIVE_INVALID', 'not a tar header: the checksum is wrong')
  }
}

function text(block: Buffer, at: number, length: number): string {
  const end = block.indexOf(0, at)
  return block.toString('latin1', at, end < 0 || end > at + length ? at + length : end)
}

function octal(block: Buffer, at: number, length: number): number | undefined {
  let index = at
  const limit = at + length
  while (index < limit && (block[index] === 0x20 || block[index] === 0)) index += 1
  let end = limit
  while (end > index && (block[end - 1] === 0x20 || block[end - 1] === 0)) end -= 1
  let value = 0
  for (; index < end; index += 1) {
    const digit = (block[index] ?? 0) - 0x30
    if (digit < 0 || digit > 7) {
      // What follows a NUL is not part of the number.
      return block[index] === 0 ? value : undefined
    }
    value = value * 8 + digit
  }
  return value
}

/** Octal, or GNU base-256 (two's complement, high bit set). */
export function numeric(block: Buffer, at: number, length: number, what: string): number {
  const first = block[at] ?? 0
  const value = (first & 0x80) === 0 ? octal(block, at, length) : base256(block, at, length)
  if (value === undefined || !Number.isSafeInteger(value)) {
    throw new BuilderError('ISB_ARCHIVE_INVALID', `damaged tar header: ${what} is no number`)
  }
  return value
}

function base256(block: Buffer, at: number, length: number): number {
  const negative = ((block[at] ?? 0) & 0x40) !== 0
  let value = 0n
  for (let index = 0; index < length; index += 1) {
    const byte = block[at + index] ?? 0
    value = (value << 8n) | BigInt(index === 0 ? byte & 0x7f : byte)
  }
  if (negative) value -= 1n << BigInt(length * 8 - 1)
  return Number(value)
}

function natural(block: Buffer, at: number, length: number, what: string): number {
  const value = numeric(block, at, length, what)
  if (value < 0) throw new BuilderError('ISB_ARCHIVE_INVALID', `damaged tar header: ${what} is negative`)
  return value
}

/** The last number is no identity: chown(2) takes it for "leave as it is". */
export const MAX_IDENTITY = 0xffff_fffe

function identity(block: Buffer, at: number, what: string): number {
  const value = natural(block, at, 8, what)
  if (value > MAX_IDENTITY)
    throw new BuilderError('ISB_ARCHIVE_INVALID', `damaged tar header: ${what} is too big`)
  return value
}
