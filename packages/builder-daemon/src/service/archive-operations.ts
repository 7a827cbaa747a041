import { closeSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { formatPlatform, type Platform, platformRank } from '@isula-build/shared/oci/platform.js'
import { localNames, tryLocalName } from '../core/images/names.js'
import { requireLocalImage } from '../core/images/resolve.js'
import { platformOf } from '../core/transfer/local-image.js'
import { findLocalList } from '../core/transfer/local-lists.js'
import type { ArchiveDirectory } from '../export/archive-directory.js'
import type { ArchiveInput, ArchiveOptions, ArchiveServices } from '../export/archive-services.js'
import { importRootfs } from '../export/import.js'
import { loadArchive } from '../export/load.js'
import { loadSeparated } from '../export/separated-load.js'
import type { Caller, CallerFiles } from '../ports/caller.js'
import type { ImageRecord, ImageStore } from '../ports/image-store.js'
import type { Lease } from '../ports/layer-store.js'
import type { ManifestList } from '../ports/manifest-lists.js'
import type { ArchiveSource, ImportRequest, LoadRequest, StoreEvent } from '../rpc/handlers.js'
import { type Emit, eventStream } from './event-stream.js'
import { ownedImages } from './owned-images.js'

/** Images in from archives, with the rights of the caller. */
export interface ArchiveDeps {
  readonly services: ArchiveServices
  readonly files: CallerFiles
}

export interface ArchiveCall {
  readonly services: ArchiveServices
  readonly options: ArchiveOptions
  readonly lease: Lease
}

/** Runs `work` under a lease of its own, as this caller may use the image store. */
export async function withArchiveCall<T>(
  { services }: ArchiveDeps,
  caller: Caller,
  purpose: string,
  rest: { readonly signal: AbortSignal; readonly onLog: (line: string) => void },
  work: (call: ArchiveCall) => Promise<T>,
): Promise<T> {
  const lease = await services.layers.acquireLease({ uid: caller.uid, purpose })
  try {
    const images = ownedImages(services.images, caller)
    return await work({
      services: { ...services, images },
      options: { owner: caller.uid, lease, ...rest },
      lease,
    })
  } finally {
    await services.layers.releaseLease(lease)
  }
}

export function importImage(
  deps: ArchiveDeps,
  request: ImportRequest,
  caller: Caller,
  signal: AbortSignal,
): AsyncIterable<StoreEvent> {
  return eventStream<StoreEvent>(signal, async (emit, inner) => {
    const [name] = request.reference === undefined ? [] : localNames([request.reference])
    await using input = await openSource(deps.files, caller, request.source, inner)
    const rest = { signal: inner, onLog: logTo(emit) }
    const image = await withArchiveCall(deps, caller, 'import', rest, ({ services, options }) =>
      importRootfs({ ...input.input, name }, services, options),
    )
    await emit({ kind: 'stored', imageId: image.id, names: image.names })
  })
}

export function loadImages(
  deps: ArchiveDeps,
  request: LoadRequest,
  caller: Caller,
  signal: AbortSignal,
): AsyncIterable<StoreEvent> {
  return eventStream<StoreEvent>(signal, async (emit, inner) => {
    const rest = { signal: inner, onLog: logTo(emit) }
    const loaded = await withArchiveCall(deps, caller, 'load', rest, async ({ services, options }) => {
      if (request.kind === 'separated') {
        const directory = callerDirectory(deps.files, caller, request.directory, inner)
        await using base = await openTarball(deps.files, caller, request.base, inner)
        await using lib = await openTarball(deps.files, caller, request.lib, inner)
        const { app, skipCheck } = request
        const parts = { base: base.input, lib: lib.input }
        return await loadSeparated({ directory, app, check: !skipCheck, ...parts }, services, options)
      }
      await using input = await openSource(deps.files, caller, request.source, inner)
      return await loadArchive(input.input, services, options)
    })
    for (const { id, names } of loaded) await emit({ kind: 'stored', imageId: id, names })
  })
}

function logTo(emit: Emit<StoreEvent>): (line: string) => void {
  return (line) => void emit({ kind: 'log', line })
}

async function openSource(
  files: CallerFiles,
  caller: Caller,
  source: ArchiveSource,
  signal: AbortSignal,
): Promise<{ input: ArchiveInput } & AsyncDisposable> {
  if (source.kind === 'stream') {
    const input = { stream: source.chunks, path: 'the archive that was sent' }
    return { input, [Symbol.asyncDispose]: async () => undefined }
  }
  const { fd } = await files.openRead(caller, source.path, signal)
  return { input: { fd, path: source.path }, [Symbol.asyncDispose]: async () => closeSync(fd) }
}

async function openTarball(
  files: CallerFiles,
  caller: Caller,
  path: string | undefined,
  signal: AbortSignal,
): Promise<{ input: { fd: number; path: string } | undefined } & AsyncDisposable> {
  if (path === undefined) return { input: undefined, [Symbol.asyncDispose]: async () => undefined }
  const { fd } = await files.openRead(caller, path, signal)
  return { input: { fd, path }, [Symbol.asyncDispose]: async () => closeSync(fd) }
}

/** A directory of the caller's, every file opened as he could open it. */
export function callerDirectory(
  files: CallerFiles,
  caller: Caller,
  path: string,
  signal: AbortSignal,
): ArchiveDirectory {
  const made = new Map<string, { dev: bigint; ino: bigint }>()
  return {
    path,
    async create(name) {
      const { fd, dev, ino } = await files.create(caller, `${path}/${name}`, 0o644, { signal })
      made.set(name, { dev, ino })
      return fd
    },
    openRead: async (name) => (await files.openRead(caller, `${path}/${name}`, signal)).fd,
    async remove(name) {
      const file = made.get(name)
      if (file !== undefined) await files.removeCreated(caller, `${path}/${name}`, file)
    },
  }
}

export interface NamedRecord {
  readonly record: ImageRecord
  readonly names: readonly string[]
}

/** A list whose images are here. */
export interface NamedRecords {
  readonly records: readonly ImageRecord[]
  readonly names: readonly string[]
}

/**
 * Images to save with the names they were asked for by; an ID brings none. Of a list an OCI archive gets every image
 * that is here, a docker archive, which can hold but one, that of the daemon's platform.
 */
export async function imagesToSave(
  { services, lease }: ArchiveCall,
  references: readonly string[],
  format: 'docker' | 'oci',
): Promise<{ readonly images: readonly NamedRecord[]; readonly indexes: readonly NamedRecords[] }> {
  if (references.length === 0) throw new BuilderError('ISB_ARGUMENT_INVALID', 'no image to save was named')
  const images: NamedRecord[] = []
  const indexes: NamedRecords[] = []
  for (const reference of references) {
    const list = await findLocalList(reference, services)
    if (list === undefined) {
      const record = await requireLocalImage(services.images, reference, lease)
      const local = tryLocalName(reference)
      const wanted = new Set([reference, local, `localhost/${local ?? ''}`])
      images.push({ record, names: record.names.filter((name) => wanted.has(name)).slice(0, 1) })
      continue
    }
    const names = [list.name]
    const records = await recordsOf(list, services.images, lease)
    if (format === 'oci') indexes.push({ records, names })
    else images.push({ record: recordFor(records, services.platform, list.name), names })
  }
  return { images, indexes }
}

async function recordsOf(
  list: ManifestList,
  images: ImageStore,
  lease: Lease,
): Promise<readonly ImageRecord[]> {
  const records: ImageRecord[] = []
  for (const { origin } of list.entries) {
    if (origin.kind === 'local') records.push(await requireLocalImage(images, origin.imageId, lease))
  }
  if (records.length > 0) return records
  throw new BuilderError(
    'ISB_IMAGE_NOT_FOUND',
    `no image of manifest list "${list.name}" is in the local store`,
    {
      hint: 'Its images are at registries; pull what is to be saved.',
    },
  )
}

function recordFor(records: readonly ImageRecord[], platform: Platform, list: string): ImageRecord {
  const ranked = records.flatMap((record) => {
    const rank = platformRank(platform, platformOf(record))
    return rank === undefined ? [] : [{ record, rank }]
  })
  const [best] = ranked.sort((a, b) => a.rank - b.rank)
  if (best !== undefined) return best.record
  throw new BuilderError(
    'ISB_PLATFORM_UNSUPPORTED',
    `manifest list "${list}" has no image for ${formatPlatform(platform)} in the local store`,
    { hint: 'Save it in OCI format, which holds images of every platform.' },
  )
}

/** `/a/b.tar` → what is checked before a file is made there. */
export function splitPath(path: string): { readonly directory: string; readonly name: string } {
  return { directory: dirname(path), name: basename(path) }
}
