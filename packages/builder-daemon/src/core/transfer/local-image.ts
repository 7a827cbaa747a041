import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'
import { type Platform, platformMatches } from '@isula-build/shared/oci/platform.js'
import {
  canonicalName,
  formatFamiliar,
  type ImageReference,
  tryParseReference,
  withDefaultTag,
} from '@isula-build/shared/oci/reference.js'
import type { ImageRecord } from '../../ports/image-store.js'
import type { Lease } from '../../ports/layer-store.js'
import { candidatesOf, withoutTransport } from './locate.js'
import type { TransferServices } from './transfer.js'

/** An image of the store that a reference means, held by the lease. */
export interface LocalImage {
  readonly record: ImageRecord
  /** The name it was found by; undefined when it was found by what it is: an ID or a digest. */
  readonly name: ImageReference | undefined
}

type Services = Pick<TransferServices, 'images' | 'memory' | 'rules'>

export interface Finding {
  /** For what, when the image has a choice: a list under a digest. */
  readonly platform: Platform
  /** Holds what is found. */
  readonly lease: Lease
  /** `names`: text that is an ID, or begins one, means nothing. */
  readonly by: 'names' | 'names and IDs'
}

/**
 * What the user means here: `name:latest`, the name, an ID or a prefix of one; then, for a name without a registry,
 * what it may mean elsewhere, in that order (`localhost/name`, the search registries). A digest is never passed over:
 * only an image that is known to have it will do, and of several the one for the platform.
 */
export async function findLocalImage(
  text: string,
  services: Services,
  { platform, lease, by }: Finding,
): Promise<LocalImage | undefined> {
  const plain = withoutTransport(text)
  const reference = tryParseReference(plain)
  if (reference?.digest !== undefined) {
    return await findByDigest(plain, reference.digest, platform, { services, lease })
  }
  const familiar = reference === undefined ? plain : formatFamiliar(withDefaultTag(reference))
  const elsewhere = reference === undefined ? [] : candidatesOf(plain, services).map(formatFamiliar)
  // Whoever marks a name as one at a registry means no ID; with a tag it cannot be one.
  const own = by === 'names and IDs' && plain === text ? [plain, familiar] : [familiar]
  for (const candidate of new Set([...own, ...elsewhere])) {
    const record = await services.images.resolve(candidate, lease)
    if (record === undefined) continue
    const name = record.names.find((one) => one === candidate || one === `${candidate}:latest`)
    return { record, name: name === undefined ? undefined : tryParseReference(name) }
  }
  return undefined
}

async function findByDigest(
  text: string,
  digest: Digest,
  platform: Platform,
  { services, lease }: { readonly services: Services; readonly lease: Lease },
): Promise<LocalImage | undefined> {
  for (const candidate of candidatesOf(text, services)) {
    const found = await imageOfDigest(canonicalName(candidate), digest, platform, { services, lease })
    if (found !== undefined) return { record: found, name: undefined }
  }
  return undefined
}

/** An image for the platform that came under the same name and digest as this one: from the same list. */
export async function findSibling(
  { record, name }: LocalImage,
  platform: Platform,
  services: Services,
  lease: Lease,
): Promise<ImageRecord | undefined> {
  if (name === undefined) return undefined
  const repository = canonicalName(name)
  for (const digest of await services.memory.digestsOf(record.id, repository)) {
    const found = await imageOfDigest(repository, digest, platform, { services, lease })
    if (found !== undefined) return found
  }
  return undefined
}

async function imageOfDigest(
  repository: string,
  digest: Digest,
  platform: Platform,
  { services, lease }: { readonly services: Services; readonly lease: Lease },
): Promise<ImageRecord | undefined> {
  for (const id of await services.memory.imagesOf(repository, digest)) {
    const record = await resolveExactly(id, services, lease)
    if (record !== undefined && !record.damaged && isFor(record, platform)) return record
  }
  return undefined
}

async function resolveExactly(
  id: string,
  { images }: Services,
  lease: Lease,
): Promise<ImageRecord | undefined> {
  try {
    const record = await images.resolve(id, lease)
    return record?.id === id ? record : undefined
  } catch (error) {
    if (isBuilderError(error, 'ISB_REFERENCE_INVALID')) return undefined
    throw error
  }
}

export function platformOf({ config }: ImageRecord): Platform {
  const { os, architecture, variant } = config
  return { os, architecture, ...(variant === undefined || variant === '' ? {} : { variant }) }
}

/** The image is exactly for this system and architecture, in a variant that runs on what is wanted. */
export function isFor(record: ImageRecord, wanted: Platform): boolean {
  const have = platformOf(record)
  return have.os === wanted.os && have.architecture === wanted.architecture && platformMatches(wanted, have)
}
