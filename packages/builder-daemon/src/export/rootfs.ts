import { join } from 'node:path'
import { layersToSave } from '../core/images/saved-layers.js'
import type { ImageRecord } from '../ports/image-store.js'
import type { WriteRootfsResult } from '../ports/layer-worker.js'
import type { ArchiveOptions, ArchiveServices } from './archive-services.js'

/**
 * Writes the files of an image as a tar, without its configuration, to `fd` at its own offset: deletions applied,
 * entries sorted, later names of a file as hard links. Fails with ISB_IMAGE_DAMAGED, ISB_NO_SPACE, ISB_CANCELLED; what
 * was written is then of no use.
 */
export async function writeRootfs(
  record: ImageRecord,
  fd: number,
  services: Pick<ArchiveServices, 'layers' | 'workers'>,
  options: Pick<ArchiveOptions, 'lease' | 'signal'>,
): Promise<WriteRootfsResult> {
  const layers = await layersToSave(record, services, options)
  const lowers = layers.map(({ directory }) => join(directory, 'diff')).reverse()
  return await services.workers.run('writeRootfs', { lowers, fd }, options.signal)
}
