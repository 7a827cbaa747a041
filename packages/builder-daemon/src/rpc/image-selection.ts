import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { localName, splitLocalName } from '@isula-build/shared/oci/local-name.js'
import type { ImageSummary } from '../ports/image-store.js'

/** One line of a listing: an image under one of its names, or without a name. */
export interface ImageRow {
  readonly image: ImageSummary
  readonly name: string | undefined
}

/** Newest first, of one moment by ID. */
export function newestFirst(images: readonly ImageSummary[]): readonly ImageSummary[] {
  return [...images].sort((a, b) => b.createdAt - a.createdAt || (a.id < b.id ? -1 : 1))
}

/**
 * Newest first. `filter` is `name:tag` for that one, else a repository or an ID prefix; '' for all.
 * Fails with ISB_IMAGE_NOT_FOUND when a filter matches nothing.
 */
export function selectImages(images: readonly ImageSummary[], filter: string): readonly ImageRow[] {
  const rows = newestFirst(images).flatMap((image): ImageRow[] => {
    if (image.names.length === 0) return [{ image, name: undefined }]
    return image.names.map((name) => ({ image, name }))
  })
  if (filter === '') return rows
  const shown = JSON.stringify(filter)
  const local = localForm(filter)
  if (filter.lastIndexOf(':') > filter.lastIndexOf('/')) {
    const found = rows.filter(({ name }) => name === filter || (name !== undefined && name === local))
    if (found.length > 0) return found
    throw notFound(`find local image ${shown} failed: image ${shown} not found in local store`)
  }
  const repository = local === undefined ? undefined : splitLocalName(local).repository
  const found = rows.filter(({ image, name }) => {
    if (image.id.startsWith(filter)) return true
    const own = name === undefined ? undefined : splitLocalName(name).repository
    return own !== undefined && (own === filter || own === repository)
  })
  if (found.length > 0) return found
  throw notFound(`failed to list images with repository ${shown} in local storage`)
}

/** undefined for what is no reference, such as part of an ID. */
function localForm(filter: string): string | undefined {
  try {
    return localName(filter)
  } catch (error) {
    if (error instanceof BuilderError) return undefined
    throw error
  }
}

function notFound(message: string): BuilderError {
  return new BuilderError('ISB_IMAGE_NOT_FOUND', message)
}
