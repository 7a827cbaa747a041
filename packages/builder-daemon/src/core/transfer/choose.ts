import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'
import { isIndexMediaType, isManifestMediaType } from '@isula-build/shared/oci/media-types.js'
import { formatPlatform, type Platform, platformMatches } from '@isula-build/shared/oci/platform.js'
import type { RemoteManifest } from '../../ports/registry.js'
import {
  decodeManifestDocument,
  isAttestation,
  type ManifestDocument,
  pickPlatform,
} from '../image/manifest-document.js'
import { imageLimits } from '../images/image-limits.js'
import type { DocumentBudget } from './document-budget.js'
import { firstThat, type LocatedImage, nameOf } from './locate.js'
import type { TransferCall, TransferServices } from './transfer.js'

export type ImageDocument = Extract<ManifestDocument, { kind: 'manifest' }>

/** The manifest of one image. */
export interface ChosenManifest {
  readonly remote: RemoteManifest
  readonly document: ImageDocument
  /** Of the platform that was asked for, as an index says; false when nothing said so yet. */
  readonly stated: boolean
}

/** Indexes inside indexes, and images of one index. */
const maxDepth = 4
const maxImages = 256

/**
 * The manifests of the images for these platforms, each once. Without an index there is only one to choose. Fails
 * with ISB_PLATFORM_UNSUPPORTED naming what there is, ISB_MANIFEST_INVALID, and ISB_LIMIT_EXCEEDED.
 */
export async function chooseManifests(
  image: LocatedImage,
  platforms: readonly Platform[] | 'all',
  budget: DocumentBudget,
  services: TransferServices,
  call: TransferCall,
): Promise<readonly ChosenManifest[]> {
  const chosen = new Map<Digest, ChosenManifest>()
  /** Indexes that everything was taken of. */
  const exhausted = new Set<Digest>()

  async function fetch(descriptor: Descriptor): Promise<RemoteManifest> {
    const before = chosen.get(descriptor.digest)
    if (before !== undefined) return before.remote
    budget.take(descriptor.size, nameOf(image.endpoint))
    const { value, endpoint } = await firstThat(image.endpoints, call, (one, asking) =>
      services.client.manifest(one, descriptor.digest, asking),
    )
    if (value.bytes.length !== descriptor.size) {
      const found = `manifest ${descriptor.digest} of ${nameOf(endpoint)} has ${value.bytes.length} bytes`
      throw new BuilderError('ISB_DIGEST_MISMATCH', `${found}, its index says ${descriptor.size}`)
    }
    return value
  }

  async function descend(
    remote: RemoteManifest,
    wanted: Platform | 'all',
    at: { readonly depth: number; readonly mediaType: string; readonly stated: boolean },
  ): Promise<void> {
    const what = `manifest ${remote.digest} of ${nameOf(image.endpoint)}`
    const document = decodeRemote(remote, what, at.mediaType)
    if (document.kind === 'manifest') {
      const before = chosen.get(remote.digest)
      chosen.set(remote.digest, { remote, document, stated: at.stated || before?.stated === true })
      if (chosen.size > maxImages) throw tooMany(`${what} lists more than ${maxImages} images`)
      return
    }
    if (at.depth === maxDepth) throw tooMany(`${what} is an index inside ${maxDepth} others`)
    if (wanted === 'all') exhausted.add(remote.digest)
    for (const descriptor of select(document.manifests, wanted, what)) {
      if (descriptor.size > imageLimits.document) {
        throw tooMany(`${what} lists a manifest of more than ${imageLimits.document} bytes`)
      }
      if (exhausted.has(descriptor.digest)) continue
      const { mediaType } = descriptor
      const stated = at.stated || descriptor.platform !== undefined
      await descend(await fetch(descriptor), wanted, { depth: at.depth + 1, mediaType, stated })
    }
  }

  budget.take(image.top.bytes.length, nameOf(image.endpoint))
  const start = { depth: 0, mediaType: image.top.mediaType, stated: false }
  if (platforms === 'all') await descend(image.top, 'all', start)
  else for (const platform of platforms) await descend(image.top, platform, start)
  return [...chosen.values()]
}

function decodeRemote(remote: RemoteManifest, what: string, mediaType: string): ManifestDocument {
  const type = mediaType === '' ? remote.mediaType : mediaType
  try {
    return decodeManifestDocument(remote.bytes, what, type === '' ? undefined : type)
  } catch (error) {
    throw fromRegistry(error)
  }
}

/** What is wrong with a document that a registry served; the decoders say it of an archive. */
export function fromRegistry(error: unknown): unknown {
  if (!isBuilderError(error, 'ISB_ARCHIVE_INVALID')) return error
  return new BuilderError('ISB_MANIFEST_INVALID', error.message, error.details)
}

function select(
  manifests: readonly Descriptor[],
  wanted: Platform | 'all',
  what: string,
): readonly Descriptor[] {
  const images = manifests.filter(
    (descriptor) =>
      !isAttestation(descriptor) &&
      (descriptor.mediaType === '' ||
        isManifestMediaType(descriptor.mediaType) ||
        isIndexMediaType(descriptor.mediaType)),
  )
  if (wanted === 'all') return images.filter(({ platform }) => platform?.os !== 'unknown')
  const picked = pickPlatform(images, wanted, what)
  // A list of one image is still a list: what it says of the image counts.
  if (picked.platform !== undefined && !platformMatches(wanted, picked.platform)) {
    throw new BuilderError(
      'ISB_PLATFORM_UNSUPPORTED',
      `${what} has no image for ${formatPlatform(wanted)}, only for ${formatPlatform(picked.platform)}`,
    )
  }
  return [picked]
}

function tooMany(message: string): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', message)
}
