import { rm } from 'node:fs/promises'
import { parentKey } from '@isula-build/shared/oci/chain-id.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import type { ImageConfig } from '@isula-build/shared/oci/image-config.js'
import type { LayerRecord } from '../ports/layer-store.js'
import { type ArchiveFile, openStored } from './archive-file.js'
import type { ArchiveInput, ArchiveOptions, ArchiveServices } from './archive-services.js'
import { statDescriptor } from './descriptor-io.js'
import type { LoadedImage } from './load-images.js'

/** The file as given, compressed or not, with the time the image is said to be made. */
interface ImportFile extends ArchiveFile {
  readonly created: string
}

/**
 * Makes an image of one layer from the tar of a root file system, plain or compressed (gzip, xz, bzip2,
 * zstd). `name` is in local form. Fails with ISB_LIMIT_EXCEEDED above 1 GiB as given, ISB_ARCHIVE_INVALID,
 * ISB_NO_SPACE, ISB_CANCELLED.
 */
export async function importRootfs(
  input: ArchiveInput & { readonly name: string | undefined },
  services: ArchiveServices,
  options: ArchiveOptions,
): Promise<LoadedImage> {
  await using file = await openImport(input, services, options)
  options.onLog('Getting image source signatures')
  const { layer, diffId } = await unpack(file, services, options)
  options.onLog(`Copying blob ${diffId}`)
  const config: ImageConfig = {
    created: file.created,
    architecture: services.platform.architecture,
    ...(services.platform.variant === undefined ? {} : { variant: services.platform.variant }),
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: [diffId] },
    history: [{ created: file.created, comment: 'imported from tarball' }],
  }
  const names = input.name === undefined ? [] : [input.name]
  const record = await services.images.put(
    {
      configBytes: Buffer.from(JSON.stringify(config)),
      layers: [layer.id],
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

async function openImport(
  input: ArchiveInput,
  services: ArchiveServices,
  options: ArchiveOptions,
): Promise<ImportFile> {
  const stored = await openStored(input, services.limits.importFile, { services, options })
  if ('fd' in input && stored.fd === input.fd) {
    const { mtimeNs } = await statDescriptor(input.fd, { bigint: true })
    return { ...stored, created: formatNanoseconds(mtimeNs) }
  }
  return { ...stored, created: new Date(services.clock.now()).toISOString() }
}

async function unpack(
  file: ArchiveFile,
  services: ArchiveServices,
  options: ArchiveOptions,
): Promise<{ readonly layer: LayerRecord; readonly diffId: DiffId }> {
  const { layers, workers, limits } = services
  const staging = await layers.stage(options.lease)
  const headersFile = `${staging.root}/headers.gz`
  let staged = true
  try {
    const applied = await workers.run(
      'apply',
      {
        fd: file.fd,
        range: { offset: 0, length: file.size },
        upper: staging.upper,
        lowers: [],
        headersFile,
        limit: limits.layer,
        expectedDiffId: undefined,
        findRepeats: true,
      },
      options.signal,
    )
    if (applied === undefined) throw new Error('a layer without any below it asks for them')
    // No other tool takes a layer that has a path twice, as `tar --append` makes it; this one is ours to write.
    const { upper } = staging
    if (applied.repeats) await rm(headersFile)
    const { diffId, tarSize } = applied.repeats
      ? await workers.run('seal', { upper, fixedTime: undefined }, options.signal)
      : applied
    const key = parentKey([])
    const existing = await layers.findByDiffId(diffId, key, options.lease, 'has')
    if (existing !== undefined) return { layer: existing, diffId }
    const isAlone = applied.repeats || !applied.usedParents
    const sealed = { diffId, tarSize, keepsHeaders: !applied.repeats, parentKey: isAlone ? null : key }
    const layer = await layers.publish(staging, sealed, options.lease)
    staged = false
    return { layer, diffId }
  } finally {
    if (staged) await layers.abandon(staging)
  }
}

/** RFC 3339 with as many digits as the time has, as Go writes it. */
function formatNanoseconds(nanoseconds: bigint): string {
  const second = 1_000_000_000n
  const fraction = ((nanoseconds % second) + second) % second
  const seconds = new Date(Number((nanoseconds - fraction) / 1_000_000n))
    .toISOString()
    .slice(0, -'.000Z'.length)
  const digits = fraction.toString().padStart(9, '0').replace(/0+$/, '')
  return digits === '' ? `${seconds}Z` : `${seconds}.${digits}Z`
}
