import { type BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { localNames, tryLocalName } from '../core/images/names.js'
import { requireLocalImage } from '../core/images/resolve.js'
import type { Caller } from '../ports/caller.js'
import type { ImageRecord, ImageStore } from '../ports/image-store.js'
import type { RemoveEvent, RemoveRequest } from '../rpc/handlers.js'
import { ownedImages } from './owned-images.js'

export async function tagImage(
  images: ImageStore,
  image: string,
  name: string,
  caller: Caller,
): Promise<void> {
  const [local] = localNames([name])
  if (local === undefined) throw new Error('one name in, one name out')
  const record = await requireLocalImage(images, image)
  await ownedImages(images, caller).tag(record.id, local)
}

/**
 * Removes by name, ID or prefix. A name goes alone while its image has others; an ID takes all names.
 * One image failing is an event and does not stop the others.
 */
export async function* removeImages(
  images: ImageStore,
  request: RemoveRequest,
  caller: Caller,
  signal: AbortSignal,
): AsyncIterable<RemoveEvent> {
  const owned = ownedImages(images, caller)
  for (const reference of await references(images, request, caller)) {
    signal.throwIfAborted()
    try {
      yield* await removeOne(owned, reference)
    } catch (error) {
      yield { kind: 'failed', reference, error: asBuilderError(error) }
    }
  }
}

async function references(
  images: ImageStore,
  request: RemoveRequest,
  caller: Caller,
): Promise<readonly string[]> {
  if (request.kind === 'named') return request.references
  const mine = (await images.list()).filter(({ owner }) => caller.uid === 0 || owner === caller.uid)
  return mine.filter(({ names }) => request.kind === 'all' || names.length === 0).map(({ id }) => id)
}

async function removeOne(images: ImageStore, reference: string): Promise<readonly RemoveEvent[]> {
  const record = await requireLocalImage(images, reference)
  const name = nameMeant(record, reference)
  if (name !== undefined && record.names.length > 1) {
    await images.untag(name)
    return [{ kind: 'untagged', name }]
  }
  const removed = await images.remove(record.id)
  if (!removed.removedImage) {
    return removed.untagged.map((untagged): RemoveEvent => ({ kind: 'untagged', name: untagged }))
  }
  return [
    ...removed.removedLayers.map((diffId): RemoveEvent => ({ kind: 'layer-removed', diffId })),
    { kind: 'image-removed', reference },
  ]
}

/** The name of the image that the user wrote; undefined when he gave an ID or a prefix of one. */
function nameMeant(record: ImageRecord, reference: string): string | undefined {
  const local = tryLocalName(reference)
  return record.names.find(
    (name) => name === reference || name === local || (local !== undefined && name === `localhost/${local}`),
  )
}

function asBuilderError(error: unknown): BuilderError {
  if (isBuilderError(error)) return error
  throw error
}
