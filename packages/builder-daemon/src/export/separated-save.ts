import { createHash } from 'node:crypto'
import { close } from 'node:fs'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { createGzip } from 'node:zlib'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestHex } from '@isula-build/shared/oci/digest.js'
import { splitLocalName } from '@isula-build/shared/oci/local-name.js'
import { layersToSave, type SavedLayer } from '../core/images/saved-layers.js'
import type { ImageRecord } from '../ports/image-store.js'
import { type ArchiveDirectory, checkFileName } from './archive-directory.js'
import { createSpool } from './archive-file.js'
import type { ArchiveOptions, ArchiveServices } from './archive-services.js'
import { fileChunks, throwIfAborted, writeAll } from './descriptor-io.js'
import { configMember, jsonMember, layerFile, layerMembers, repositories } from './save.js'
import { encodeSeparatedManifest, type SeparatedEntry, separatedManifestFile } from './separated-manifest.js'
import { type OutputMember, writeTar } from './tar-output.js'

export interface NamedImage {
  /** As the user wrote it; an image ID is refused. */
  readonly reference: string
  /** In local form. */
  readonly name: string
  readonly record: ImageRecord
}

export interface SeparatedSaveRequest {
  readonly apps: readonly NamedImage[]
  readonly base: NamedImage
  readonly lib: NamedImage | undefined
  /** Empty. */
  readonly directory: ArchiveDirectory
  /** Old file name → new one. */
  readonly renames: ReadonlyMap<string, string>
}

interface Part {
  readonly file: string
  readonly hash: string
}

/** 2016-12-31T00:00:00Z, the time the original gives every member. */
const memberTime = 1_483_142_400
const chunkSize = 256 * 1024
const closeDescriptor = promisify(close)

/**
 * Saves apps without the layers of their base and lib, which are saved once. The same images give the same
 * bytes. On failure every file made is removed. Fails with ISB_ARGUMENT_INVALID when the images do not
 * stand on each other, ISB_ALREADY_EXISTS, ISB_IMAGE_DAMAGED, ISB_NO_SPACE, ISB_CANCELLED.
 */
export async function saveSeparated(
  request: SeparatedSaveRequest,
  services: ArchiveServices,
  options: Pick<ArchiveOptions, 'lease' | 'signal' | 'onLog'>,
): Promise<void> {
  const { apps, base, lib, directory } = request
  checkRequest(request)
  const baseLayers = await layersToSave(base.record, services, options)
  if (baseLayers.length !== 1) {
    throw invalid(
      `number of base layers ${baseLayers.length} ${baseLayers.length === 0 ? 'less' : 'more'} than one`,
    )
  }
  const libLayers = lib === undefined ? [] : await layersToSave(lib.record, services, options)
  if (lib !== undefined) checkStandsOn(libLayers, baseLayers, { kind: 'base', image: base })
  const writer = createWriter(directory, request.renames, { services, options })
  const entries = new Map<string, SeparatedEntry>()
  let shared: { readonly base: Part; readonly lib: Part | undefined } | undefined
  try {
    for (const app of [...apps].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const layers = await layersToSave(app.record, services, options)
      checkStandsOn(layers, baseLayers, { kind: 'base', image: base })
      if (lib !== undefined) checkStandsOn(layers, libLayers, { kind: 'lib', image: lib })
      const prefix = filePrefix(app.name)
      const onlyLib = libLayers.slice(baseLayers.length)
      shared ??= {
        base: await writer.writePart(`${prefix}_base_image.tar.gz`, layerMembers(baseLayers)),
        lib: lib && (await writer.writePart(`${prefix}_lib_image.tar.gz`, layerMembers(onlyLib))),
      }
      const onlyApp = layers.slice(Math.max(baseLayers.length, libLayers.length))
      const part = await writer.writePart(`${prefix}_app_image.tar.gz`, appMembers(app, layers, onlyApp))
      options.onLog(`Saved app image ${app.name} to ${part.file}`)
      entries.set(app.name, {
        app: part.file,
        appHash: part.hash,
        appLayers: names(onlyApp),
        ...(lib === undefined || shared.lib === undefined
          ? {}
          : {
              lib: shared.lib.file,
              libHash: shared.lib.hash,
              libImageName: lib.reference,
              libLayers: names(onlyLib),
            }),
        base: shared.base.file,
        baseHash: shared.base.hash,
        baseImageName: base.reference,
        baseLayer: names(baseLayers)[0] ?? '',
      })
    }
    await writer.writeFile(separatedManifestFile, encodeSeparatedManifest(entries))
  } catch (error) {
    await writer.removeAll()
    throw error
  }
}

function checkRequest({ apps, base, lib }: SeparatedSaveRequest): void {
  if (apps.length === 0) throw invalid('no app image to save')
  for (const { reference, record } of [...apps, base, ...(lib === undefined ? [] : [lib])]) {
    const isId =
      /^(?:sha256:)?[0-9a-f]+$/.test(reference) && record.id.startsWith(reference.replace('sha256:', ''))
    const isName = record.names.some((name) => name === reference || name === `${reference}:latest`)
    if (isId && !isName) {
      throw invalid(`using image ID "${reference}" as image name to save separated image is not allowed`)
    }
  }
  if (lib !== undefined && (lib.name === base.name || lib.record.id === base.record.id)) {
    throw invalid('base and lib images are the same')
  }
}

/** Layers of the lower image must be the lowest of the upper one, and not all of it. */
function checkStandsOn(
  layers: readonly SavedLayer[],
  lower: readonly SavedLayer[],
  { kind, image }: { readonly kind: 'base' | 'lib'; readonly image: NamedImage },
): void {
  if (lower.length >= layers.length) {
    throw invalid('number of base or lib layers is equal or greater than saved app layers')
  }
  if (lower.some((layer, i) => layer.diffId !== layers[i]?.diffId)) {
    throw invalid(`dismatch checksum for ${kind} image ${image.reference}`)
  }
}

function filePrefix(appName: string): string {
  const { repository, tag } = splitLocalName(appName)
  return `${repository.slice(repository.lastIndexOf('/') + 1)}_${tag}`
}

function names(layers: readonly SavedLayer[]): readonly string[] {
  return layers.map((layer) => digestHex(layer.diffId))
}

/** The app's own layers and the documents of a docker archive, which list the layers below too. */
function appMembers(
  app: NamedImage,
  layers: readonly SavedLayer[],
  own: readonly SavedLayer[],
): readonly OutputMember[] {
  const { id, configBytes } = app.record
  const manifest = {
    Config: `${id}.json`,
    RepoTags: [app.name],
    Layers: layers.map((layer) => layerFile(layer)),
  }
  return [
    ...layerMembers(own),
    configMember(id, configBytes),
    jsonMember('manifest.json', [manifest]),
    jsonMember('repositories', repositories([{ names: [app.name], layers }])),
  ]
}

interface PartWriter {
  writePart(file: string, members: readonly OutputMember[]): Promise<Part>
  writeFile(file: string, content: Uint8Array): Promise<void>
  removeAll(): Promise<void>
}

function createWriter(
  directory: ArchiveDirectory,
  renames: ReadonlyMap<string, string>,
  context: { services: ArchiveServices; options: Pick<ArchiveOptions, 'lease' | 'signal'> },
): PartWriter {
  const { services, options } = context
  const made: string[] = []
  const into = async (file: string, write: (fd: number) => Promise<void>): Promise<void> => {
    const fd = await directory.create(file)
    made.push(file)
    try {
      await write(fd)
    } finally {
      await closeDescriptor(fd)
    }
  }
  return {
    writePart: async (originalName, members) => {
      const file = checkFileName(renames.get(originalName) ?? originalName, 'file')
      await using spool = await createSpool(services, options)
      await writeTar(members, { fd: spool.handle.fd, mtime: memberTime, signal: options.signal }, services)
      let hash = ''
      await into(file, async (fd) => {
        hash = await gzipTo(fd, spool.handle.fd, options.signal)
      })
      return { file, hash }
    },
    writeFile: (file, content) => into(file, (fd) => writeAll(fd, content, options.signal)),
    removeAll: async () => {
      for (const file of made) await directory.remove(file)
    },
  }
}

/** Returns the sha256 of what was written. Compression runs on the thread pool; chunks are small enough to hash here. */
async function gzipTo(fd: number, from: number, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  const gzip = createGzip({ chunkSize })
  const source = Readable.from(fileChunks(from, signal), { objectMode: false })
  source.on('error', (error) => gzip.destroy(error))
  try {
    for await (const chunk of source.pipe(gzip)) {
      throwIfAborted(signal)
      hash.update(chunk as Uint8Array)
      await writeAll(fd, chunk as Uint8Array, signal)
    }
  } finally {
    source.destroy()
    gzip.destroy()
  }
  return hash.digest('hex')
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message)
}
