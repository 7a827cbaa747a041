import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { parentKey } from '@isula-build/shared/oci/chain-id.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import { splitLocalName } from '@isula-build/shared/oci/local-name.js'
import { inParallel } from '../core/images/in-parallel.js'
import type { ImageRecord } from '../ports/image-store.js'
import type { LayerRecord } from '../ports/layer-store.js'
import type { ArchiveOptions, ArchiveServices } from './archive-services.js'
import type { ArchivedImage, ArchivedLayer } from './archived-image.js'
import { throwIfAborted } from './descriptor-io.js'

export interface LoadedImage {
  /** 64 hex digits. */
  readonly id: string
  /** Names it got from the archive, in local form. */
  readonly names: readonly string[]
  readonly record: ImageRecord
}

/** Layers being unpacked, by the chain they end, so that images share the work. */
type Running = Map<string, Promise<LayerRecord>>

const parallelImages = 4

/**
 * Unpacks all layers of all images, then stores the images, each in one transaction: when anything in the
 * archive is wrong, no image appears.
 */
export async function storeImages(
  images: readonly ArchivedImage[],
  services: ArchiveServices,
  options: ArchiveOptions,
): Promise<readonly LoadedImage[]> {
  const running: Running = new Map()
  const stacks = await inParallel(images, parallelImages, (image) =>
    storeLayers(image, { running, services, options }),
  )
  const loaded: LoadedImage[] = []
  for (const [i, image] of images.entries()) {
    throwIfAborted(options.signal)
    loaded.push(await storeImage(image, stacks[i] ?? [], services, options))
  }
  return loaded
}

async function storeImage(
  image: ArchivedImage,
  layers: readonly LayerRecord[],
  services: ArchiveServices,
  options: ArchiveOptions,
): Promise<LoadedImage> {
  const names = await allowedNames(image.names, services, options)
  const record = await services.images.put(
    {
      configBytes: image.configBytes,
      layers: layers.map((layer) => layer.id),
      names,
      owner: options.owner,
    },
    options.lease,
  )
  options.onLog(`Copying config sha256:${record.id}`)
  options.onLog('Writing manifest to image destination')
  options.onLog('Storing signatures')
  return { id: record.id, names, record }
}

/** Names win over IDs when an image is looked up, so one that reads like an ID here must not come in. */
async function allowedNames(
  names: readonly string[],
  { images }: ArchiveServices,
  { onLog }: ArchiveOptions,
): Promise<readonly string[]> {
  const suspects = names.filter((name) => /^[0-9a-f]+$/.test(splitLocalName(name).repository))
  if (suspects.length === 0) return names
  const ids = (await images.list()).map((image) => image.id)
  const refused = suspects.filter((name) => ids.some((id) => id.startsWith(splitLocalName(name).repository)))
  for (const name of refused) onLog(`[Warning] The name ${name} is left out: it would hide an image ID`)
  return names.filter((name) => !refused.includes(name))
}

async function storeLayers(
  image: ArchivedImage,
  context: { running: Running; services: ArchiveServices; options: ArchiveOptions },
): Promise<readonly LayerRecord[]> {
  const records: LayerRecord[] = []
  const below: DiffId[] = []
  for (const layer of image.layers) {
    const parents = [...below]
    below.push(layer.diffId)
    const chain = parentKey(below)
    const work =
      context.running.get(chain) ?? storeLayer(layer, { ...context, parents, records: [...records] })
    context.running.set(chain, work)
    records.push(await work)
  }
  return records
}

async function storeLayer(
  layer: ArchivedLayer,
  context: {
    readonly services: ArchiveServices
    readonly options: ArchiveOptions
    readonly parents: readonly DiffId[]
    readonly records: readonly LayerRecord[]
  },
): Promise<LayerRecord> {
  const { services, options, parents, records } = context
  const { layers, workers, limits } = services
  throwIfAborted(options.signal)
  const key = parentKey(parents)
  const existing = await layers.findByDiffId(layer.diffId, key, options.lease)
  if (existing !== undefined) {
    options.onLog(`Copying blob ${layer.diffId} skipped: already exists`)
    return existing
  }
  options.onLog(`Copying blob ${layer.blob ?? layer.diffId}`)
  const range = { offset: layer.member.offset, length: layer.member.size }
  if (layer.blob !== undefined && layer.blob !== layer.diffId) {
    const { digest } = await workers.run('digest', { fd: layer.member.fd, range }, options.signal)
    if (digest !== layer.blob) {
      throw new BuilderError(
        'ISB_DIGEST_MISMATCH',
        `layer ${layer.blob} in the archive has the digest ${digest}`,
      )
    }
  }
  const staging = await layers.stage(options.lease)
  try {
    const applied = await workers.run(
      'apply',
      {
        fd: layer.member.fd,
        range,
        upper: staging.upper,
        lowers: lowersOf(records.map((record) => `${layers.directory(record.id)}/diff`)),
        headersFile: `${staging.root}/headers.gz`,
        limit: limits.layer,
        expectedDiffId: layer.diffId,
      },
      options.signal,
    )
    const sealed = {
      diffId: applied.diffId,
      tarSize: applied.tarSize,
      keepsHeaders: true,
      parentKey: applied.usedParents ? key : null,
    }
    return await layers.publish(staging, sealed, options.lease)
  } catch (error) {
    await layers.abandon(staging)
    throw error
  }
}

/** Top first. Overlayfs takes no directory twice; of a layer that is there twice only the upper one shows. */
function lowersOf(bottomFirst: readonly string[]): readonly string[] {
  return [...new Set([...bottomFirst].reverse())]
}
