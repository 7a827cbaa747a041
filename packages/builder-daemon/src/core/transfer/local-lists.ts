import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { formatPlatform, type Platform } from '@isula-build/shared/oci/platform.js'
import { formatFamiliar, tryParseReference, withDefaultTag } from '@isula-build/shared/oci/reference.js'
import type { ImageStore } from '../../ports/image-store.js'
import type { ManifestList, ManifestListStore } from '../../ports/manifest-lists.js'
import { pickEntry } from '../image/list-document.js'
import { withoutTransport } from './locate.js'

interface LocalNames {
  readonly images: Pick<ImageStore, 'get'>
  readonly lists?: ManifestListStore | undefined
}

/**
 * The list that a name means here: as it is written, else below `localhost/`, as for images. An image that is found
 * earlier on that way hides it.
 */
export async function findLocalList(
  text: string,
  { images, lists }: LocalNames,
): Promise<ManifestList | undefined> {
  if (lists === undefined) return undefined
  for (const name of listNames(text)) {
    const found = await lists.get(name)
    if (found !== undefined) return found
    if ((await images.get(name)) !== undefined) return undefined
  }
  return undefined
}

/** Fails with ISB_IMAGE_NOT_FOUND, for an image with the original's text. */
export async function requireLocalList(text: string, names: LocalNames): Promise<ManifestList> {
  const list = await findLocalList(text, names)
  if (list !== undefined) return list
  for (const name of listNames(text)) {
    if ((await names.images.get(name)) !== undefined) {
      throw new BuilderError('ISB_IMAGE_NOT_FOUND', `${text} is not a manifest list`)
    }
  }
  throw new BuilderError('ISB_IMAGE_NOT_FOUND', `manifest list "${text}" not found in local store`, {
    hint: '`isula-build ctr-img images` lists images and manifest lists.',
  })
}

/**
 * What stands for this platform in a list of this store: an image ID, or `name@digest` at a registry. undefined when
 * the text means no list; fails with ISB_PLATFORM_UNSUPPORTED when the list has nothing for the platform.
 */
export async function findListed(
  text: string,
  wanted: Platform,
  names: LocalNames,
): Promise<string | undefined> {
  const list = withoutTransport(text) === text ? await findLocalList(text, names) : undefined
  if (list === undefined) return undefined
  const entry = pickEntry(list.entries, wanted)
  if (entry === undefined) {
    const have = list.entries.map(({ platform }) => formatPlatform(platform)).join(', ')
    throw new BuilderError(
      'ISB_PLATFORM_UNSUPPORTED',
      `manifest list "${list.name}" has no image for ${formatPlatform(wanted)}, only for ${have || 'none'}`,
    )
  }
  return entry.origin.kind === 'local' ? entry.origin.imageId : `${entry.origin.name}@${entry.digest}`
}

function listNames(text: string): readonly string[] {
  const reference = tryParseReference(text)
  if (reference === undefined || reference.digest !== undefined) return []
  const familiar = formatFamiliar(withDefaultTag(reference))
  return familiar.startsWith('localhost/') ? [familiar] : [familiar, `localhost/${familiar}`]
}
