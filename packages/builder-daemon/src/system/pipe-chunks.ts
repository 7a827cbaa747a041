import { close, constants, fstat, open, read } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

const readAsync = promisify(read)
const openAsync = promisify(open)
const closeAsync = promisify(close)
const statAsync = promisify(fstat)

/** What a pipe holds by default. */
const pipeSize = 64 * 1024
/** Longest wait between two looks at a silent pipe, milliseconds. */
const maxPause = 20

/**
 * What comes out of a pipe or socket until its end. A pipe is opened anew without blocking, so that waiting
 * for its writer holds no thread and can be aborted; the descriptor given keeps its flags.
 */
export async function* pipeChunks(fd: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const own = await reopenPipe(fd)
  try {
    for (let idle = 0; ; ) {
      if (signal.aborted) throw new BuilderError('ISB_CANCELLED', 'the operation was cancelled')
      const chunk = await readAvailable(own ?? fd)
      if (chunk === undefined) {
        await sleep(Math.min(idle++, maxPause))
        continue
      }
      if (chunk.length === 0) return
      idle = 0
      yield chunk
    }
  } finally {
    if (own !== undefined) await closeAsync(own)
  }
}

/**
 * A small file from its start, or what comes out of a pipe; undefined when that is more than `limit` bytes.
 * Waiting for the writer of a pipe can be aborted.
 */
export async function readDescriptor(
  fd: number,
  limit: number,
  signal: AbortSignal,
): Promise<Buffer | undefined> {
  const stat = await statAsync(fd)
  const parts: Uint8Array[] = []
  let size = 0
  for await (const chunk of stat.isFIFO() ? pipeChunks(fd, signal) : fileStart(fd, limit)) {
    parts.push(chunk)
    size += chunk.length
    if (size > limit) return undefined
  }
  return Buffer.concat(parts)
}

async function* fileStart(fd: number, limit: number): AsyncGenerator<Uint8Array> {
  for (let offset = 0; offset <= limit; ) {
    const buffer = Buffer.allocUnsafe(pipeSize)
    const { bytesRead } = await readAsync(fd, buffer, 0, buffer.length, offset)
    if (bytesRead === 0) return
    yield buffer.subarray(0, bytesRead)
    offset += bytesRead
  }
}

/** Undefined when nothing is there yet, empty at the end. */
async function readAvailable(fd: number): Promise<Uint8Array | undefined> {
  const buffer = Buffer.allocUnsafe(pipeSize)
  try {
    const { bytesRead } = await readAsync(fd, buffer, 0, buffer.length, null)
    return buffer.subarray(0, bytesRead)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined
    throw error
  }
}

async function reopenPipe(fd: number): Promise<number | undefined> {
  const stat = await statAsync(fd)
  if (!stat.isFIFO()) return undefined
  return await openAsync(`/proc/self/fd/${fd}`, constants.O_RDONLY | constants.O_NONBLOCK)
}
