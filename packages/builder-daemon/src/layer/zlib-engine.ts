/**
 * The engine below node:zlib's streams: the public interface has no synchronous streaming, and
 * working in one piece would need the whole layer in memory.
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
  reset(): void
  onerror: (message: string) => void
}

interface EngineOwner {
  readonly _handle: Engine
  /** After a write: bytes of output space and of input that are left. */
  readonly _writeState: Uint32Array
  destroy(): void
}

export interface ZlibRoom {
  readonly buffer: Buffer
  readonly offset: number
  readonly length: number
}

export interface ZlibEngine {
  /** One step; what is left over of input and of room, and what is wrong with the data. */
  step(
    finish: boolean,
    input: ZlibRoom,
    output: ZlibRoom,
  ): { readonly inputLeft: number; readonly roomLeft: number; readonly failure: string | undefined }
  /** Ready for another stream. */
  reset(): void
  close(): void
}

const Z_NO_FLUSH = 0
const Z_FINISH = 4

/** `stream`: what `createGunzip` or `createGzip` gave, used by nobody else. */
export function zlibEngine(stream: unknown): ZlibEngine {
  const owner = stream as EngineOwner
  const engine = owner._handle
  const state = owner._writeState
  if (typeof engine?.writeSync !== 'function' || !(state instanceof Uint32Array)) {
    throw new Error('this Node.js has no synchronous zlib engine')
  }
  let failure: string | undefined
  engine.onerror = (message) => {
    failure = message
  }
  return {
    step(finish, input, output) {
      engine.writeSync(
        finish ? Z_FINISH : Z_NO_FLUSH,
        input.buffer,
        input.offset,
        input.length,
        output.buffer,
        output.offset,
        output.length,
      )
      return { roomLeft: state[0] ?? 0, inputLeft: state[1] ?? 0, failure }
    },
    reset: () => engine.reset(),
    close: () => owner.destroy(),
  }
}
