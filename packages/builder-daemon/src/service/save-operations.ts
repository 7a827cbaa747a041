import { closeSync, createReadStream, openSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { localName } from '@isula-build/shared/oci/local-name.js'
import { requireLocalImage } from '../core/images/resolve.js'
import { saveArchive } from '../export/save.js'
import { decodeRenames } from '../export/separated-manifest.js'
import { type NamedImage, saveSeparated } from '../export/separated-save.js'
import type { Caller, CallerFiles } from '../ports/caller.js'
import type { OutputTarget, SaveEvent, SaveRequest } from '../rpc/handlers.js'
import { readDescriptor } from '../system/pipe-chunks.js'
import {
  type ArchiveCall,
  type ArchiveDeps,
  callerDirectory,
  imagesToSave,
  type NamedRecord,
  type NamedRecords,
  withArchiveCall,
} from './archive-operations.js'
import { eventStream } from './event-stream.js'

type SeparatedTarget = Extract<SaveRequest['destination'], { kind: 'separated' }>

/** Bytes of a chunk streamed to the client. */
const chunkSize = 1024 * 1024
const renameFileLimit = 10 * 1024 * 1024

export function saveImages(
  deps: ArchiveDeps,
  request: SaveRequest,
  caller: Caller,
  signal: AbortSignal,
): AsyncIterable<SaveEvent> {
  return eventStream<SaveEvent>(signal, async (emit, inner) => {
    const rest = { signal: inner, onLog: (line: string) => void emit({ kind: 'log', line }) }
    await withArchiveCall(deps, caller, 'save', rest, async (call) => {
      const { destination } = request
      if (destination.kind === 'separated') {
        await saveParts(deps, call, { images: request.images, destination, caller })
        return
      }
      const { format } = request
      const archive: ArchiveToWrite = {
        ...(await imagesToSave(call, request.images, format)),
        ...{ format, destination },
      }
      await writeArchive(deps, call, archive, caller, (chunk) => emit({ kind: 'data', chunk }))
    })
  })
}

export interface ArchiveToWrite {
  readonly images: readonly NamedRecord[]
  /** Images of several platforms under common names; for OCI only. */
  readonly indexes?: readonly NamedRecords[]
  readonly format: 'docker' | 'oci'
  readonly destination: OutputTarget
}

/** Writes the archive to a new file of the caller's, or hands its bytes to `onData`. */
export async function writeArchive(
  deps: ArchiveDeps,
  call: ArchiveCall,
  archive: ArchiveToWrite,
  caller: Caller,
  onData: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  const { images, indexes, format, destination } = archive
  const write = (fd: number): Promise<void> =>
    saveArchive({ images, indexes, format, fd }, call.services, call.options)
  if (destination.kind === 'stream') await streamOutput(call, write, onData)
  else await writeNewFile(deps.files, caller, destination, call.options.signal, write)
}

/** Has `write` fill a new file of the caller's; what is not complete is removed. */
export async function writeNewFile(
  files: CallerFiles,
  caller: Caller,
  target: Extract<OutputTarget, { kind: 'file' }>,
  signal: AbortSignal,
  write: (fd: number) => Promise<unknown>,
): Promise<void> {
  const file = await createOutput(files, caller, target, signal)
  let complete = false
  try {
    await write(file.fd)
    complete = true
  } finally {
    closeSync(file.fd)
    if (!complete) await files.removeCreated(caller, target.path, file)
  }
}

async function createOutput(
  files: CallerFiles,
  caller: Caller,
  { path, parent }: Extract<OutputTarget, { kind: 'file' }>,
  signal: AbortSignal,
) {
  try {
    return await files.create(caller, path, 0o644, { signal, parent })
  } catch (error) {
    if (error instanceof BuilderError && error.code === 'ISB_ALREADY_EXISTS') {
      throw new BuilderError(
        'ISB_ALREADY_EXISTS',
        `output file already exist: "${path}", try to remove existing tarball or rename output file`,
      )
    }
    throw error
  }
}

/**
 * A reader may be slow or not read at all; no worker waits for it, so the archive is made whole in the
 * store's staging area first.
 */
export async function streamOutput(
  { services, options, lease }: ArchiveCall,
  write: (fd: number) => Promise<unknown>,
  onData: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  const staging = await services.layers.stage(lease)
  try {
    const path = join(staging.root, 'archive.tar')
    const fd = openSync(path, 'wx', 0o600)
    try {
      await write(fd)
    } finally {
      closeSync(fd)
    }
    const { signal } = options
    for await (const chunk of createReadStream(path, { highWaterMark: chunkSize, signal })) {
      await onData(chunk as Buffer)
    }
  } finally {
    await services.layers.abandon(staging)
  }
}

async function saveParts(
  deps: ArchiveDeps,
  call: ArchiveCall,
  request: {
    readonly images: readonly string[]
    readonly destination: SeparatedTarget
    readonly caller: Caller
  },
): Promise<void> {
  const { destination, caller } = request
  const { signal } = call.options
  if (destination.base === '') {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'base image name(-b) must be provided')
  }
  const named = (reference: string): Promise<NamedImage> => namedImage(call, reference)
  const apps = await Promise.all(request.images.map(named))
  const base = await named(destination.base)
  const lib = destination.lib === undefined ? undefined : await named(destination.lib)
  const renames = await readRenames(deps.files, caller, destination.rename, signal)
  await deps.files.createDirectory(caller, destination.directory, 0o755)
  const directory = callerDirectory(deps.files, caller, destination.directory, signal)
  await saveSeparated({ apps, base, lib, directory, renames }, call.services, call.options)
}

async function namedImage({ services, lease }: ArchiveCall, reference: string): Promise<NamedImage> {
  const record = await requireLocalImage(services.images, reference, lease)
  if (record.id.startsWith(reference)) {
    throw new BuilderError(
      'ISB_ARGUMENT_INVALID',
      `using image ID "${reference}" as image name to save separated image is not allowed`,
    )
  }
  return { reference, name: localName(reference), record }
}

async function readRenames(
  files: CallerFiles,
  caller: Caller,
  path: string | undefined,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, string>> {
  if (path === undefined) return new Map()
  const { fd } = await files.openRead(caller, path, signal)
  try {
    const content = await readDescriptor(fd, renameFileLimit, signal)
    if (content === undefined) {
      throw new BuilderError('ISB_LIMIT_EXCEEDED', `${path} is larger than 10 MiB`)
    }
    return decodeRenames(content)
  } finally {
    closeSync(fd)
  }
}
