import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { decodeImageConfig } from '@isula-build/shared/oci/image-config-decode.js'
import {
  arrayOf,
  decodeJson,
  objectOf,
  optional,
  stringMapOf,
  stringOf,
  stringsOf,
} from '@isula-build/shared/oci/json-document.js'
import { localName } from '@isula-build/shared/oci/local-name.js'
import { type ArchiveIndex, findMember, readMember, readUniqueMember } from './archive-index.js'
import type { ArchiveLimits } from './archive-limits.js'
import type { ArchivedImage, ArchivedLayer } from './archived-image.js'

interface DockerImage {
  readonly config: string
  readonly layers: readonly string[]
  readonly names: readonly string[]
}

const configDigestInName = /^(?:blobs\/sha256\/)?([0-9a-f]{64})(?:\.json)?$/

/**
 * The images of a docker archive (Docker image spec 1.2, "Combined Image JSON + Filesystem Changeset
 * Format"). Undefined when there is no manifest.json. Fails with ISB_ARCHIVE_INVALID,
 * ISB_DIGEST_MISMATCH, ISB_LIMIT_EXCEEDED.
 */
export async function readDockerArchive(
  index: ArchiveIndex,
  limits: ArchiveLimits,
): Promise<readonly ArchivedImage[] | undefined> {
  const bytes = await readUniqueMember(index, 'manifest.json', limits.dockerManifest)
  if (bytes === undefined) return undefined
  const images = decodeDockerManifest(bytes)
  const legacyNames = images.some((image) => image.names.length === 0)
    ? await readRepositories(index, limits)
    : new Map<string, readonly string[]>()
  const result: ArchivedImage[] = []
  for (const image of images) result.push(await locate(index, image, { limits, legacyNames }))
  return result
}

/** Decodes manifest.json, names into local form. */
export function decodeDockerManifest(bytes: Uint8Array): readonly DockerImage[] {
  const what = 'manifest.json'
  const images = arrayOf(decodeJson(bytes, what), what).map((item) => {
    const json = objectOf(item, `an item of ${what}`)
    const config = optional(json, 'Config', stringOf)
    if (config === undefined)
      throw new BuilderError('ISB_ARCHIVE_INVALID', `an item of ${what} has no "Config"`)
    const names = (optional(json, 'RepoTags', stringsOf) ?? []).map((name) => archivedName(name))
    return { config, layers: optional(json, 'Layers', stringsOf) ?? [], names }
  })
  if (images.length === 0) throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} lists no image`)
  return images
}

/** A name found in an archive, in local form. Fails with ISB_ARCHIVE_INVALID. */
export function archivedName(text: string): string {
  try {
    return localName(text)
  } catch (cause) {
    if (!isBuilderError(cause)) throw cause
    throw new BuilderError('ISB_ARCHIVE_INVALID', `an image in the archive has an ${cause.message}`, {
      cause,
    })
  }
}

async function locate(
  index: ArchiveIndex,
  image: DockerImage,
  { limits, legacyNames }: { limits: ArchiveLimits; legacyNames: ReadonlyMap<string, readonly string[]> },
): Promise<ArchivedImage> {
  const member = findMember(index, bytesOfText(image.config))
  if (member === undefined) throw missing('the image configuration', image.config)
  const configBytes = await readMember(member, limits.document)
  const expected = configDigestInName.exec(image.config)?.[1]
  const actual = digestHex(digestOf(configBytes))
  if (expected !== undefined && expected !== actual) {
    throw new BuilderError(
      'ISB_DIGEST_MISMATCH',
      `the image configuration ${expected} in the archive has the digest sha256:${actual}`,
    )
  }
  const config = decodeImageConfig(configBytes)
  const diffIds = config.rootfs.diff_ids
  if (image.layers.length !== diffIds.length) {
    throw new BuilderError(
      'ISB_ARCHIVE_INVALID',
      `manifest.json lists ${image.layers.length} layers of an image whose configuration has ${diffIds.length}`,
    )
  }
  const layers: ArchivedLayer[] = []
  for (const [i, diffId] of diffIds.entries()) {
    const name = image.layers[i] ?? ''
    const layer = findMember(index, bytesOfText(name))
    if (layer === undefined) throw missing('layer', name)
    layers.push({ diffId, member: layer, blob: undefined })
  }
  const topLayer = /([0-9a-f]{64})(?:\/layer\.tar|\.tar)?$/.exec(image.layers.at(-1) ?? '')?.[1] ?? ''
  const names = image.names.length > 0 ? image.names : (legacyNames.get(topLayer) ?? [])
  return { configBytes, config, layers, names }
}

/** Names by the ID of the top layer, from the file that archives had before manifest.json. */
async function readRepositories(
  index: ArchiveIndex,
  limits: ArchiveLimits,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const bytes = await readUniqueMember(index, 'repositories', limits.dockerManifest)
  return bytes === undefined ? new Map() : decodeRepositories(bytes)
}

export function decodeRepositories(bytes: Uint8Array): ReadonlyMap<string, readonly string[]> {
  const what = 'repositories'
  const result = new Map<string, string[]>()
  for (const [repository, tags] of Object.entries(objectOf(decodeJson(bytes, what), what))) {
    for (const [tag, layer] of Object.entries(stringMapOf(tags, `an item of ${what}`))) {
      const names = result.get(layer) ?? []
      names.push(archivedName(`${repository}:${tag}`))
      result.set(layer, names)
    }
  }
  return result
}

function missing(what: string, name: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', `${what} ${JSON.stringify(name)} is not in the archive`)
}
