import { createHash, randomBytes } from 'node:crypto'
import { closeSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs'
import { hasErrno } from '../../system/system-error.js'

/**
 * A file of rows, each a path and some bytes, in the order of `comparePaths`: two of them merge in bounded memory.
 * Written beside and renamed, never flushed: a checksum over each chunk, chained to the one before, tells what a
 * crash has left. Whatever is wrong with a file makes it end there, so it may lose rows and never invents one.
 */
export interface RowFile extends Disposable {
  readonly header: Buffer
  /** Path of the row to come; undefined at the end. */
  readonly next: string | undefined
  /** Bytes of that row; valid until `advance`. */
  bytes(): Buffer
  advance(): void
}

export interface RowWriter extends Disposable {
  /** What does not fit a chunk is left out. In another order than the file's it is sorted, in memory, at the end. */
  add(path: string, bytes: Buffer): void
  /** Puts the file in its place; without that nothing is left of it. */
  commit(header: Buffer): void
}

/** What a file is about: 32 bytes that it must begin with. */
export type RowIdentity = Buffer

// Magic, identity, header, checksum of all that. Then chunks: length, checksum, rows.
const magic = Buffer.from('isula-rows-1\n\0\0\0', 'latin1')
const identityAt = 16
const headerAt = 48
export const headerSize = 64
const sumAt = headerAt + headerSize
const prefaceSize = sumAt + 32
const chunkSize = 1 << 16
const chunkHead = 4 + 32
// Length of the path shared with the row before, of the rest, of the bytes.
const rowHead = 2 + 2 + 2

/** The order of a walk: names by bytes, a directory before what is in it. */
export function comparePaths(a: string, b: string): number {
  if (a === b) return 0
  return compareFrom(a, b, sharedLength(a, b))
}

function compareFrom(a: string, b: string, at: number): number {
  if (at === Math.min(a.length, b.length)) return a.length - b.length
  if (a[at] === '/') return -1
  return b[at] === '/' ? 1 : a.charCodeAt(at) - b.charCodeAt(at)
}

/** undefined when there is no file of this identity, or nothing of it can be believed. */
export function openRowFile(file: string, identity: RowIdentity): RowFile | undefined {
  let fd: number
  try {
    fd = openSync(file, 'r')
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined
    throw error
  }
  const preface = Buffer.alloc(prefaceSize)
  if (!readFully(fd, preface, prefaceSize) || !isPreface(preface, identity)) {
    closeSync(fd)
    return undefined
  }
  const head = Buffer.alloc(chunkHead)
  let sum = identity
  let chunk: Buffer = Buffer.alloc(0)
  let at = 0
  let end = 0
  let path: string | undefined = ''

  function nextChunk(): boolean {
    if (!readFully(fd, head, chunkHead)) return false
    const length = head.readUInt32LE(0)
    if (length === 0 || length > chunkSize) return false
    chunk = Buffer.allocUnsafe(length)
    if (!readFully(fd, chunk, length)) return false
    sum = sumOf(sum, chunk)
    end = 0
    return sum.equals(head.subarray(4))
  }

  function advance(): void {
    if (path === undefined) return
    if (end === chunk.length && !nextChunk()) {
      path = undefined
      return
    }
    const shared = chunk.readUInt16LE(end)
    const name = end + rowHead
    at = name + chunk.readUInt16LE(end + 2)
    path = path.slice(0, shared) + chunk.toString('latin1', name, at)
    end = at + chunk.readUInt16LE(end + 4)
  }

  advance()
  return {
    header: preface.subarray(headerAt, sumAt),
    get next() {
      return path
    },
    bytes: () => chunk.subarray(at, end),
    advance,
    [Symbol.dispose]: () => closeSync(fd),
  }
}

function isPreface(preface: Buffer, identity: RowIdentity): boolean {
  return (
    preface.subarray(0, identityAt).equals(magic) &&
    preface.subarray(identityAt, headerAt).equals(identity) &&
    preface.subarray(sumAt).equals(sumOf(magic, preface.subarray(0, sumAt)))
  )
}

function sumOf(before: Buffer, bytes: Buffer): Buffer {
  return createHash('sha256').update(before).update(bytes).digest()
}

function readFully(fd: number, target: Buffer, length: number): boolean {
  for (let at = 0; at < length; ) {
    const count = readSync(fd, target, at, length - at, null)
    if (count === 0) return false
    at += count
  }
  return true
}

/** `file` is replaced by `commit`. */
export function createRowFile(file: string, identity: RowIdentity): RowWriter {
  const temporary = `${file}.${randomBytes(6).toString('hex')}${unfinished}`
  const fd = openSync(temporary, 'wx', 0o600)
  const buffer = Buffer.allocUnsafe(chunkSize)
  let filled = 0
  let size = prefaceSize
  let last = ''
  let isSorted = true
  let committed = false
  let sum = identity

  function write(bytes: Buffer): void {
    for (let done = 0; done < bytes.length; ) {
      const count = writeSync(fd, bytes, done, bytes.length - done, size)
      done += count
      size += count
    }
  }

  function flush(): void {
    const rows = buffer.subarray(0, filled)
    const head = Buffer.allocUnsafe(chunkHead)
    sum = sumOf(sum, rows)
    head.writeUInt32LE(filled, 0)
    sum.copy(head, 4)
    write(head)
    write(rows)
    filled = 0
  }

  return {
    add(path, bytes) {
      const shared = sharedLength(last, path)
      if (compareFrom(last, path, shared) >= 0) isSorted = false
      const rest = path.length - shared
      const length = rowHead + rest + bytes.length
      if (length > chunkSize || shared > 0xffff) return
      if (filled + length > chunkSize) flush()
      buffer.writeUInt16LE(shared, filled)
      buffer.writeUInt16LE(rest, filled + 2)
      buffer.writeUInt16LE(bytes.length, filled + 4)
      buffer.write(path.slice(shared), filled + rowHead, 'latin1')
      bytes.copy(buffer, filled + rowHead + rest)
      filled += length
      last = path
    },
    commit(header) {
      if (filled > 0) flush()
      const preface = Buffer.alloc(prefaceSize)
      magic.copy(preface)
      identity.copy(preface, identityAt)
      header.copy(preface, headerAt)
      sumOf(magic, preface.subarray(0, sumAt)).copy(preface, sumAt)
      size = 0
      write(preface)
      if (isSorted) {
        renameSync(temporary, file)
        committed = true
      } else sortRows(temporary, { file, identity, header })
    },
    [Symbol.dispose]() {
      closeSync(fd)
      if (!committed) rmSync(temporary, { force: true })
    },
  }
}

function sortRows(
  unsorted: string,
  wanted: { readonly file: string; readonly identity: RowIdentity; readonly header: Buffer },
): void {
  using rows = openRowFile(unsorted, wanted.identity)
  const all: [string, Buffer][] = []
  for (; rows?.next !== undefined; rows.advance()) all.push([rows.next, Buffer.from(rows.bytes())])
  all.sort(([a], [b]) => comparePaths(a, b))
  using sorted = createRowFile(wanted.file, wanted.identity)
  let last: string | undefined
  for (const [path, bytes] of all) {
    if (path !== last) sorted.add(path, bytes)
    last = path
  }
  sorted.commit(wanted.header)
}

/** How the name of a file ends while it is written. */
export const unfinished = '.new'

function sharedLength(a: string, b: string): number {
  const most = Math.min(a.length, b.length)
  let at = 0
  while (at < most && a.charCodeAt(at) === b.charCodeAt(at)) at += 1
  return at
}
