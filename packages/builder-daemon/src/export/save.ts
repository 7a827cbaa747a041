import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { splitLocalName } from '@isula-build/shared/oci/local-name.js'
import { type Platform, platformRank } from '@isula-build/shared/oci/platform.js'
import { encodeIndex, encodeManifest } from '../core/image/manifest.js'
import { layersToSave, type SavedLayer } from '../core/images/saved-layers.js'
import { platformOf } from '../core/transfer/local-image.js'
import type { ImageRecord } from '../ports/image-store.js'
import type { ArchiveOptions, ArchiveServices } from './archive-services.js'
import { type OutputMember, writeTar } from './tar-output.js'

export interface SaveRequest {
  readonly images: readonly SaveImage[]
  /** Images of several platforms under common names; a docker archive has no place for them. */
  readonly indexes?: readonly SaveIndex[] | undefined
  readonly format: 'docker' | 'oci'
  /** A file, from its start when it is empty, a pipe or a socket, which is never sought. Not closed. */
  readonly fd: number
}

export interface SaveImage {
  readonly record: ImageRecord
  /** Names to give it in the archive, in local form; none when it was asked for by ID. */
  readonly names: readonly string[]
}

export interface SaveIndex {
  readonly records: readonly ImageRecord[]
  readonly names: readonly string[]
}

interface PreparedIndex {
  readonly images: readonly PreparedImage[]
  readonly names: readonly string[]
}

interface PreparedImage {
  readonly id: string
  readonly configBytes: Uint8Array
  readonly names: readonly string[]
  readonly platform: Platform
  readonly layers: readonly SavedLayer[]
}

const refName = 'org.opencontainers.image.ref.name'

/**
 * Writes images as an uncompressed docker archive or OCI layout. The same images give the same bytes. An
 * image named several times and a layer in several images are written once. Fails with ISB_IMAGE_DAMAGED,
 * ISB_NO_SPACE, ISB_CANCELLED; the caller then removes what was written.
 */
export async function saveArchive(
  request: SaveRequest,
  services: ArchiveServices,
  options: Pick<ArchiveOptions, 'lease' | 'signal' | 'onLog'>,
): Promise<void> {
  const alone: PreparedImage[] = []
  for (const { record, names } of mergeSameImages(request.images)) {
    alone.push(await prepare(record, names, services, options))
  }
  const indexes: PreparedIndex[] = []
  for (const { records, names } of request.indexes ?? []) {
    const parts: PreparedImage[] = []
    for (const record of records) parts.push(await prepare(record, [], services, options))
    indexes.push({ images: parts, names })
  }
  if (request.format === 'docker' && indexes.length > 0) throw new Error('a docker archive holds no index')
  const images = [...alone, ...indexes.flatMap((index) => index.images)]
  options.onLog('Getting image source signatures')
  for (const diffId of new Set(images.flatMap((image) => image.layers.map((layer) => layer.diffId)))) {
    options.onLog(`Copying blob ${diffId}`)
  }
  for (const image of images) options.onLog(`Copying config sha256:${image.id}`)
  const members =
    request.format === 'docker' ? dockerMembers(alone) : ociMembers(alone, indexes, services.platform)
  await writeTar(members, { fd: request.fd, mtime: 0, signal: options.signal }, services)
  options.onLog('Writing manifest to image destination')
  options.onLog('Storing signatures')
}

async function prepare(
  record: ImageRecord,
  names: readonly string[],
  services: ArchiveServices,
  options: Pick<ArchiveOptions, 'lease' | 'signal'>,
): Promise<PreparedImage> {
  const layers = await layersToSave(record, services, options)
  return { id: record.id, configBytes: record.configBytes, names, platform: platformOf(record), layers }
}

function mergeSameImages(images: readonly SaveImage[]): readonly SaveImage[] {
  const merged = new Map<string, SaveImage>()
  for (const { record, names } of images) {
    const known = merged.get(record.id)?.names ?? []
    merged.set(record.id, { record, names: [...new Set([...known, ...names])] })
  }
  return [...merged.values()]
}

/** `manifest.json`, `repositories`, `<id>.json` and `<diff ID>/layer.tar`: what docker 1.10 and all later readers take. */
function dockerMembers(images: readonly PreparedImage[]): readonly OutputMember[] {
  const manifest = images.map((image) => ({
    Config: `${image.id}.json`,
    RepoTags: image.names,
    Layers: image.layers.map((layer) => layerFile(layer)),
  }))
  return [
    ...layerMembers(images.flatMap((image) => image.layers)),
    ...images.map((image) => configMember(image.id, image.configBytes)),
    jsonMember('manifest.json', manifest),
    jsonMember('repositories', repositories(images)),
  ]
}

export function configMember(id: string, content: Uint8Array): OutputMember {
  return { kind: 'file', name: `${id}.json`, content }
}

export function jsonMember(name: string, value: unknown): OutputMember {
  return { kind: 'file', name, content: Buffer.from(JSON.stringify(value)) }
}

/** Every layer once, in a directory of its own. */
export function layerMembers(layers: readonly SavedLayer[]): readonly OutputMember[] {
  const members = new Map<string, OutputMember>()
  for (const layer of layers) {
    const name = layerFile(layer)
    const directory = digestHex(layer.diffId)
    members.set(directory, { kind: 'directory', name: directory })
    members.set(name, { kind: 'layer', name, layer })
  }
  return [...members.values()]
}

export function layerFile(layer: Pick<SavedLayer, 'diffId'>): string {
  return `${digestHex(layer.diffId)}/layer.tar`
}

/** Repository → tag → top layer. */
export function repositories(
  images: readonly Pick<PreparedImage, 'names' | 'layers'>[],
): Readonly<Record<string, Readonly<Record<string, string>>>> {
  const tags = images.flatMap(({ names, layers }) => {
    const top = layers.at(-1)
    return top === undefined
      ? []
      : names.map((name) => ({ ...splitLocalName(name), top: digestHex(top.diffId) }))
  })
  const byRepository = new Map<string, Map<string, string>>()
  for (const { repository, tag, top } of tags) {
    const known = byRepository.get(repository) ?? new Map<string, string>()
    byRepository.set(repository, known.set(tag, top))
  }
  return Object.fromEntries([...byRepository].map(([name, known]) => [name, Object.fromEntries(known)]))
}

/**
 * OCI image spec, image-layout.md. Layers are stored as they are hashed, uncompressed. `manifest.json` makes
 * it a docker archive too, as docker 25 itself writes it: earlier dockers load nothing else. Of an index it names the
 * image for this platform.
 */
function ociMembers(
  alone: readonly PreparedImage[],
  indexes: readonly PreparedIndex[],
  platform: Platform,
): readonly OutputMember[] {
  const blobs = new Map<string, OutputMember>()
  const addFile = (content: Uint8Array): void => {
    const name = blobName(digestHex(digestOf(content)))
    blobs.set(name, { kind: 'file', name, content })
  }
  const addImage = (image: PreparedImage): Descriptor => {
    for (const layer of image.layers) {
      const name = blobName(digestHex(layer.diffId))
      blobs.set(name, { kind: 'layer', name, layer })
    }
    const manifest = encodeManifest('oci', {
      config: { digest: digestOf(image.configBytes), size: image.configBytes.length },
      layers: image.layers.map((layer) => ({ digest: layer.diffId, size: layer.size, compression: 'none' })),
    })
    addFile(image.configBytes)
    addFile(manifest.bytes)
    return manifest.descriptor
  }
  const named = (descriptor: Descriptor, names: readonly string[]): readonly Descriptor[] =>
    names.length === 0
      ? [descriptor]
      : names.map((name) => ({ ...descriptor, annotations: { [refName]: name } }))
  const descriptors = [
    ...alone.flatMap((image) => named(addImage(image), image.names)),
    ...indexes.flatMap(({ images, names }) => {
      const index = encodeIndex(
        'oci',
        images.map((image) => ({ ...addImage(image), platform: image.platform })),
      )
      addFile(index.bytes)
      return named(index.descriptor, names)
    }),
  ]
  const forDocker = [...alone, ...indexes.flatMap((index) => imageFor(index, platform) ?? [])]
  const dockerManifest = forDocker.map((image) => ({
    Config: blobName(image.id),
    RepoTags: image.names,
    Layers: image.layers.map((layer) => blobName(digestHex(layer.diffId))),
  }))
  return [
    { kind: 'directory', name: 'blobs' },
    { kind: 'directory', name: 'blobs/sha256' },
    ...blobs.values(),
    { kind: 'file', name: 'index.json', content: encodeIndex('oci', descriptors).bytes },
    jsonMember('manifest.json', dockerManifest),
    jsonMember('oci-layout', { imageLayoutVersion: '1.0.0' }),
  ]
}

/** With the names of the index. */
function imageFor({ images, names }: PreparedIndex, wanted: Platform): PreparedImage | undefined {
  let best: { readonly image: PreparedImage; readonly rank: number } | undefined
  for (const image of images) {
    const rank = platformRank(wanted, image.platform)
    if (rank !== undefined && (best === undefined || rank < best.rank)) best = { image, rank }
  }
  return best === undefined ? undefined : { ...best.image, names }
}

function blobName(hex: string): string {
  return `blobs/sha256/${hex}`
}
