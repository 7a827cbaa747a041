import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { splitLocalName } from '@isula-build/shared/oci/local-name.js'
import type { ImageRecord, NewImage } from '../ports/image-store.js'
import type { ArchiveOptions, ArchiveServices } from './archive-services.js'
import type { ArchivedImage } from './archived-image.js'
import { throwIfAborted } from './descriptor-io.js'
import { storeLayers } from './load-layers.js'

export interface LoadedImage {
  /** 64 hex digits. */
  readonly id: string
  /** Names it got from the archive, in local form. */
  readonly names: readonly string[]
  readonly record: ImageRecord
}

/**
 * Unpacks all layers of all images, then stores the images in one transaction: when anything in the archive is wrong, no
 * image appears. Of a name that several have the last one gets it.
 */
export async function storeImages(
  images: readonly ArchivedImage[],
  services: ArchiveServices,
  options: ArchiveOptions,
): Promise<readonly LoadedImage[]> {
  const stacks = await storeLayers(images, services, options)
  throwIfAborted(options.signal)
  const refused = await refusedNames(images, services, options)
  const fresh = images.map(({ configBytes, names }, i): NewImage => {
    const layers = (stacks[i] ?? []).map((layer) => layer.id)
    const allowed = names.filter((name) => !refused.has(name))
    return { configBytes, layers, names: allowed, owner: options.owner }
  })
  const records = await services.images.putAll(fresh, options.lease)
  return records.map((record, i) => {
    options.onLog(`Copying config sha256:${record.id}`)
    options.onLog('Writing manifest to image destination')
    options.onLog('Storing signatures')
    return { id: record.id, names: fresh[i]?.names ?? [], record }
  })
}

/** Names win over IDs when an image is looked up, so one that reads like an ID here must not come in. */
async function refusedNames(
  images: readonly ArchivedImage[],
  services: ArchiveServices,
  { onLog }: ArchiveOptions,
): Promise<ReadonlySet<string>> {
  const names = new Set(images.flatMap((image) => image.names))
  const suspects = [...names].filter((name) => /^[0-9a-f]+$/.test(splitLocalName(name).repository))
  if (suspects.length === 0) return new Set()
  const ids = [
    ...(await services.images.list()).map((image) => image.id),
    ...images.map((image) => digestHex(digestOf(image.configBytes))),
  ]
  const refused = suspects.filter((name) => ids.some((id) => id.startsWith(splitLocalName(name).repository)))
  for (const name of refused) onLog(`[Warning] The name ${name} is left out: it would hide an image ID`)
  return new Set(refused)
}
