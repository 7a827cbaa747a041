import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import type { ImageRecord } from '../../ports/image-store.js'
import type { LayerId, LayerRecord, LayerStore, Lease } from '../../ports/layer-store.js'
import type { LayerWorkers } from '../../ports/layer-worker.js'

/** A layer whose tar is known; sizes in bytes. */
export interface SavedLayer {
  readonly id: LayerId
  readonly directory: string
  readonly keepsHeaders: boolean
  readonly diffId: DiffId
  readonly size: number
}

interface SavingServices {
  readonly layers: LayerStore
  readonly workers: LayerWorkers
}

/**
 * The layers of an image, bottom first, with the sizes their tars will have; layers that were never hashed
 * are hashed now. They stay protected by the lease. Fails with ISB_IMAGE_DAMAGED.
 */
export async function layersToSave(
  image: ImageRecord,
  services: SavingServices,
  options: { readonly lease: Lease; readonly signal: AbortSignal },
): Promise<readonly SavedLayer[]> {
  const diffIds = image.config.rootfs.diff_ids
  const held = await services.layers.hold(
    image.layers.map((layer) => layer.id),
    options.lease,
  )
  if (held.length !== diffIds.length) {
    throw new BuilderError(
      'ISB_IMAGE_DAMAGED',
      `image ${image.id} has ${held.length} layers, its configuration says ${diffIds.length}`,
    )
  }
  const saved: SavedLayer[] = []
  for (const [i, record] of held.entries()) {
    const directory = services.layers.directory(record.id)
    const { diffId, tarSize } = await sealed(record, services, options)
    if (diffId !== diffIds[i]) {
      throw new BuilderError(
        'ISB_IMAGE_DAMAGED',
        `layer ${i + 1} of image ${image.id} is ${diffId}, its configuration says ${diffIds[i]}`,
      )
    }
    saved.push({ id: record.id, directory, keepsHeaders: record.keepsHeaders, diffId, size: tarSize })
  }
  return saved
}

async function sealed(
  record: LayerRecord,
  { layers, workers }: SavingServices,
  { signal }: { readonly signal: AbortSignal },
): Promise<Pick<SavedLayer, 'diffId'> & { readonly tarSize: number }> {
  if (record.diffId !== null && record.tarSize !== null) {
    return { diffId: record.diffId, tarSize: record.tarSize }
  }
  const upper = `${layers.directory(record.id)}/diff`
  const result = await workers.run('seal', { upper, fixedTime: undefined }, signal)
  await layers.setDiffId(record.id, result.diffId, result.tarSize)
  return result
}
