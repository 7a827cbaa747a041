import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { formatFamiliar, tryParseReference, withDefaultTag } from '@isula-build/shared/oci/reference.js'
import type { ImageRecord, ImageStore } from '../../ports/image-store.js'
import type { Lease } from '../../ports/layer-store.js'

/**
 * The local image a user means: a name with or without its default domain and tag, an ID, an ID prefix;
 * at last the name under `localhost/`, where other builders put what they make.
 */
export async function resolveLocalImage(
  images: ImageStore,
  text: string,
  lease?: Lease,
): Promise<ImageRecord | undefined> {
  for (const candidate of candidates(text)) {
    const record = await images.resolve(candidate, lease)
    if (record !== undefined) return record
  }
  return undefined
}

/** Like `resolveLocalImage`; fails with ISB_IMAGE_NOT_FOUND. */
export async function requireLocalImage(
  images: ImageStore,
  text: string,
  lease?: Lease,
): Promise<ImageRecord> {
  const record = await resolveLocalImage(images, text, lease)
  if (record !== undefined) return record
  throw new BuilderError('ISB_IMAGE_NOT_FOUND', `image "${text}" not found in local store`)
}

function candidates(text: string): ReadonlySet<string> {
  const reference = tryParseReference(text)
  if (reference === undefined) return new Set([text])
  const { digest: _, ...named } = reference
  const familiar = formatFamiliar(withDefaultTag(named))
  const own = text.startsWith('localhost/') ? [] : [`localhost/${familiar}`]
  return new Set([text, familiar, ...own])
}
