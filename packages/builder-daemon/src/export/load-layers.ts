import { parentKey } from '@isula-build/shared/oci/chain-id.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import { inParallel } from '../core/images/in-parallel.js'
import type { LayerRecord } from '../ports/layer-store.js'
import type { ArchiveOptions, ArchiveServices } from './archive-services.js'
import type { ArchivedImage, ArchivedLayer } from './archived-image.js'
import { throwIfAborted } from './descriptor-io.js'

/** Layers being looked up, unpacked and published at the same time. */
const parallelLayers = 8

/** A layer at its place in an image, or in several that begin alike. */
interface PlacedLayer {
  readonly layer: ArchivedLayer
  /** Names the layers below. */
  readonly key: string
  readonly below: PlacedLayer | undefined
  /** The same content at another place, or at another height. */
  readonly before: PlacedLayer | undefined
  stored: Promise<LayerRecord> | undefined
}

interface Context {
  readonly services: ArchiveServices
  readonly options: ArchiveOptions
}

/**
 * Stores the layers of all images, those that are not here yet; gives each image's, bottom first. They are unpacked side
 * by side, each without those below it; only where these turn out to matter it is done again over them. The first failure
 * stops the rest and is thrown once all are still.
 */
export async function storeLayers(
  images: readonly ArchivedImage[],
  services: ArchiveServices,
  options: ArchiveOptions,
): Promise<readonly (readonly LayerRecord[])[]> {
  const { places, tops } = arrange(images)
  const stop = new AbortController()
  const signal = AbortSignal.any([options.signal, stop.signal])
  const context = { services, options: { ...options, signal } }
  // Whatever a place waits for comes before it, so it has been begun.
  await inParallel(places, parallelLayers, async (place) => {
    place.stored = storeLayer(place, context)
    try {
      await place.stored
    } catch (error) {
      stop.abort()
      throw error
    }
  })
  return await Promise.all(tops.map(recordsUpTo))
}

/** Every different place once, lower ones first. */
function arrange(images: readonly ArchivedImage[]): {
  readonly places: readonly PlacedLayer[]
  readonly tops: readonly (PlacedLayer | undefined)[]
} {
  const places = new Map<string, PlacedLayer>()
  const lastOf = new Map<DiffId, PlacedLayer>()
  const tops = images.map(({ layers }) => {
    const diffIds: DiffId[] = []
    let key = parentKey(diffIds)
    let below: PlacedLayer | undefined
    for (const layer of layers) {
      diffIds.push(layer.diffId)
      const chain = parentKey(diffIds)
      const before = lastOf.get(layer.diffId)
      const place = places.get(chain) ?? { layer, key, below, before, stored: undefined }
      places.set(chain, place)
      lastOf.set(layer.diffId, place)
      below = place
      key = chain
    }
    return below
  })
  return { places: [...places.values()], tops }
}

async function recordsUpTo(top: PlacedLayer | undefined): Promise<readonly LayerRecord[]> {
  const records: LayerRecord[] = []
  for (let place = top; place !== undefined; place = place.below) {
    const record = await place.stored
    if (record === undefined) throw new Error(`nobody began with layer ${place.layer.diffId}`)
    records.push(record)
  }
  return records.reverse()
}

async function storeLayer(place: PlacedLayer, context: Context): Promise<LayerRecord> {
  const { layer, key, below, before } = place
  const { services, options } = context
  await before?.stored
  throwIfAborted(options.signal)
  const existing = await services.layers.findByDiffId(layer.diffId, key, options.lease, 'names')
  if (existing !== undefined) {
    options.onLog(`Copying blob ${layer.diffId} skipped: already exists`)
    return existing
  }
  options.onLog(`Copying blob ${layer.blob ?? layer.diffId}`)
  const alone = await unpack(place, below === undefined ? [] : undefined, context)
  if (alone !== undefined) return alone
  const records = await recordsUpTo(below)
  const stacked = await unpack(place, lowersOf(records, services), context)
  if (stacked === undefined) throw new Error(`layer ${layer.diffId} asks for more than the layers below it`)
  return stacked
}

/** Top first. Overlayfs takes no directory twice; of a layer that is there twice only the upper one shows. */
function lowersOf(bottomFirst: readonly LayerRecord[], { layers }: ArchiveServices): readonly string[] {
  return [...new Set(bottomFirst.map(({ id }) => `${layers.directory(id)}/diff`).reverse())]
}

/** undefined when the layers below matter and are not given. */
async function unpack(
  { layer, key }: PlacedLayer,
  lowers: readonly string[] | undefined,
  { services: { layers, workers, limits }, options }: Context,
): Promise<LayerRecord | undefined> {
  const { diffId, member, blob } = layer
  throwIfAborted(options.signal)
  const staging = await layers.stage(options.lease)
  try {
    const applied = await workers.run(
      'apply',
      {
        fd: member.fd,
        range: { offset: member.offset, length: member.size },
        upper: staging.upper,
        lowers,
        headersFile: `${staging.root}/headers.gz`,
        limit: limits.layer,
        expectedDiffId: diffId,
        expectedDigest: blob === diffId ? undefined : blob,
      },
      options.signal,
    )
    if (applied !== undefined) {
      const { tarSize, usedParents } = applied
      const sealed = { diffId, tarSize, keepsHeaders: true, parentKey: usedParents ? key : null }
      return await layers.publish(staging, sealed, options.lease)
    }
  } catch (error) {
    await layers.abandon(staging)
    throw error
  }
  await layers.abandon(staging)
  return undefined
}
