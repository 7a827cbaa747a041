import { createGunzip } from 'node:zlib'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ByteSource } from '../tar/reader.js'
import type { Decompressor } from './decompressor.js'

/**
 * The engine below node:zlib's streams: the public interface has no synchronous streaming, and
 * decompressing in one piece would need the whole layer in memory.
 */
interface Engine {
  writeSync(
    flush: number,
    input: Buffer,
    inputOffset: number,
    inputLength: number,
    output: Buffer,
    outputOffset: number,
    outputLength: number,
  ): void
  onerror: (message: string) => void
}

interface EngineOwner {
  readonly _handle: Engine
  /** After a write: bytes of output space and of input that are left. */
  readonly _writeState: Uint32Array
  destroy(): void
}

const Z_NO_FLUSH = 0
const Z_FINISH = 4
const INPUT_BYTES = 1 << 18

/**
 * RFC 1952 with any number of members. Anything after the last member is damage, zeros too, as for
 * Go's compress/gzip.
 */
export function gunzip(source: ByteSource): Decompressor {
  const owner = createGunzip() as unknown as EngineOwner
  const engine = owner._handle
  const state = owner._writeState
  if (typeof engine?.writeSync !== 'function' || !(state instanceof Uint32Array)) {
    throw new Error('this Node.js has no synchronous zlib engine')
  }
  let failure: string | undefined
  engine.onerror = (message) => {
    failure = message
  }
  const input = Buffer.allocUnsafeSlow(INPUT_BYTES)
  let at = 0
  let available = 0
  let exhausted = false
  return {
    read(target, offset, length) {
      for (;;) {
        if (available === 0 && !exhausted) {
          at = 0
          available = source.read(input, 0, input.length)
          exhausted = available === 0
        }
        engine.writeSync(exhausted ? Z_FINISH : Z_NO_FLUSH, input, at, available, target, offset, length)
        if (failure !== undefined) throw damaged(failure)
        const spaceLeft = state[0] ?? 0
        const inputLeft = state[1] ?? 0
        at += available - inputLeft
        available = inputLeft
        if (spaceLeft > 0 && inputLeft > 0) throw damaged('there is more data after its end')
        const produced = length - spaceLeft
        if (produced > 0 || exhausted) return produced
      }
    },
    close() {
      owner.destroy()
    },
  }
}

function damaged(reason: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', `damaged gzip data: ${reason}`)
}
