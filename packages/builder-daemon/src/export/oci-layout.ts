import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { decodeImageConfig } from '@isula-build/shared/oci/image-config-decode.js'
import { decodeJson, objectOf, optional, stringOf } from '@isula-build/shared/oci/json-document.js'
import {
  isIndexMediaType,
  isManifestMediaType,
  layerCompression,
  mediaTypes,
} from '@isula-build/shared/oci/media-types.js'
import type { Platform } from '@isula-build/shared/oci/platform.js'
import {
  decodeManifestDocument,
  isAttestation,
  type ManifestDocument,
  pickPlatform,
} from '../core/image/manifest-document.js'
import { type ArchiveIndex, readUniqueMember } from './archive-index.js'
import type { ArchiveLimits } from './archive-limits.js'
import type { ArchivedImage } from './archived-image.js'
import { archivedName } from './docker-archive.js'
import { findBlob, readBlob } from './oci-descriptor.js'

const layoutVersion = '1.0.0'
const maxIndexDepth = 5
const refName = 'org.opencontainers.image.ref.name'
const containerdName = 'io.containerd.image.name'

interface Context {
  readonly index: ArchiveIndex
  readonly limits: ArchiveLimits
  readonly platform: Platform
}

/**
 * The images of an OCI image layout (OCI image spec, image-layout.md). Of an image for several platforms
 * the one for `platform` is taken. Undefined when there is no index.json. Fails with ISB_ARCHIVE_INVALID,
 * ISB_DIGEST_MISMATCH, ISB_PLATFORM_UNSUPPORTED, ISB_LIMIT_EXCEEDED.
 */
export async function readOciLayout(
  index: ArchiveIndex,
  limits: ArchiveLimits,
  platform: Platform,
): Promise<readonly ArchivedImage[] | undefined> {
  const bytes = await readUniqueMember(index, 'index.json', limits.document)
  if (bytes === undefined) return undefined
  await checkLayoutVersion(index, limits)
  const top = decodeManifestDocument(bytes, 'index.json', undefined)
  if (top.kind !== 'index') throw invalid('index.json holds no "manifests"')
  const context: Context = { index, limits, platform }
  const images: ArchivedImage[] = []
  for (const [names, descriptors] of groupByName(top.manifests)) {
    for (const descriptor of descriptorsToLoad(descriptors, platform)) {
      images.push(await resolveImage(context, descriptor, { names, depth: 1 }))
    }
  }
  if (images.length === 0) throw invalid('index.json lists no image')
  return images
}

async function checkLayoutVersion(index: ArchiveIndex, limits: ArchiveLimits): Promise<void> {
  const bytes = await readUniqueMember(index, 'oci-layout', limits.dockerManifest)
  if (bytes === undefined) throw invalid('the file oci-layout is missing')
  const version = optional(
    objectOf(decodeJson(bytes, 'oci-layout'), 'oci-layout'),
    'imageLayoutVersion',
    stringOf,
  )
  if (version !== layoutVersion)
    throw invalid(`image layout version ${quote(version ?? '')} is not supported`)
}

/** Entries of the same name are one image for several platforms. */
function groupByName(
  descriptors: readonly Descriptor[],
): ReadonlyMap<readonly string[], readonly Descriptor[]> {
  const groups = new Map<string, { names: readonly string[]; descriptors: Descriptor[] }>()
  for (const descriptor of descriptors) {
    if (isAttestation(descriptor)) continue
    const names = namesOf(descriptor)
    const key = names.join('\n')
    const group = groups.get(key) ?? { names, descriptors: [] }
    group.descriptors.push(descriptor)
    groups.set(key, group)
  }
  return new Map([...groups.values()].map((group) => [group.names, group.descriptors]))
}

/**
 * `io.containerd.image.name` is always a whole reference; `ref.name` may be one or only a tag, which counts
 * as a name when there is nothing else, as in the original.
 */
function namesOf(descriptor: Descriptor): readonly string[] {
  const full = descriptor.annotations?.[containerdName]
  const text = full !== undefined && full !== '' ? full : descriptor.annotations?.[refName]
  return text === undefined || text === '' ? [] : [archivedName(text)]
}

function descriptorsToLoad(descriptors: readonly Descriptor[], platform: Platform): readonly Descriptor[] {
  const forPlatforms = descriptors.length > 1 && descriptors.every((item) => item.platform !== undefined)
  return forPlatforms ? [pickPlatform(descriptors, platform, 'the archive')] : descriptors
}

async function resolveImage(
  context: Context,
  descriptor: Descriptor,
  { names, depth }: { readonly names: readonly string[]; readonly depth: number },
): Promise<ArchivedImage> {
  if (depth > maxIndexDepth) throw invalid(`indexes are nested deeper than ${maxIndexDepth} levels`)
  const { index, limits } = context
  const what = `manifest ${descriptor.digest}`
  if (!isManifestMediaType(descriptor.mediaType) && !isIndexMediaType(descriptor.mediaType)) {
    throw invalid(`${what} has the media type ${quote(descriptor.mediaType)}, which is no image`)
  }
  const bytes = await readBlob(index, descriptor, { what: 'manifest', limit: limits.document })
  const document = decodeManifestDocument(bytes, what, descriptor.mediaType)
  if (document.kind === 'index') {
    const child = pickPlatform(document.manifests, context.platform, 'the archive')
    return resolveImage(context, child, { names, depth: depth + 1 })
  }
  return locate(context, document, names)
}

async function locate(
  { index, limits }: Context,
  manifest: Extract<ManifestDocument, { kind: 'manifest' }>,
  names: readonly string[],
): Promise<ArchivedImage> {
  const type = manifest.config.mediaType
  if (type !== mediaTypes.ociConfig && type !== mediaTypes.dockerConfig) {
    throw invalid(`the configuration has the media type ${quote(type)}, which is no image`)
  }
  const configBytes = await readBlob(index, manifest.config, {
    what: 'the image configuration',
    limit: limits.document,
  })
  const config = decodeImageConfig(configBytes)
  const diffIds = config.rootfs.diff_ids
  if (manifest.layers.length !== diffIds.length) {
    throw invalid(
      `the manifest lists ${manifest.layers.length} layers, the configuration has ${diffIds.length}`,
    )
  }
  const layers = manifest.layers.map((descriptor, i) => {
    if (layerCompression(descriptor.mediaType) === undefined) {
      throw invalid(`a layer has the media type ${quote(descriptor.mediaType)}, which cannot be unpacked`)
    }
    const diffId = diffIds[i]
    if (diffId === undefined) throw new Error('diff IDs and layers were counted')
    return { diffId, member: findBlob(index, descriptor, 'layer'), blob: descriptor.digest }
  })
  return { configBytes, config, layers, names }
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', message)
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 200))
}
