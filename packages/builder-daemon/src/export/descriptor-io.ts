import { fstat, read, write } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'

const readAsync = promisify(read)
const writeAsync = promisify(write)
export const statDescriptor = promisify(fstat)

const chunkSize = 1024 * 1024
const retryDelay = 5

export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new BuilderError('ISB_CANCELLED', 'the operation was cancelled')
}

/** Reads at `offset` until `length` bytes or the end of the file. */
export async function readAt(fd: number, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length)
  let done = 0
  while (done < length) {
    const { bytesRead } = await readAsync(fd, buffer, done, length - done, offset + done)
    if (bytesRead === 0) break
    done += bytesRead
  }
  return buffer.subarray(0, done)
}

/** Writes all of `bytes` at the descriptor's own offset, also to pipes that are full for a moment. */
export async function writeAll(fd: number, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
  let done = 0
  while (done < bytes.length) {
    throwIfAborted(signal)
    try {
      const { bytesWritten } = await writeAsync(fd, bytes, done, bytes.length - done, null)
      done += bytesWritten
    } catch (error) {
      if (errorCode(error) !== 'EAGAIN') throw outputError(error)
      await sleep(retryDelay)
    }
  }
}

/** Writes all of `bytes` to a regular file from `offset` on. */
export async function writeAllAt(
  fd: number,
  bytes: Uint8Array,
  offset: number,
  signal: AbortSignal,
): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    throwIfAborted(signal)
    try {
      done += (await writeAsync(fd, bytes, done, bytes.length - done, offset + done)).bytesWritten
    } catch (error) {
      throw outputError(error)
    }
  }
}

/** The content of a regular file from its start, whatever the descriptor's offset is. */
export async function* fileChunks(fd: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  for (let offset = 0; ; ) {
    throwIfAborted(signal)
    const chunk = await readAt(fd, offset, chunkSize)
    if (chunk.length === 0) return
    yield chunk
    offset += chunk.length
  }
}

/** What a failed write means for the user. */
export function outputError(error: unknown): unknown {
  if (isBuilderError(error)) return error
  const code = errorCode(error)
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new BuilderError('ISB_NO_SPACE', 'no space left for the archive', { cause: error })
  }
  if (code === 'EPIPE' || code === 'ECONNRESET') {
    return new BuilderError('ISB_CANCELLED', 'the reader of the archive went away', { cause: error })
  }
  return error
}

export function errorCode(error: unknown): string | undefined {
  return error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined
}
