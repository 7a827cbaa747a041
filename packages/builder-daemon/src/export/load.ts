import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { openArchive } from './archive-file.js'
import { type ArchiveIndex, indexArchive } from './archive-index.js'
import type { ArchiveInput, ArchiveOptions, ArchiveServices } from './archive-services.js'
import type { ArchivedImage } from './archived-image.js'
import { readDockerArchive } from './docker-archive.js'
import { type LoadedImage, storeImages } from './load-images.js'
import { readOciLayout } from './oci-layout.js'

/**
 * Loads every image of a docker archive or an OCI layout, packed or not. Nothing is unpacked twice that the
 * store has. Fails with ISB_ARCHIVE_INVALID, ISB_DIGEST_MISMATCH, ISB_LIMIT_EXCEEDED, ISB_NO_SPACE,
 * ISB_PLATFORM_UNSUPPORTED, ISB_POLICY_REJECTED, ISB_CANCELLED; then no image was stored.
 */
export async function loadArchive(
  input: ArchiveInput,
  services: ArchiveServices,
  options: ArchiveOptions,
): Promise<readonly LoadedImage[]> {
  await using file = await orWrongFormat(() => openArchive(input, services, options))
  const index = await orWrongFormat(() => indexArchive(file, services.limits, options.signal))
  options.onLog('Getting image source signatures')
  return await storeImages(await readArchive(index, services, input.path), services, options)
}

/** What the archive holds, by either format. */
async function readArchive(
  index: ArchiveIndex,
  { limits, platform, admit }: Pick<ArchiveServices, 'limits' | 'platform' | 'admit'>,
  path: string,
): Promise<readonly ArchivedImage[]> {
  const docker = await readDockerArchive(index, limits)
  if (docker !== undefined) {
    admit?.('docker-archive', path)
    return docker
  }
  const oci = await readOciLayout(index, limits, platform)
  if (oci === undefined) {
    throw wrongFormat('manifest.json is not in the archive', 'index.json is not in the archive')
  }
  admit?.('oci-archive', path)
  return oci
}

async function orWrongFormat<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read()
  } catch (error) {
    if (!isBuilderError(error, 'ISB_ARCHIVE_INVALID')) throw error
    throw wrongFormat(error.message, error.message).with(error.details)
  }
}

/** The text is the original's. */
function wrongFormat(docker: string, oci: string): BuilderError {
  return new BuilderError(
    'ISB_ARCHIVE_INVALID',
    `wrong image format detected from local tarball: try docker format: ${docker},try oci format: ${oci}`,
  )
}
