import { close } from 'node:fs'
import { promisify } from 'node:util'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestHex } from '@isula-build/shared/oci/digest.js'
import { localName } from '@isula-build/shared/oci/local-name.js'
import type { ArchiveDirectory } from './archive-directory.js'
import { type ArchiveFile, checkSize, openArchive } from './archive-file.js'
import { type ArchiveIndex, indexArchive, mergeIndexes } from './archive-index.js'
import type { ArchiveOptions, ArchiveServices } from './archive-services.js'
import { readAt, statDescriptor } from './descriptor-io.js'
import { readDockerArchive } from './docker-archive.js'
import { type LoadedImage, storeImages } from './load-images.js'
import {
  decodeSeparatedEntry,
  type SeparatedEntry,
  separatedJsonLimit,
  separatedManifestFile,
} from './separated-manifest.js'

export interface SeparatedLoadRequest {
  /** Holds `manifest` and the files it names. */
  readonly directory: ArchiveDirectory
  /** `APP:TAG` as the user wrote it. */
  readonly app: string
  /** Instead of the files that `manifest` names; the caller closes them. */
  readonly base: OpenedTarball | undefined
  readonly lib: OpenedTarball | undefined
  /** Compare each file with the hash in `manifest`. */
  readonly check: boolean
}

export interface OpenedTarball {
  readonly fd: number
  readonly path: string
}

const closeDescriptor = promisify(close)

/**
 * Loads one app of a separated save with its base and, where it has one, its lib. Fails with
 * ISB_ARGUMENT_INVALID, ISB_IMAGE_NOT_FOUND, ISB_DIGEST_MISMATCH and as `loadArchive` does.
 */
export async function loadSeparated(
  request: SeparatedLoadRequest,
  services: ArchiveServices,
  options: ArchiveOptions,
): Promise<readonly LoadedImage[]> {
  if (request.app === '')
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'app image name(-i) should not be empty')
  const entry = decodeSeparatedEntry(await readManifest(request.directory), localName(request.app))
  const tarballs = await openTarballs(request, entry)
  const files: ArchiveFile[] = []
  try {
    const indexes: ArchiveIndex[] = []
    for (const tarball of tarballs) {
      if (request.check) await checkHash(tarball, services, options)
      const file = await openArchive(tarball, services, options)
      files.push(file)
      indexes.push(await indexArchive(file, services.limits, options.signal))
    }
    const images = await readDockerArchive(mergeIndexes(indexes), services.limits)
    if (images === undefined) {
      throw new BuilderError('ISB_ARCHIVE_INVALID', `manifest.json is not in the app tarball ${entry.app}`)
    }
    services.admit?.('docker-archive', request.directory.path)
    options.onLog('Getting image source signatures')
    return await storeImages(images, services, options)
  } finally {
    for (const file of files) await file[Symbol.asyncDispose]()
    await closeOwned(tarballs)
  }
}

/** One of the files of the image, with the hash it should have. */
interface Tarball extends OpenedTarball {
  readonly hash: string
  readonly owned: boolean
}

async function readManifest(directory: ArchiveDirectory): Promise<Uint8Array> {
  const path = `${directory.path}/${separatedManifestFile}`
  const fd = await directory.openRead(separatedManifestFile)
  try {
    const { size } = await statDescriptor(fd)
    checkSize(path, size, separatedJsonLimit)
    return await readAt(fd, 0, size)
  } finally {
    await closeDescriptor(fd)
  }
}

/** Base first, app last, so that the app's documents are the ones that count. */
async function openTarballs(
  { directory, base, lib }: SeparatedLoadRequest,
  entry: SeparatedEntry,
): Promise<readonly Tarball[]> {
  const wanted = [
    { given: base, name: entry.base, hash: entry.baseHash },
    ...(entry.lib === undefined && lib === undefined
      ? []
      : [{ given: lib, name: entry.lib ?? '', hash: entry.libHash ?? '' }]),
    { given: undefined, name: entry.app, hash: entry.appHash },
  ]
  const tarballs: Tarball[] = []
  try {
    for (const { given, name, hash } of wanted) {
      if (given !== undefined) tarballs.push({ ...given, hash, owned: false })
      else {
        const fd = await directory.openRead(name)
        tarballs.push({ fd, path: `${directory.path}/${name}`, hash, owned: true })
      }
    }
    await refuseSameFile(tarballs)
    return tarballs
  } catch (error) {
    await closeOwned(tarballs)
    throw error
  }
}

async function closeOwned(tarballs: readonly Tarball[]): Promise<void> {
  for (const tarball of tarballs) if (tarball.owned) await closeDescriptor(tarball.fd)
}

async function refuseSameFile(tarballs: readonly Tarball[]): Promise<void> {
  const files = new Set<string>()
  for (const { fd, path } of tarballs) {
    const stat = await statDescriptor(fd)
    if (!stat.isFile()) throw new BuilderError('ISB_ARCHIVE_INVALID', `${path} should be a regular file`)
    files.add(`${stat.dev}:${stat.ino}`)
  }
  if (files.size < tarballs.length) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'base and lib tarballs are the same')
  }
}

async function checkHash(
  { fd, path, hash }: Tarball,
  { workers, limits }: ArchiveServices,
  { signal }: ArchiveOptions,
): Promise<void> {
  const { size } = await statDescriptor(fd)
  checkSize(path, size, limits.archive)
  const { digest } = await workers.run('digest', { fd, range: { offset: 0, length: size } }, signal)
  const actual = digestHex(digest)
  if (actual !== hash) {
    throw new BuilderError(
      'ISB_DIGEST_MISMATCH',
      `check sum for path ${path} failed, got ${actual}, want ${hash}`,
    )
  }
}
