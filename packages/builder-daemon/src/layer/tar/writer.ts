import type { DiffId } from '@isula-build/shared/oci/digest.js'
import { type Collector, createCollector } from './collector.js'
import { BLOCK, padding, type TarEntry, type TarEntryType } from './entry.js'
import { encodeRecords, type PaxRecord, xattrKey } from './pax.js'

/**
 * The canonical tar of a layer: POSIX ustar, with a pax header only where ustar cannot say it (long
 * or non-ASCII names, big numbers, negative times, extended attributes). Whole seconds, no user or
 * group names; equal entries give equal bytes.
 */
export interface TarWriter {
  /** Starts the next entry; the payload of the one before must be complete. */
  entry(entry: TarEntry): void
  /** Appends payload of the current file. */
  payload(bytes: Buffer): void
  /**
   * Takes the whole payload from `read`, which puts up to `length` bytes at `offset` of `target` and
   * returns their number. False when it returned 0 before the end: the tar is then of no use.
   */
  payloadFrom(read: (target: Buffer, offset: number, length: number) => number): boolean
  /** `count` bytes of payload came to their place in the collector's memory in another way. */
  placed(count: number): void
  /** Ends the archive (two zero blocks). */
  finish(): TarSummary
}

export interface TarSummary {
  readonly diffId: DiffId
  readonly tarSize: number
  readonly entries: number
}

/** `output` gets the bytes in order; what it is given is valid during the call only. */
export function createTarWriter(output?: (bytes: Buffer) => void): TarWriter {
  return createTarWriterOn(createCollector(output))
}

export function createTarWriterOn(collector: Collector): TarWriter {
  let entries = 0
  let remaining = 0
  let pad = 0

  function progress(count: number): void {
    remaining -= count
    if (remaining === 0 && pad > 0) collector.zeros(pad)
  }
  return {
    entry(entry) {
      if (remaining > 0) throw new Error(`payload is ${remaining} bytes short before "${entry.path}"`)
      const records = extendedRecords(entry)
      if (records.length > 0) collector.append(encodeExtension(entry, records))
      const { buffer, at } = collector.reserve(BLOCK)
      encodeBlock(buffer, at, entry)
      entries += 1
      remaining = entry.type === 'file' ? entry.size : 0
      pad = padding(remaining)
    },
    payload(bytes) {
      if (bytes.length > remaining) throw new Error('more payload than the entry said')
      if (bytes.length === 0) return
      collector.append(bytes)
      progress(bytes.length)
    },
    payloadFrom(read) {
      while (remaining > 0) {
        const count = collector.fill(remaining, read)
        if (count === 0) return false
        progress(count)
      }
      return true
    },
    placed: progress,
    finish() {
      if (remaining > 0) throw new Error(`payload is ${remaining} bytes short at the end`)
      collector.zeros(2 * BLOCK)
      return { ...collector.finish(), entries }
    },
  }
}

/** The header blocks of one entry, pax header included, without payload. */
export function encodeHeader(entry: TarEntry): Buffer {
  const block = Buffer.allocUnsafe(BLOCK)
  encodeBlock(block, 0, entry)
  const records = extendedRecords(entry)
  return records.length === 0 ? block : Buffer.concat([encodeExtension(entry, records), block])
}

const typeFlags: Readonly<Record<TarEntryType, number>> = {
  file: 0x30,
  hardlink: 0x31,
  symlink: 0x32,
  character: 0x33,
  block: 0x34,
  directory: 0x35,
  fifo: 0x36,
}
const PAX_LOCAL = 0x78
const MAX_ID = 0o7777777
const MAX_OCTAL_11 = 0o77777777777
const SECOND = 1_000_000_000n

const plain = /^[\x01-\x7f]*$/

function seconds(ns: bigint): number {
  const whole = Number(ns / SECOND)
  return ns < 0n && ns % SECOND !== 0n ? whole - 1 : whole
}

function archivePath(entry: TarEntry): string {
  return entry.type === 'directory' ? `${entry.path}/` : entry.path
}

/** Where to cut a path into ustar's prefix (155) and name (100); 0 = fits the name, -1 = impossible. */
function prefixLength(path: string): number {
  if (path.length <= 100) return 0
  if (path.length > 256) return -1
  // The name may end in a slash but must not be empty.
  const cut = path.lastIndexOf('/', Math.min(155, path.length - 2))
  return cut > 0 && path.length - cut - 1 <= 100 ? cut : -1
}

function extendedRecords(entry: TarEntry): PaxRecord[] {
  const records: PaxRecord[] = []
  const add = (key: string, value: string | number): void => {
    records.push({ key, value: Buffer.from(String(value), 'latin1') })
  }
  const path = archivePath(entry)
  const mtime = seconds(entry.mtimeNs)
  if (prefixLength(path) < 0 || !plain.test(path)) add('path', path)
  if (entry.linkName.length > 100 || !plain.test(entry.linkName)) add('linkpath', entry.linkName)
  if (entry.type === 'file' && entry.size > MAX_OCTAL_11) add('size', entry.size)
  if (entry.uid > MAX_ID) add('uid', entry.uid)
  if (entry.gid > MAX_ID) add('gid', entry.gid)
  if (mtime < 0 || mtime > MAX_OCTAL_11) add('mtime', mtime)
  for (const { name, value } of entry.xattrs) records.push({ key: xattrKey(name), value })
  return records.length > 1 ? records.sort((a, b) => (a.key < b.key ? -1 : 1)) : records
}

function encodeExtension(entry: TarEntry, records: readonly PaxRecord[]): Buffer {
  const body = encodeRecords(records)
  const block = Buffer.alloc(BLOCK + body.length + padding(body.length))
  const base = entry.path.slice(entry.path.lastIndexOf('/') + 1)
  putHeader(block, 0, {
    name: `PaxHeaders.0/${asciiOnly(base).slice(0, 80)}`,
    prefix: '',
    linkName: '',
    flag: PAX_LOCAL,
    numbers: [0o644, 0, 0, body.length, 0, 0, 0],
  })
  body.copy(block, BLOCK)
  return block
}

function asciiOnly(text: string): string {
  return plain.test(text) ? text : text.replace(/[^\x20-\x7e]/g, '_')
}

function encodeBlock(target: Buffer, at: number, entry: TarEntry): void {
  const path = archivePath(entry)
  const cut = prefixLength(path)
  const whole = cut >= 0 && plain.test(path)
  const mtime = seconds(entry.mtimeNs)
  const size = entry.type === 'file' ? entry.size : 0
  if (entry.deviceMajor > MAX_ID || entry.deviceMinor > MAX_ID) {
    throw new Error(`device number ${entry.deviceMajor}:${entry.deviceMinor} of "${path}" does not fit a tar`)
  }
  putHeader(target, at, {
    name: whole ? path.slice(cut === 0 ? 0 : cut + 1) : asciiOnly(path.slice(0, 99)),
    prefix: whole ? path.slice(0, cut) : '',
    linkName: asciiOnly(entry.linkName.slice(0, 100)),
    flag: typeFlags[entry.type],
    numbers: [
      entry.mode & 0o7777,
      entry.uid > MAX_ID ? 0 : entry.uid,
      entry.gid > MAX_ID ? 0 : entry.gid,
      size > MAX_OCTAL_11 ? 0 : size,
      mtime < 0 || mtime > MAX_OCTAL_11 ? 0 : mtime,
      entry.deviceMajor,
      entry.deviceMinor,
    ],
  })
}

interface Fields {
  readonly name: string
  readonly prefix: string
  readonly linkName: string
  readonly flag: number
  /** Mode, uid, gid, size, mtime, device major and minor. */
  readonly numbers: readonly [number, number, number, number, number, number, number]
}

function putHeader(target: Buffer, at: number, fields: Fields): void {
  target.fill(0, at, at + BLOCK)
  target.write(fields.name, at, 'latin1')
  const [mode, uid, gid, size, mtime, major, minor] = fields.numbers
  putOctal(target, at + 100, 7, mode)
  putOctal(target, at + 108, 7, uid)
  putOctal(target, at + 116, 7, gid)
  putOctal(target, at + 124, 11, size)
  putOctal(target, at + 136, 11, mtime)
  target.fill(0x20, at + 148, at + 156)
  target[at + 156] = fields.flag
  if (fields.linkName !== '') target.write(fields.linkName, at + 157, 'latin1')
  target.write('ustar\x0000', at + 257, 'latin1')
  putOctal(target, at + 329, 7, major)
  putOctal(target, at + 337, 7, minor)
  if (fields.prefix !== '') target.write(fields.prefix, at + 345, 'latin1')
  // What is left are zeros.
  const sum =
    sumOf(target, at, fields.name.length) +
    sumOf(target, at + 100, 57 + fields.linkName.length) +
    sumOf(target, at + 257, 8) +
    sumOf(target, at + 329, 16 + fields.prefix.length)
  putOctal(target, at + 148, 6, sum)
  target[at + 154] = 0
}

function sumOf(bytes: Buffer, from: number, length: number): number {
  let sum = 0
  for (let index = from; index < from + length; index += 1) sum += bytes[index] ?? 0
  return sum
}

function putOctal(target: Buffer, at: number, digits: number, value: number): void {
  let rest = value
  for (let index = at + digits - 1; index >= at; index -= 1) {
    const next = Math.floor(rest / 8)
    target[index] = 0x30 + (rest - next * 8)
    rest = next
  }
}
