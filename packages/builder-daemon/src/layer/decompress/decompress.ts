import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { JobControl } from '../job-control.js'
import type { ByteSource } from '../tar/reader.js'
import type { Decompressor } from './decompressor.js'
import { gunzip } from './gzip.js'
import { decompressWith } from './program.js'
import { unzstd } from './zstd.js'

export type Compression = 'none' | 'gzip' | 'zstd' | 'xz' | 'bzip2'

export interface Decompressed extends Decompressor {
  readonly compression: Compression
}

export interface DecompressLimits {
  /** Bytes that may come out. */
  readonly bytes: number
  /** Output per input, once more than `ratioFrom` bytes came out. */
  readonly ratio: number
  readonly ratioFrom: number
}

/** Zeros compress 1030 times with gzip; file systems of real images stay far below 100. */
export const defaultRatio = { ratio: 200, ratioFrom: 1 << 30 } as const

const HEAD_BYTES = 16

/** What the first bytes say; every format here is told by its magic numbers, never by a name. */
export function detectCompression(head: Buffer): Compression {
  if (head.length >= 3 && head[0] === 0x1f && head[1] === 0x8b && head[2] === 8) return 'gzip'
  if (head.length >= 4) {
    const magic = head.readUInt32LE(0)
    if (magic === 0xfd2fb528 || (magic & 0xfffffff0) >>> 0 === 0x184d2a50) return 'zstd'
  }
  if (head.toString('latin1', 0, 6) === '\xfd7zXZ\0') return 'xz'
  if (/^BZh[1-9](1AY&SY|\x17rE8P\x90)/.test(head.toString('latin1', 0, 10))) return 'bzip2'
  return 'none'
}

/**
 * The uncompressed bytes of `source`. Fails with ISB_ARCHIVE_INVALID for damaged data,
 * ISB_LIMIT_EXCEEDED past a limit, ISB_UNSUPPORTED when the machine cannot read the format.
 */
export function decompress(source: ByteSource, limits: DecompressLimits, control: JobControl): Decompressed {
  let consumed = 0
  const counted: ByteSource = {
    read(target, offset, length) {
      const count = source.read(target, offset, length)
      consumed += count
      return count
    },
  }
  const head = Buffer.alloc(HEAD_BYTES)
  let headLength = 0
  while (headLength < HEAD_BYTES) {
    const count = counted.read(head, headLength, HEAD_BYTES - headLength)
    if (count === 0) break
    headLength += count
  }
  const seen = head.subarray(0, headLength)
  const compression = detectCompression(seen)
  const engine = open(compression, prepend(seen, counted), control)
  let produced = 0
  return {
    compression,
    read(target, offset, length) {
      const count = engine.read(target, offset, length)
      produced += count
      if (produced > limits.bytes) {
        throw new BuilderError('ISB_LIMIT_EXCEEDED', `the archive unpacks to more than ${limits.bytes} bytes`)
      }
      if (compression !== 'none' && produced > limits.ratioFrom && produced > consumed * limits.ratio) {
        throw new BuilderError(
          'ISB_LIMIT_EXCEEDED',
          `the archive unpacks to more than ${limits.ratio} times its size, as a decompression bomb does`,
        )
      }
      return count
    },
    close: () => engine.close(),
  }
}

function open(compression: Compression, source: ByteSource, control: JobControl): Decompressor {
  switch (compression) {
    case 'none':
      return { read: source.read, close() {} }
    case 'gzip':
      return gunzip(source)
    case 'zstd':
      return unzstd(source) ?? decompressWith('/usr/bin/zstd', ['-dcq', '-M128MiB'], 'zstd', source, control)
    case 'xz':
      return decompressWith('/usr/bin/xz', ['-dcq', '--memlimit-decompress=512MiB'], 'xz', source, control)
    case 'bzip2':
      return decompressWith('/usr/bin/bzip2', ['-dc'], 'bzip2', source, control)
  }
}

function prepend(head: Buffer, source: ByteSource): ByteSource {
  let at = 0
  return {
    read(target, offset, length) {
      if (at === head.length) return source.read(target, offset, length)
      const count = head.copy(target, offset, at, Math.min(head.length, at + length))
      at += count
      return count
    },
  }
}
