import koffi from 'koffi'
import { addressOf } from '../../system/libc.js'
import type { BlockEngine } from './compressor.js'

interface Library {
  readonly init: (stream: Buffer) => void
  readonly deflate: (stream: Buffer) => number
}

/** `struct isal_zstream` (igzip_lib.h of ISA-L 2.x, soname 2): the part in front of its internal state. */
const field = {
  nextIn: 0,
  availableIn: 8,
  nextOut: 16,
  availableOut: 24,
  level: 40,
  levelBufferSize: 44,
  levelBuffer: 48,
  endOfStream: 56,
  gzipFlag: 60,
} as const
/** The internal state has 64 KiB of window, 16 KiB of hash table and some hundred bytes more. */
const STREAM_BYTES = 1 << 18
/** Hash tables of up to 132 KiB and 64 Ki tokens of four bytes. Another size gives other bytes. */
const LEVEL_BUFFER_BYTES = 400 << 10
const IGZIP_GZIP = 1

/** Levels that ISA-L has besides its level 0, which looks for no matches twice. */
export const isalLevels = { from: 1, to: 3 } as const

let engine: BlockEngine | null | undefined

/** Gzip by ISA-L, several times faster than zlib; null where the machine has no libisal. Looks once per thread. */
export function isalEngine(): BlockEngine | null {
  if (engine !== undefined) return engine
  try {
    const found = koffi.load('libisal.so.2')
    engine = engineOf({
      init: found.func('void isal_deflate_init(void *)'),
      deflate: found.func('int isal_deflate(void *)'),
    })
  } catch {
    // A machine without the library is expected: zlib does it then.
    engine = null
  }
  return engine
}

function engineOf({ init, deflate }: Library): BlockEngine {
  let stream: Buffer | undefined
  let levelBuffer: Buffer | undefined
  return {
    kind: 'blocks',
    name: 'isal-2',
    open(level) {
      // Every block starts anew, so one of each is enough for a thread.
      stream ??= Buffer.allocUnsafeSlow(STREAM_BYTES).fill(0)
      levelBuffer ??= Buffer.allocUnsafeSlow(LEVEL_BUFFER_BYTES).fill(0)
      const memory = { stream, levelBuffer }
      return {
        compress(input, output) {
          const { stream, levelBuffer } = memory
          init(stream)
          stream.writeUInt32LE(level, field.level)
          stream.writeUInt32LE(levelBuffer.length, field.levelBufferSize)
          stream.writeBigUInt64LE(addressOf(levelBuffer), field.levelBuffer)
          stream.writeUInt16LE(IGZIP_GZIP, field.gzipFlag)
          stream.writeUInt16LE(1, field.endOfStream)
          stream.writeBigUInt64LE(addressOf(input), field.nextIn)
          stream.writeUInt32LE(input.length, field.availableIn)
          stream.writeBigUInt64LE(addressOf(output), field.nextOut)
          stream.writeUInt32LE(output.length, field.availableOut)
          const status = deflate(stream)
          const roomLeft = stream.readUInt32LE(field.availableOut)
          if (status !== 0 || roomLeft === 0 || stream.readUInt32LE(field.availableIn) !== 0) {
            throw new Error(
              `ISA-L cannot compress at level ${level}: status ${status}, ${roomLeft} bytes left`,
            )
          }
          return output.length - roomLeft
        },
        close() {},
      }
    },
  }
}
