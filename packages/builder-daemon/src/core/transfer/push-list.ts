import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestFromHex } from '@isula-build/shared/oci/digest.js'
import type { ManifestFormat } from '@isula-build/shared/oci/media-types.js'
import type { ImageRecord } from '../../ports/image-store.js'
import type { ListEntry, ManifestList } from '../../ports/manifest-lists.js'
import type { Endpoint } from '../../ports/registry.js'
import { describeEntry, encodeList } from '../image/list-document.js'
import { decodeManifestDocument } from '../image/manifest-document.js'
import { throwIfCancelled } from './cancelled.js'
import { fromRegistry } from './choose.js'
import { copyImage } from './copy-image.js'
import { nameOf, registryCall } from './locate.js'
import { pushImage } from './push.js'
import type { PushedManifest, PushShape, TransferCall, TransferServices } from './transfer.js'

export interface ListDestination {
  readonly endpoint: Endpoint
  readonly tag: string
  /** Canonical name that the user knows the endpoint by. */
  readonly name: string
}

export interface ListShape extends Omit<PushShape, 'format'> {
  /** undefined: as the list was made. */
  readonly format: ManifestFormat | undefined
  /** Also the images; without it the destination must have them already. */
  readonly all: boolean
}

/**
 * Makes a list appear at the destination: first its images, then the list with the digests they have there. Images of a
 * registry are copied as they are, images of this store pushed. Fails, naming the entry, with what pushes fail with,
 * and with ISB_IMAGE_NOT_FOUND for an image that is neither there nor to be pushed.
 */
export async function pushList(
  list: Pick<ManifestList, 'name' | 'format' | 'entries' | 'annotations'>,
  to: ListDestination,
  shape: ListShape,
  services: TransferServices,
  call: TransferCall,
): Promise<PushedManifest> {
  const format = shape.format ?? list.format
  const pushed: ListEntry[] = []
  for (const [i, entry] of list.entries.entries()) {
    throwIfCancelled(call.signal)
    const shown = describeEntry(entry)
    call.onLog(`Copying image ${shown} (${i + 1}/${list.entries.length})`)
    try {
      const { digest, size, mediaType } = await pushEntry(entry, to, { ...shape, format }, services, call)
      pushed.push({ ...entry, digest, size, mediaType })
    } catch (error) {
      if (!isBuilderError(error) || error.code === 'ISB_CANCELLED') throw error
      const message = `image ${shown} of manifest list "${list.name}": ${error.message}`
      throw new BuilderError(error.code, message, { ...error.details, cause: error })
    }
  }
  const { bytes, descriptor } = encodeList(format, pushed, list.annotations)
  const { digest, size, mediaType } = descriptor
  call.onLog('Writing manifest list to image destination')
  await services.client.putManifest(to.endpoint, to.tag, { mediaType, bytes }, registryCall(call))
  call.onLog('Storing list signatures')
  for (const { origin } of list.entries) {
    if (origin.kind === 'local') await services.memory.rememberDigest(to.name, digest, origin.imageId)
  }
  return { digest, size, mediaType }
}

async function pushEntry(
  entry: ListEntry,
  to: ListDestination,
  shape: ListShape,
  services: TransferServices,
  call: TransferCall,
): Promise<PushedManifest> {
  const { origin, digest, size, mediaType } = entry
  if (origin.kind === 'remote') {
    if (shape.all) return await copyImage({ name: origin.name, digest, size }, to, services, call)
    const head = await services.client.manifestHead(to.endpoint, digest, registryCall(call))
    if (head !== undefined) return { digest, size, mediaType }
    throw notThere(to)
  }
  const record = await localImage(origin.imageId, services, call)
  if (!shape.all) return await findPushed(record, to, services, call)
  const { endpoint, name } = to
  return await pushImage(record, { endpoint, name, reference: undefined }, shape, services, call)
}

async function localImage(
  id: string,
  { images }: TransferServices,
  { lease }: TransferCall,
): Promise<ImageRecord> {
  const record = await images.resolve(id, lease)
  if (record?.id === id) return record
  throw new BuilderError('ISB_IMAGE_NOT_FOUND', `image ${id.slice(0, 12)} is not in the local store any more`)
}

/** The manifest under which this image was pushed there before. */
async function findPushed(
  record: ImageRecord,
  to: ListDestination,
  { client, memory }: TransferServices,
  call: TransferCall,
): Promise<PushedManifest> {
  const { endpoint } = to
  for (const digest of await memory.digestsOf(record.id, to.name)) {
    if ((await client.manifestHead(endpoint, digest, registryCall(call))) === undefined) continue
    const { bytes, mediaType } = await client.manifest(endpoint, digest, registryCall(call))
    try {
      const what = `manifest ${digest} of ${nameOf(endpoint)}`
      const document = decodeManifestDocument(bytes, what, mediaType || undefined)
      if (document.kind === 'index' || document.config.digest !== digestFromHex(record.id)) continue
    } catch (error) {
      throw fromRegistry(error)
    }
    return { digest, size: bytes.length, mediaType }
  }
  throw notThere(to)
}

function notThere({ name }: ListDestination): BuilderError {
  return new BuilderError('ISB_IMAGE_NOT_FOUND', `${name} does not have it`, {
    hint: 'Push the list with --all, which pushes its images too.',
  })
}
