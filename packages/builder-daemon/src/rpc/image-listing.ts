import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Encodable } from '@isula-build/shared/rpc/codec.js'
import { type Image, ImagesResponse } from '@isula-build/shared/rpc/image-messages.js'
import type { ImageSummary } from '../ports/image-store.js'
import { type ImageRow, newestFirst, selectImages } from './image-selection.js'

type Answer = Encodable<typeof ImagesResponse>

/**
 * Answers to `Images`. The one about all images is kept encoded for as long as the store gives the same list, since it
 * is asked for much more often than it changes.
 */
export function createImageListing() {
  const encoded = new WeakMap<Answer, Buffer>()
  const answers = new WeakMap<readonly ImageSummary[], Answer>()

  const ofAll = (images: readonly ImageSummary[]): Answer => {
    const known = answers.get(images)
    if (known !== undefined) return known
    // Stands for its bytes alone.
    const answer: Answer = {}
    encoded.set(answer, ImagesResponse.encode({ images: newestFirst(images) }))
    answers.set(images, answer)
    return answer
  }

  return {
    /** `filter` as selectImages takes it; fails as it does. */
    answer: (images: readonly ImageSummary[], filter: string): Answer =>
      filter === '' ? ofAll(images) : { images: grouped(selectImages(images, filter)) },
    /** The service whose answers these are. */
    service: {
      ...builderService,
      Images: {
        ...builderService.Images,
        responseSerialize: (value: Answer) =>
          encoded.get(value) ?? builderService.Images.responseSerialize(value),
      },
    },
  }
}

/** Rows of one image are one image with several names. */
function grouped(rows: readonly ImageRow[]): Encodable<typeof Image>[] {
  const byId = new Map<string, { row: ImageRow; names: string[] }>()
  for (const row of rows) {
    const group = byId.get(row.image.id) ?? { row, names: [] }
    byId.set(row.image.id, group)
    if (row.name !== undefined) group.names.push(row.name)
  }
  return [...byId.values()].map(({ row: { image }, names }) => ({ ...image, names }))
}
