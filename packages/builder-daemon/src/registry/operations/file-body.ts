import { open } from 'node:fs/promises'
import type { RequestBody } from '../http/exchange.js'

const pieceSize = 1 << 18
/** One is read, one is sent, and one may still be on its way. */
const pieceCount = 3

export interface FileBody extends RequestBody {
  /** Resolves when the file is closed, however often it was opened. */
  closed(): Promise<void>
}

/**
 * Bytes `start` to before `end` of a file; the next piece is read while the last one is sent. Memory is used again: fresh
 * buffers for every piece would pile up until the collector comes.
 */
export function fileBody(
  path: string,
  start: number,
  end: number,
  onTaken: (position: number) => void,
): FileBody {
  const reading = new Set<Promise<void>>()
  async function* read(): AsyncGenerator<Uint8Array, void, undefined> {
    let ended = (): void => undefined
    const done = new Promise<void>((resolve) => {
      ended = resolve
    })
    reading.add(done)
    try {
      yield* pieces(path, start, end, onTaken)
    } finally {
      reading.delete(done)
      ended()
    }
  }
  return {
    size: end - start,
    open: read,
    async closed() {
      await Promise.all(reading)
    },
  }
}

async function* pieces(
  path: string,
  start: number,
  end: number,
  onTaken: (position: number) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  const file = await open(path, 'r')
  const ring: Buffer[] = []
  let turn = 0
  let reading: Promise<Uint8Array> | undefined
  const read = (position: number): Promise<Uint8Array> => {
    const length = Math.min(pieceSize, end - position)
    const buffer = ring[turn] ?? Buffer.allocUnsafeSlow(length)
    ring[turn] = buffer
    turn = (turn + 1) % pieceCount
    const promise = file
      .read(buffer, 0, length, position)
      .then(({ bytesRead }) => buffer.subarray(0, bytesRead))
    // Whoever stops early never looks at the piece that was read ahead.
    promise.catch(() => undefined)
    return promise
  }
  try {
    if (start < end) reading = read(start)
    for (let position = start; reading !== undefined; ) {
      const piece = await reading
      if (piece.length === 0) throw new Error(`${path} became shorter while it was sent`)
      position += piece.length
      reading = position < end ? read(position) : undefined
      yield piece
      onTaken(position)
    }
  } finally {
    await reading?.catch(() => undefined)
    await file.close()
  }
}
