import { closeSync, openSync, renameSync, writeSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { decompress } from './decompress/decompress.js'
import { descriptorSource } from './decompress/descriptor-source.js'
import type { JobControl } from './job-control.js'
import type { ByteSource } from './tar/reader.js'

/**
 * What a layer tar holds besides the contents of its files, so that the tar can be written again byte
 * for byte. Format, gzip-compressed in members of about 1 MiB: the line `ISBH1`, then records
 *   'S' length(4) bytes                 raw bytes of the tar
 *   'F' size(8) length(4) path          the content of `diff/<path>`, exactly `size` bytes
 *   'E' count(4)                        the end; how many entries the tar has
 * numbers little endian. Empty files have no record.
 */
export interface HeadersWriter {
  raw(bytes: Buffer): void
  /** Gives the number of this record among the 'F' records, from 0. */
  file(path: string, size: number): number
  finish(entries: number): void
}

export type HeadersRecord =
  | { readonly kind: 'raw'; readonly bytes: Buffer }
  | { readonly kind: 'file'; readonly path: string; readonly size: number }
  | { readonly kind: 'end'; readonly entries: number }

const MAGIC = Buffer.from('ISBH1\n', 'latin1')
const RAW = 0x53
const FILE = 0x46
const END = 0x45
const COLLECT_BYTES = 1 << 20

/** Creates the file, which must not exist; the caller removes it when the layer is given up. */
export function createHeadersWriter(path: string): HeadersWriter & { close(): void } {
  let fd = openSync(path, 'wx', 0o600)
  const buffer = Buffer.allocUnsafeSlow(COLLECT_BYTES)
  let used = MAGIC.copy(buffer)
  /** Where the open 'S' record has its length, or -1. */
  let open = -1
  let files = 0

  function closeRaw(): void {
    if (open >= 0) buffer.writeUInt32LE(used - open - 4, open)
    open = -1
  }
  function flush(): void {
    closeRaw()
    if (used > 0) writeAll(fd, gzipSync(buffer.subarray(0, used), { level: 1 }))
    used = 0
  }
  return {
    raw(bytes) {
      for (let at = 0; at < bytes.length; ) {
        if (used + 6 > buffer.length) flush()
        if (open < 0) {
          buffer[used] = RAW
          open = used + 1
          used += 5
        }
        const count = Math.min(bytes.length - at, buffer.length - used)
        bytes.copy(buffer, used, at, at + count)
        used += count
        at += count
      }
    },
    file(name, size) {
      closeRaw()
      if (used + 13 + name.length > buffer.length) flush()
      buffer[used] = FILE
      buffer.writeBigUInt64LE(BigInt(size), used + 1)
      buffer.writeUInt32LE(name.length, used + 9)
      buffer.write(name, used + 13, 'latin1')
      used += 13 + name.length
      files += 1
      return files - 1
    },
    finish(entries) {
      closeRaw()
      if (used + 5 > buffer.length) flush()
      buffer[used] = END
      buffer.writeUInt32LE(entries, used + 1)
      used += 5
      flush()
      this.close()
    },
    close() {
      if (fd >= 0) closeSync(fd)
      fd = -1
    },
  }
}

function writeAll(fd: number, bytes: Buffer): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
}

/** Calls `each` for all records in order; raw bytes are valid during the call. Damage fails with ISB_IMAGE_DAMAGED. */
export function readHeaders(path: string, control: JobControl, each: (record: HeadersRecord) => void): void {
  const fd = openSync(path, 'r')
  const limits = { bytes: Number.MAX_SAFE_INTEGER, ratio: Number.MAX_SAFE_INTEGER, ratioFrom: 0 }
  try {
    const source = decompress(descriptorSource(fd, undefined, control), limits, control)
    try {
      decodeRecords(source, each)
    } catch (error) {
      if (error instanceof BuilderError && error.code === 'ISB_ARCHIVE_INVALID') throw damaged(error)
      throw error
    } finally {
      source.close()
    }
  } finally {
    closeSync(fd)
  }
}

function decodeRecords(source: ByteSource, each: (record: HeadersRecord) => void): void {
  const buffer = Buffer.allocUnsafeSlow(COLLECT_BYTES)
  /** False at the end of the source, when nothing at all is left. */
  function fill(length: number): boolean {
    for (let at = 0; at < length; ) {
      const count = source.read(buffer, at, length - at)
      if (count === 0) {
        if (at === 0) return false
        throw damaged()
      }
      at += count
    }
    return true
  }
  function need(length: number): void {
    if (length > buffer.length || (length > 0 && !fill(length))) throw damaged()
  }
  need(MAGIC.length)
  if (!buffer.subarray(0, MAGIC.length).equals(MAGIC)) throw damaged()
  while (fill(1)) {
    if (buffer[0] === RAW) {
      need(4)
      const length = buffer.readUInt32LE(0)
      need(length)
      each({ kind: 'raw', bytes: buffer.subarray(0, length) })
    } else if (buffer[0] === FILE) {
      need(12)
      const size = Number(buffer.readBigUInt64LE(0))
      const length = buffer.readUInt32LE(8)
      need(length)
      each({ kind: 'file', path: buffer.toString('latin1', 0, length), size })
    } else if (buffer[0] === END) {
      need(4)
      each({ kind: 'end', entries: buffer.readUInt32LE(0) })
      if (fill(1)) throw damaged()
      return
    } else throw damaged()
  }
  throw damaged()
}

/**
 * Puts contents in place of some 'F' records, for files that later entries of the same tar replaced.
 * `contents` maps the record's number to a file that holds its bytes.
 */
export function inlineFiles(
  path: string,
  contents: ReadonlyMap<number, string>,
  control: JobControl,
  readInto: (file: string, size: number, raw: (bytes: Buffer) => void) => void,
): void {
  const writer = createHeadersWriter(`${path}.new`)
  try {
    let number = 0
    let entries = 0
    readHeaders(path, control, (record) => {
      if (record.kind === 'raw') {
        writer.raw(record.bytes)
        return
      }
      if (record.kind === 'end') {
        entries = record.entries
        return
      }
      const content = contents.get(number)
      number += 1
      if (content === undefined) writer.file(record.path, record.size)
      else readInto(content, record.size, (bytes) => writer.raw(bytes))
    })
    writer.finish(entries)
  } finally {
    writer.close()
  }
  renameSync(`${path}.new`, path)
}

function damaged(cause?: unknown): BuilderError {
  return new BuilderError('ISB_IMAGE_DAMAGED', 'the kept tar headers of a layer are damaged', { cause })
}
