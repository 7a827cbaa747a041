import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { parseDigest } from '@isula-build/shared/oci/digest.js'
import type { ImageConfig } from '@isula-build/shared/oci/image-config.js'

/** What one image config may take, bytes; it lives in the database. */
export const configLimit = 4 * 1024 * 1024

function invalid(reason: string): never {
  throw new BuilderError('ISB_ARCHIVE_INVALID', `the image config ${reason}`)
}

/**
 * Decodes as much of a config as the store itself relies on: an object with `config` and a list of diff
 * IDs. Fails with ISB_LIMIT_EXCEEDED or ISB_ARCHIVE_INVALID.
 */
export function decodeStoredConfig(bytes: Uint8Array): ImageConfig {
  if (bytes.length > configLimit) {
    throw new BuilderError(
      'ISB_LIMIT_EXCEEDED',
      `the image config has ${bytes.length} bytes, ${configLimit} are allowed`,
    )
  }
  let parsed: unknown
  try {
    parsed = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8'))
  } catch (cause) {
    throw new BuilderError('ISB_ARCHIVE_INVALID', 'the image config is not JSON', { cause })
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) invalid('is not an object')
  const rootfs: unknown = 'rootfs' in parsed ? parsed.rootfs : undefined
  if (typeof rootfs !== 'object' || rootfs === null || !('diff_ids' in rootfs)) invalid('has no diff IDs')
  const diffIds: unknown = rootfs.diff_ids
  if (!Array.isArray(diffIds) || !diffIds.every((id) => parseDigest(id) !== undefined)) {
    invalid('has diff IDs that are not sha256 digests')
  }
  const image = parsed as ImageConfig
  // Images without any setting are written without the member by some tools.
  return image.config === undefined || image.config === null ? { ...image, config: {} } : image
}

/** Milliseconds since the epoch, undefined when absent or not a date. */
export function createdAt(config: ImageConfig): number | undefined {
  const time = typeof config.created === 'string' ? Date.parse(config.created) : Number.NaN
  return Number.isNaN(time) ? undefined : time
}
