import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { type Digest, digestFromHex } from '@isula-build/shared/oci/digest.js'
import { decodeImageConfig } from '@isula-build/shared/oci/image-config-decode.js'
import { arrayOf, decodeJson, objectOf, optional } from '@isula-build/shared/oci/json-document.js'
import {
  isIndexMediaType,
  isManifestMediaType,
  type ManifestFormat,
} from '@isula-build/shared/oci/media-types.js'
import { canonicalName, parseReference, tryParseReference } from '@isula-build/shared/oci/reference.js'
import type { ImageRecord } from '../../ports/image-store.js'
import type { ListEntry, ListPlatform } from '../../ports/manifest-lists.js'
import type { RemoteManifest } from '../../ports/registry.js'
import { decodeListPlatform, listPlatform } from '../image/list-document.js'
import { encodeManifest } from '../image/manifest.js'
import { decodeManifestDocument, isAttestation } from '../image/manifest-document.js'
import { imageLimits } from '../images/image-limits.js'
import { layersToSave } from '../images/saved-layers.js'
import { fromRegistry } from './choose.js'
import { createDocumentBudget } from './document-budget.js'
import { findLocalImage, type LocalImage } from './local-image.js'
import { findLocalList } from './local-lists.js'
import {
  candidatesOf,
  firstThat,
  type LocatedImage,
  locateImage,
  mayBeElsewhere,
  nameOf,
  registryCall,
  withoutPatience,
  withoutTransport,
} from './locate.js'
import type { TransferCall, TransferServices } from './transfer.js'

/** Indexes inside indexes, and entries of one list. */
const maxDepth = 4
const maxEntries = 256

export interface FindingEntries {
  /** Every image of a text that means a list; without it such a text is refused. */
  readonly all: boolean
  /** Of the manifests that images of this store get. */
  readonly format: ManifestFormat
}

/**
 * What a list says of the image a user means. An image of this store comes first, unless `docker://` stands before the
 * name; where a registry has the very same image, its manifest there counts. Else it is what a registry has. Fails with
 * ISB_ARGUMENT_INVALID for a list, and as pulls do.
 */
export async function findEntries(
  text: string,
  finding: FindingEntries,
  services: TransferServices,
  call: TransferCall,
): Promise<readonly ListEntry[]> {
  if (withoutTransport(text) === text) {
    const list = await findLocalList(text, services)
    if (list !== undefined) {
      if (!finding.all) throw isList(text)
      return list.entries
    }
    const local = await findHere(text, services, call)
    if (local !== undefined) {
      const names = repositoriesOf(local, text, services)
      const isPartOf = finding.all && (await hasDigests(local.record, names, services))
      if (!isPartOf) {
        const published = await publishedEntry(local.record, names, services, call)
        return [published ?? (await localEntry(local.record, finding.format, services, call))]
      }
    }
  }
  const image = await locateImage(text, services, call)
  const entries = await remoteEntries(image, text, finding.all, services, call)
  if (entries.length > 0) return entries
  throw new BuilderError('ISB_MANIFEST_INVALID', `${nameOf(image.endpoint)} has a list without any image`)
}

/** The image of this store that the text means. */
export function findHere(
  text: string,
  services: TransferServices,
  { lease }: Pick<TransferCall, 'lease'>,
): Promise<LocalImage | undefined> {
  return findLocalImage(text, services, { platform: services.platform, lease, by: 'names and IDs' })
}

/** An image of this store with the manifest that it has uncompressed. */
export async function localEntry(
  record: ImageRecord,
  format: ManifestFormat,
  services: Pick<TransferServices, 'layers' | 'workers'>,
  call: Pick<TransferCall, 'lease' | 'signal'>,
): Promise<ListEntry> {
  const layers = await layersToSave(record, services, call)
  const { descriptor } = encodeManifest(format, {
    config: { digest: digestFromHex(record.id), size: record.configBytes.length },
    layers: layers.map(({ diffId, size }) => ({ digest: diffId, size, compression: 'none' })),
  })
  const { digest, size, mediaType } = descriptor
  const origin = { kind: 'local', imageId: record.id } as const
  return { digest, size, mediaType, platform: platformOfConfig(record.config), origin }
}

function isList(text: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', `${text} is a manifest list`, {
    hint: 'Name one image of it by its digest, or ask for all of them with --all.',
  })
}

function platformOfConfig(config: ImageRecord['config']): ListPlatform {
  const { os, architecture, variant } = config
  return listPlatform({
    ...{ os, architecture, variant },
    osVersion: config['os.version'],
    osFeatures: config['os.features'],
  })
}

/** Where the image may have come from. */
function repositoriesOf({ name }: LocalImage, text: string, services: TransferServices): readonly string[] {
  if (name !== undefined) return [canonicalName(name)]
  const isDigest = tryParseReference(text)?.digest !== undefined
  return isDigest ? candidatesOf(text, services).map(canonicalName) : []
}

async function hasDigests(
  { id }: ImageRecord,
  repositories: readonly string[],
  { memory }: TransferServices,
): Promise<boolean> {
  for (const name of repositories) if ((await memory.digestsOf(id, name)).length > 0) return true
  return false
}

/** The same image at a registry, if it is still there under a digest that is known. */
async function publishedEntry(
  record: ImageRecord,
  repositories: readonly string[],
  services: TransferServices,
  call: TransferCall,
): Promise<ListEntry | undefined> {
  for (const name of repositories) {
    for (const digest of await services.memory.digestsOf(record.id, name)) {
      const manifest = await askFor(name, digest, services, call)
      if (manifest === undefined) continue
      const document = decode(manifest, `manifest ${digest} of ${name}`, manifest.mediaType)
      if (document.kind === 'index' || document.config.digest !== digestFromHex(record.id)) continue
      return {
        ...{ digest, size: manifest.bytes.length, mediaType: manifest.mediaType },
        platform: platformOfConfig(record.config),
        origin: { kind: 'remote', name },
      }
    }
  }
  return undefined
}

async function askFor(
  name: string,
  digest: Digest,
  services: TransferServices,
  call: TransferCall,
): Promise<RemoteManifest | undefined> {
  try {
    const endpoints = services.rules.endpoints(parseReference(`${name}@${digest}`))
    // What is here will do, so nobody waits for a registry that is away.
    const once = { ...call, ...withoutPatience(registryCall(call)) }
    const { value } = await firstThat(endpoints, once, (one, asking) =>
      services.client.manifest(one, digest, asking),
    )
    return value
  } catch (error) {
    if (!mayBeElsewhere(error)) throw error
    call.onLog(`[Warning] ${name} is not asked any further: ${error.message}`)
    return undefined
  }
}

async function remoteEntries(
  image: LocatedImage,
  text: string,
  all: boolean,
  services: TransferServices,
  call: TransferCall,
): Promise<readonly ListEntry[]> {
  const found = new Map<Digest, ListEntry>()
  const budget = createDocumentBudget()
  /** Indexes that everything was taken of. */
  const exhausted = new Set<Digest>()
  const origin = { kind: 'remote', name: canonicalName(image.reference) } as const

  async function add(remote: RemoteManifest, listed: Listed | undefined, depth: number): Promise<void> {
    const what = `manifest ${remote.digest} of ${nameOf(image.endpoint)}`
    const mediaType = listed?.descriptor.mediaType || remote.mediaType
    const document = decode(remote, what, mediaType)
    if (document.kind === 'manifest') {
      const platform = listed?.platform ?? (await platformAt(document.config, what))
      addEntry({ digest: remote.digest, size: remote.bytes.length, mediaType, platform, origin })
      return
    }
    if (!all) throw isList(text)
    if (depth === maxDepth) throw tooMuch(`${what} is an index inside ${maxDepth} others`)
    exhausted.add(remote.digest)
    for (const child of listedIn(remote, document.manifests, what)) {
      const { descriptor, platform } = child
      const { digest, size, annotations } = descriptor
      if (isManifestMediaType(descriptor.mediaType) && platform !== undefined) {
        const own = annotations === undefined ? {} : { annotations }
        addEntry({ digest, size, mediaType: descriptor.mediaType, platform, origin, ...own })
      } else if (!exhausted.has(digest) && !found.has(digest)) {
        await add(await fetch(descriptor, what), child, depth + 1)
      }
    }
  }

  function addEntry(entry: ListEntry): void {
    found.set(entry.digest, entry)
    if (found.size > maxEntries) throw tooMuch(`${text} lists more than ${maxEntries} images`)
  }

  async function fetch({ digest, size }: Descriptor, what: string): Promise<RemoteManifest> {
    if (size > imageLimits.document) {
      throw tooMuch(`${what} lists a manifest of more than ${imageLimits.document} bytes`)
    }
    budget.take(size, nameOf(image.endpoint))
    const { value } = await firstThat(image.endpoints, call, (one, asking) =>
      services.client.manifest(one, digest, asking),
    )
    if (value.bytes.length === size) return value
    throw new BuilderError('ISB_DIGEST_MISMATCH', `${what} gives manifest ${digest} a wrong size`)
  }

  async function platformAt(config: Descriptor, what: string): Promise<ListPlatform> {
    budget.take(config.size, nameOf(image.endpoint))
    const { value } = await firstThat(image.endpoints, call, (one, asking) =>
      services.client.readBlob(one, config, imageLimits.document, asking),
    )
    return described(() => platformOfConfig(decodeImageConfig(value)), `configuration of ${what}`)
  }

  budget.take(image.top.bytes.length, nameOf(image.endpoint))
  await add(image.top, undefined, 0)
  return [...found.values()]
}

interface Listed {
  readonly descriptor: Descriptor
  /** undefined when the index does not say. */
  readonly platform: ListPlatform | undefined
}

/** The images and indexes of an index; provenance that builders store beside them is none. */
function listedIn(
  { bytes }: RemoteManifest,
  descriptors: readonly Descriptor[],
  what: string,
): readonly Listed[] {
  const json = described(() => optional(objectOf(decodeJson(bytes, what), what), 'manifests', arrayOf), what)
  return descriptors.flatMap((descriptor, i): Listed[] => {
    const { mediaType } = descriptor
    const isImage = mediaType === '' || isManifestMediaType(mediaType) || isIndexMediaType(mediaType)
    if (!isImage || isAttestation(descriptor)) return []
    const raw = described(
      () => optional(objectOf(json?.[i], what), 'platform', decodeListPlatform),
      `an entry of ${what}`,
    )
    if (raw?.os === 'unknown') return []
    const isComplete = raw !== undefined && raw.os !== '' && raw.architecture !== ''
    return [{ descriptor, platform: isComplete ? raw : undefined }]
  })
}

function decode(remote: RemoteManifest, what: string, mediaType: string) {
  return described(() => decodeManifestDocument(remote.bytes, what, mediaType || undefined), undefined)
}

/** A document of a registry's that is not as it must be. */
function described<T>(work: () => T, what: string | undefined): T {
  try {
    return work()
  } catch (error) {
    const shown = fromRegistry(error)
    if (what === undefined || !(shown instanceof BuilderError)) throw shown
    throw new BuilderError(shown.code, `${what}: ${shown.message}`, shown.details)
  }
}

function tooMuch(message: string): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', message)
}
