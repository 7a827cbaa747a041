import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type Digest, digestFromHex } from '@isula-build/shared/oci/digest.js'
import { hasErrno } from '../../system/system-error.js'

/** A file that a blob is written to, hashed on its way: one buffer fills while the other one is written. */
export interface BlobFile extends AsyncDisposable {
  /** Bytes of the blob so far. */
  readonly offset: number
  /** Takes the next bytes of the blob. */
  append(chunk: Uint8Array): Promise<void>
  /** Resolves when everything appended is in the file. */
  flush(): Promise<void>
  /** Starts over with an empty file. */
  clear(): Promise<void>
  /** Of all bytes so far. */
  digest(): Digest
}

const bufferSize = 1 << 19

/**
 * Opens the file, makes it if there is none, and hashes what it holds; content longer than `size` is removed. Fails
 * with ISB_NO_SPACE when the disk is full.
 */
export async function openBlobFile(path: string, size: number, signal: AbortSignal): Promise<BlobFile> {
  const file = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600)
  try {
    const hash = createHash('sha256')
    const { size: present } = await file.stat()
    if (present > size) await file.truncate(0)
    else await hashFile(file, present, signal, (bytes) => hash.update(bytes))
    return blobFile(file, size, hash, present > size ? 0 : present)
  } catch (error) {
    await file.close()
    throw error
  }
}

function blobFile(
  file: FileHandle,
  size: number,
  hashed: ReturnType<typeof createHash>,
  present: number,
): BlobFile {
  const capacity = Math.max(1, Math.min(bufferSize, size))
  let hash = hashed
  let offset = present
  let filling: Buffer | undefined
  let spare: Buffer | undefined
  let filled = 0
  let written = present
  let writing: Promise<void> | undefined
  let failure: unknown

  /** One write is under way at most; its failure shows at the next call. */
  async function settled(): Promise<void> {
    await writing
    if (failure !== undefined) throw failure
  }

  async function writeOut(): Promise<void> {
    await settled()
    if (filling === undefined || filled === 0) return
    const full = filling
    const position = written
    const length = filled
    written += length
    filling = spare
    spare = undefined
    filled = 0
    writing = writeAll(file, full.subarray(0, length), position).then(
      () => {
        spare = full
      },
      (error: unknown) => {
        failure = noSpace(error) ?? error
      },
    )
  }

  return {
    get offset() {
      return offset
    },
    async append(chunk) {
      hash.update(chunk)
      offset += chunk.length
      for (let from = 0; from < chunk.length; ) {
        filling ??= Buffer.allocUnsafeSlow(capacity)
        const part = chunk.subarray(from, from + filling.length - filled)
        filling.set(part, filled)
        filled += part.length
        from += part.length
        if (filled === filling.length) await writeOut()
      }
    },
    async flush() {
      await writeOut()
      await settled()
    },
    async clear() {
      await writing
      failure = undefined
      filled = 0
      written = 0
      offset = 0
      hash = createHash('sha256')
      await file.truncate(0)
    },
    digest: () => digestFromHex(hash.copy().digest('hex')),
    async [Symbol.asyncDispose]() {
      await writing
      await file.close()
    },
  }
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done)
    done += bytesWritten
  }
}

/** Digest of a whole file; undefined when it has another size. */
export async function digestOfFile(
  path: string,
  size: number,
  signal: AbortSignal,
): Promise<Digest | undefined> {
  const file = await open(path, 'r')
  try {
    if ((await file.stat()).size !== size) return undefined
    const hash = createHash('sha256')
    await hashFile(file, size, signal, (bytes) => hash.update(bytes))
    return digestFromHex(hash.digest('hex'))
  } finally {
    await file.close()
  }
}

/** The next piece is read while the last one is hashed. */
async function hashFile(
  file: FileHandle,
  size: number,
  signal: AbortSignal,
  update: (bytes: Uint8Array) => void,
): Promise<void> {
  if (size === 0) return
  let buffers = [Buffer.allocUnsafeSlow(bufferSize), Buffer.allocUnsafeSlow(bufferSize)] as const
  let next = file.read(buffers[0], 0, bufferSize, 0)
  for (let offset = 0; offset < size; ) {
    const { bytesRead } = await next
    if (bytesRead === 0) throw new Error('a file became shorter while it was hashed')
    if (signal.aborted) throw new BuilderError('ISB_CANCELLED', 'cancelled')
    const [read, other] = buffers
    const length = Math.min(bytesRead, size - offset)
    offset += length
    if (offset < size) next = file.read(other, 0, bufferSize, offset)
    update(read.subarray(0, length))
    buffers = [other, read]
  }
}

function noSpace(cause: unknown): BuilderError | undefined {
  if (!hasErrno(cause, 'ENOSPC', 'EDQUOT')) return undefined
  return new BuilderError('ISB_NO_SPACE', 'no space left in the data root', { cause })
}
