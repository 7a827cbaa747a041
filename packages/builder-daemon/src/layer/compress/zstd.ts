import koffi from 'koffi'
import { addressOf } from '../../system/libc.js'
import type { StreamEngine } from './compressor.js'

interface Library {
  readonly create: () => unknown
  readonly free: (context: unknown) => unknown
  readonly setParameter: (context: unknown, parameter: number, value: number) => number | bigint
  readonly compress: (context: unknown, output: Buffer, input: Buffer, end: number) => number | bigint
  readonly isError: (code: number | bigint) => number
  readonly errorName: (code: number | bigint) => string
}

/** Of zstd.h; numbers there are part of the interface. */
const COMPRESSION_LEVEL = 100
const CHECKSUM_FLAG = 201
/** Threads inside the library. What comes out is the same for any number but 0. */
const WORKERS = 400
const threads = 2
/** Windows of higher levels are so big that another job in the making costs too much memory. */
const maxThreadedLevel = 9
const ROOM_BYTES = 1 << 20
const CONTINUE = 0
const END = 2

let engine: StreamEngine | null | undefined

/** Zstandard (RFC 8878) by libzstd; null where the machine has none. Looks once per thread. */
export function zstdEngine(): StreamEngine | null {
  if (engine !== undefined) return engine
  try {
    const found = koffi.load('libzstd.so.1')
    const version = found.func('const char *ZSTD_versionString()')() as string
    engine = engineOf(version, {
      create: found.func('void *ZSTD_createCCtx()'),
      free: found.func('size_t ZSTD_freeCCtx(void *)'),
      setParameter: found.func('size_t ZSTD_CCtx_setParameter(void *, int, int)'),
      compress: found.func('size_t ZSTD_compressStream2(void *, void *, void *, int)'),
      isError: found.func('uint ZSTD_isError(size_t)'),
      errorName: found.func('const char *ZSTD_getErrorName(size_t)'),
    })
  } catch {
    // A machine without the library is expected: the caller says what to do.
    engine = null
  }
  return engine
}

function engineOf(version: string, zstd: Library): StreamEngine {
  const check = (code: number | bigint): number => {
    if (zstd.isError(code) === 0) return Number(code)
    throw new Error(`zstd cannot compress: ${zstd.errorName(code)}`)
  }
  return {
    kind: 'stream',
    name: `zstd-${version}${isThreaded(zstd) ? '-mt' : ''}`,
    open(level, output) {
      let context: unknown = zstd.create()
      if (context === null) throw new Error('no memory for a zstd context')
      const close = (): void => {
        if (context !== null) zstd.free(context)
        context = null
      }
      const room = Buffer.allocUnsafeSlow(ROOM_BYTES)
      // ZSTD_inBuffer and ZSTD_outBuffer: address, size, position.
      const input = Buffer.alloc(24)
      const produced = Buffer.alloc(24)
      produced.writeBigUInt64LE(addressOf(room), 0)
      produced.writeBigUInt64LE(BigInt(room.length), 8)
      try {
        check(zstd.setParameter(context, COMPRESSION_LEVEL, level))
        check(zstd.setParameter(context, CHECKSUM_FLAG, 1))
        if (level <= maxThreadedLevel && isThreaded(zstd)) check(zstd.setParameter(context, WORKERS, threads))
      } catch (error) {
        close()
        throw error
      }
      return {
        write(block, last) {
          input.writeBigUInt64LE(addressOf(block), 0)
          input.writeBigUInt64LE(BigInt(block.length), 8)
          input.writeBigUInt64LE(0n, 16)
          for (let done = false; !done; ) {
            produced.writeBigUInt64LE(0n, 16)
            const rest = check(zstd.compress(context, produced, input, last ? END : CONTINUE))
            const count = Number(produced.readBigUInt64LE(16))
            if (count > 0) output(room.subarray(0, count))
            done = last ? rest === 0 : Number(input.readBigUInt64LE(16)) === block.length
          }
        },
        close,
      }
    },
  }
}

/** The library may have been built without threads. */
function isThreaded(zstd: Library): boolean {
  const context = zstd.create()
  if (context === null) return false
  const code = zstd.setParameter(context, WORKERS, threads)
  zstd.free(context)
  return zstd.isError(code) === 0
}
