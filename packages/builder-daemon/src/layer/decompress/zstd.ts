import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import koffi from 'koffi'
import { addressOf } from '../../system/libc.js'
import type { ByteSource } from '../tar/reader.js'
import type { Decompressor } from './decompressor.js'

interface Library {
  readonly create: () => unknown
  readonly free: (context: unknown) => unknown
  readonly setParameter: (context: unknown, parameter: number, value: number) => number | bigint
  readonly decompress: (context: unknown, output: Buffer, input: Buffer) => number | bigint
  readonly isError: (code: number | bigint) => number
  readonly errorCode: (code: number | bigint) => number
  readonly errorName: (code: number | bigint) => string
}

let library: Library | null | undefined

/** Looks once per thread for libzstd; null where the machine has none. */
function load(): Library | null {
  if (library !== undefined) return library
  try {
    const found = koffi.load('libzstd.so.1')
    library = {
      create: found.func('void *ZSTD_createDCtx()'),
      free: found.func('size_t ZSTD_freeDCtx(void *)'),
      setParameter: found.func('size_t ZSTD_DCtx_setParameter(void *, int, int)'),
      decompress: found.func('size_t ZSTD_decompressStream(void *, void *, void *)'),
      isError: found.func('uint ZSTD_isError(size_t)'),
      errorCode: found.func('int ZSTD_getErrorCode(size_t)'),
      errorName: found.func('const char *ZSTD_getErrorName(size_t)'),
    }
  } catch {
    // A machine without the library is expected: the caller falls back to the program.
    library = null
  }
  return library
}

const WINDOW_LOG_MAX = 100
/** 128 MiB, what `zstd -d` allows without being asked; more is refused. */
const MAX_WINDOW_LOG = 27
/** ZSTD_error_frameParameter_windowTooLarge. */
const WINDOW_TOO_LARGE = 16
const INPUT_BYTES = 1 << 18

/** RFC 8878 with any number of frames, skippable ones too; undefined where libzstd is missing. */
export function unzstd(source: ByteSource): Decompressor | undefined {
  const zstd = load()
  if (zstd === null) return undefined
  let context: unknown = zstd.create()
  if (context === null) throw new Error('no memory for a zstd context')
  const check = (code: number | bigint): number => {
    if (zstd.isError(code) === 0) return Number(code)
    if (zstd.errorCode(code) === WINDOW_TOO_LARGE) {
      throw new BuilderError(
        'ISB_LIMIT_EXCEEDED',
        'the zstd data needs more than 128 MiB of memory to unpack',
      )
    }
    throw damaged(zstd.errorName(code))
  }
  check(zstd.setParameter(context, WINDOW_LOG_MAX, MAX_WINDOW_LOG))
  const input = Buffer.allocUnsafeSlow(INPUT_BYTES)
  // ZSTD_inBuffer and ZSTD_outBuffer: address, size, position.
  const inputView = Buffer.alloc(24)
  const outputView = Buffer.alloc(24)
  inputView.writeBigUInt64LE(addressOf(input), 0)
  let inFrame = false
  let exhausted = false
  let full = false
  return {
    read(target, offset, length) {
      outputView.writeBigUInt64LE(addressOf(target) + BigInt(offset), 0)
      outputView.writeBigUInt64LE(BigInt(length), 8)
      outputView.writeBigUInt64LE(0n, 16)
      for (;;) {
        const drained = inputView.readBigUInt64LE(16) === inputView.readBigUInt64LE(8)
        // After a full read the rest of what the frame holds comes out without input.
        if (drained && !exhausted && !(full && inFrame)) {
          const count = source.read(input, 0, input.length)
          exhausted = count === 0
          inputView.writeBigUInt64LE(BigInt(count), 8)
          inputView.writeBigUInt64LE(0n, 16)
        }
        if (exhausted && !inFrame) return 0
        const before = inputView.readBigUInt64LE(16)
        inFrame = check(zstd.decompress(context, outputView, inputView)) !== 0
        const produced = Number(outputView.readBigUInt64LE(16))
        full = produced === length
        if (produced > 0) return produced
        if (exhausted && inputView.readBigUInt64LE(16) === before) throw damaged('it ends too early')
      }
    },
    close() {
      if (context !== null) zstd.free(context)
      context = null
    },
  }
}

function damaged(reason: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', `damaged zstd data: ${reason}`)
}
