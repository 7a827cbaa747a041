import { type FileHandle, open, unlink } from 'node:fs/promises'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { BLOCK } from '../layer/tar/entry.js'
import { decodeHeader } from '../layer/tar/header.js'
import { pipeChunks } from '../system/pipe-chunks.js'
import type { ArchiveInput, ArchiveOptions, ArchiveServices } from './archive-services.js'
import { outputError, readAt, statDescriptor, throwIfAborted } from './descriptor-io.js'

/** A file that can be read at any offset. */
export interface ArchiveFile extends AsyncDisposable {
  readonly fd: number
  readonly size: number
  readonly path: string
}

/** A file without a name on the store's file system; its space is free again when it is closed. */
export interface Spool extends AsyncDisposable {
  readonly handle: FileHandle
}

export async function createSpool(
  services: Pick<ArchiveServices, 'layers'>,
  options: Pick<ArchiveOptions, 'lease'>,
): Promise<Spool> {
  const staging = await services.layers.stage(options.lease)
  try {
    const path = `${staging.root}/spool`
    const handle = await open(path, 'wx+', 0o600)
    await unlink(path)
    return { handle, [Symbol.asyncDispose]: () => handle.close() }
  } catch (error) {
    throw outputError(error)
  } finally {
    await services.layers.abandon(staging)
  }
}

/**
 * Makes an archive seekable and plain: a regular file with a plain tar is used as it is, anything else goes
 * into a spool first. Fails with ISB_LIMIT_EXCEEDED, ISB_ARCHIVE_INVALID (empty or damaged), ISB_NO_SPACE.
 */
export async function openArchive(
  input: ArchiveInput,
  services: ArchiveServices,
  options: Pick<ArchiveOptions, 'lease' | 'signal'>,
): Promise<ArchiveFile> {
  const stored = await openStored(input, services.limits.archive, { services, options })
  try {
    if (await isPlainTar(stored)) return stored
    const unpacked = await fill(input.path, { services, options }, async (spool) => {
      const range = { offset: 0, length: stored.size }
      const params = { fd: stored.fd, range, target: spool.fd, limit: services.limits.archive }
      return (await services.workers.run('unpack', params, options.signal)).size
    })
    await stored[Symbol.asyncDispose]()
    return unpacked
  } catch (error) {
    await stored[Symbol.asyncDispose]()
    throw error
  }
}

/** The file as given, at most `limit` bytes; what comes from a pipe, socket or stream is spooled. */
export async function openStored(
  input: ArchiveInput,
  limit: number,
  context: {
    readonly services: Pick<ArchiveServices, 'layers'>
    readonly options: Pick<ArchiveOptions, 'lease' | 'signal'>
  },
): Promise<ArchiveFile> {
  const { path } = input
  const { signal } = context.options
  if ('stream' in input) return spoolStream(input.stream, { path, limit }, context)
  const stat = await statDescriptor(input.fd)
  if (stat.isFIFO() || stat.isSocket()) {
    return spoolStream(pipeChunks(input.fd, signal), { path, limit }, context)
  }
  if (!stat.isFile()) throw new BuilderError('ISB_ARCHIVE_INVALID', `${path} should be a regular file`)
  checkSize(path, stat.size, limit)
  return { fd: input.fd, size: stat.size, path, [Symbol.asyncDispose]: async () => {} }
}

/** The limit texts are those of the original. */
export function checkSize(path: string, size: number, limit: number): void {
  if (size === 0) throw new BuilderError('ISB_ARCHIVE_INVALID', `file ${path} is empty`)
  if (size > limit) {
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `file ${path} size is: ${size}, exceeds limit ${limit}`)
  }
}

/** Compressed data never has the checksum of a tar header. */
async function isPlainTar(file: ArchiveFile): Promise<boolean> {
  const block = await readAt(file.fd, 0, BLOCK)
  if (block.length < BLOCK) return false
  try {
    decodeHeader(block, 0)
    return true
  } catch (error) {
    if (isBuilderError(error, 'ISB_ARCHIVE_INVALID')) return false
    throw error
  }
}

function spoolStream(
  chunks: AsyncIterable<Uint8Array>,
  { path, limit }: { readonly path: string; readonly limit: number },
  context: {
    readonly services: Pick<ArchiveServices, 'layers'>
    readonly options: Pick<ArchiveOptions, 'lease' | 'signal'>
  },
): Promise<ArchiveFile> {
  return fill(path, context, async (spool) => {
    let size = 0
    for await (const chunk of chunks) {
      throwIfAborted(context.options.signal)
      size += chunk.length
      if (size > limit) throw new BuilderError('ISB_LIMIT_EXCEEDED', `file ${path} exceeds limit ${limit}`)
      await writeChunk(spool, chunk)
    }
    return size
  })
}

async function fill(
  path: string,
  context: {
    readonly services: Pick<ArchiveServices, 'layers'>
    readonly options: Pick<ArchiveOptions, 'lease'>
  },
  write: (spool: FileHandle) => Promise<number>,
): Promise<ArchiveFile> {
  const spool = await createSpool(context.services, context.options)
  try {
    const size = await write(spool.handle)
    if (size === 0) throw new BuilderError('ISB_ARCHIVE_INVALID', `file ${path} is empty`)
    return { fd: spool.handle.fd, size, path, [Symbol.asyncDispose]: spool[Symbol.asyncDispose] }
  } catch (error) {
    await spool[Symbol.asyncDispose]()
    throw outputError(error)
  }
}

async function writeChunk(spool: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let done = 0; done < chunk.length; ) {
    done += (await spool.write(chunk, done, chunk.length - done)).bytesWritten
  }
}
