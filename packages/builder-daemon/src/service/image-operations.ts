import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { encodeList } from '../core/image/list-document.js'
import { localNames, tryLocalName } from '../core/images/names.js'
import { requireLocalImage, resolveLocalImage } from '../core/images/resolve.js'
import { findLocalList } from '../core/transfer/local-lists.js'
import type { Caller } from '../ports/caller.js'
import type { ImageRecord, ImageStore, ImageSummary } from '../ports/image-store.js'
import type { ManifestList, ManifestListStore } from '../ports/manifest-lists.js'
import type { RemoveEvent, RemoveRequest } from '../rpc/handlers.js'
import { ownedImages } from './owned-images.js'

/** What the store holds under names and IDs. */
export interface NamedThings {
  readonly images: ImageStore
  readonly lists: ManifestListStore
}

/** Gives an image, or a list, one more name. */
export async function tagImage(
  { images, lists }: NamedThings,
  image: string,
  name: string,
  caller: Caller,
): Promise<void> {
  const [local] = localNames([name])
  if (local === undefined) throw new Error('one name in, one name out')
  const list = await findLocalList(image, { images, lists })
  if (list !== undefined) {
    if (list.name !== local) await lists.put({ ...list, name: local, owner: caller.uid }, 'replace')
    return
  }
  const record = await requireLocalImage(images, image)
  await ownedImages(images, caller).tag(record.id, local)
}

/** Images, and lists as images that consist of their document alone. */
export async function listImages(
  images: ImageStore,
  lists: ManifestListStore,
): Promise<readonly ImageSummary[]> {
  const documents = (await lists.all()).map(({ id, name, createdAt, owner, ...list }): ImageSummary => {
    const { descriptor } = encodeList(list.format, list.entries, list.annotations)
    return { id, names: [name], createdAt, size: descriptor.size, owner }
  })
  return documents.length === 0 ? await images.list() : [...documents, ...(await images.list())]
}

/**
 * Removes by name, ID or prefix. A name goes alone while its image has others; an ID takes all names. Of a list the
 * images stay. One image failing is an event and does not stop the others.
 */
export async function* removeImages(
  { images, lists }: NamedThings,
  request: RemoveRequest,
  caller: Caller,
  signal: AbortSignal,
): AsyncIterable<RemoveEvent> {
  const owned = ownedImages(images, caller)
  for (const reference of await references({ images, lists }, request, caller)) {
    signal.throwIfAborted()
    try {
      const list = await listMeant(reference, { images, lists })
      if (list === undefined) yield* await removeOne(owned, reference)
      else if (await lists.remove(list.name, caller.uid)) yield { kind: 'image-removed', reference }
      else throw new BuilderError('ISB_IMAGE_NOT_FOUND', `image "${reference}" not found in local store`)
    } catch (error) {
      yield { kind: 'failed', reference, error: asBuilderError(error) }
    }
  }
}

/** Lists before the images that they hold on to. */
async function references(
  { images, lists }: NamedThings,
  request: RemoveRequest,
  caller: Caller,
): Promise<readonly string[]> {
  if (request.kind === 'named') return request.references
  const isMine = ({ owner }: { readonly owner: number }): boolean => caller.uid === 0 || owner === caller.uid
  const everyList = await lists.all()
  const mine = (await images.list()).filter(isMine)
  if (request.kind === 'all') {
    return [...everyList.filter(isMine).map(({ name }) => name), ...mine.map(({ id }) => id)]
  }
  const listed = new Set(everyList.flatMap(({ entries }) => entries.map(({ origin }) => localId(origin))))
  return mine.filter(({ id, names }) => names.length === 0 && !listed.has(id)).map(({ id }) => id)
}

function localId(origin: ManifestList['entries'][number]['origin']): string | undefined {
  return origin.kind === 'local' ? origin.imageId : undefined
}

/** By name, else, where no image is meant, by ID or a prefix of it. */
async function listMeant(
  reference: string,
  { images, lists }: NamedThings,
): Promise<ManifestList | undefined> {
  const named = await findLocalList(reference, { images, lists })
  if (named !== undefined) return named
  const hex = reference.replace(/^sha256:/, '')
  if (!/^[0-9a-f]{1,64}$/.test(hex)) return undefined
  const found = (await lists.all()).filter(({ id }) => id.startsWith(hex))
  if (found.length === 0 || (await resolveLocalImage(images, reference)) !== undefined) return undefined
  if (found.length === 1) return found[0]
  throw new BuilderError('ISB_REFERENCE_INVALID', `image ID prefix "${reference}" is ambiguous`, {
    hint: 'Give more digits of the image ID, or a name.',
  })
}

async function removeOne(images: ImageStore, reference: string): Promise<readonly RemoveEvent[]> {
  const record = await requireLocalImage(images, reference)
  // Whether the name is the only one is seen in the transaction: others may be given meanwhile.
  const removed = await images.remove(record.id, undefined, nameMeant(record, reference))
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
