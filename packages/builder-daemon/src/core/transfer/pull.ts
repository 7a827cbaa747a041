import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { type Digest, digestHex } from '@isula-build/shared/oci/digest.js'
import type { ImageConfig } from '@isula-build/shared/oci/image-config.js'
import { decodeImageConfig } from '@isula-build/shared/oci/image-config-decode.js'
import { localName } from '@isula-build/shared/oci/local-name.js'
import { layerCompression, mediaTypes } from '@isula-build/shared/oci/media-types.js'
import { formatPlatform, type Platform, platformMatches } from '@isula-build/shared/oci/platform.js'
import { canonicalName, formatFamiliar, type ImageReference } from '@isula-build/shared/oci/reference.js'
import type { ImageRecord, NewImage } from '../../ports/image-store.js'
import { imageLimits } from '../images/image-limits.js'
import { throwIfCancelled } from './cancelled.js'
import { type ChosenManifest, chooseManifests, fromRegistry } from './choose.js'
import { createDocumentBudget, type DocumentBudget } from './document-budget.js'
import { firstThat, type LocatedImage, locateImage, nameOf, registryCall } from './locate.js'
import { pullLayers, type RemoteLayer } from './pull-layers.js'
import type { PulledImage, PullResult, TransferCall, TransferServices } from './transfer.js'

export interface PullOptions {
  /**
   * Whose images to take of a list, in this order; another platform is an error. [] is the daemon's own, or what
   * there is when there is no choice.
   */
  readonly platforms: readonly Platform[] | 'all'
  /**
   * `reference`: the image gets the name it was pulled by, as far as it is one without a digest; of several the one
   * for the daemon's own platform gets it, else the first. `if-allowed`: unless the name is another user's.
   */
  readonly names: 'reference' | 'if-allowed' | 'none'
}

/**
 * Gets an image from a registry into the store. `reference` is as the user wrote it. Layers that are here are not
 * fetched; nothing has a name before it is whole. Fails with what RegistryClient and RegistryRules fail with,
 * ISB_PLATFORM_UNSUPPORTED, ISB_PERMISSION_DENIED (the name), ISB_MANIFEST_INVALID, ISB_DIGEST_MISMATCH, ISB_ARCHIVE_INVALID (a layer), ISB_NO_SPACE,
 * ISB_CANCELLED; what was fetched is then there for the next attempt.
 */
export async function pullImage(
  reference: string,
  options: PullOptions,
  services: TransferServices,
  call: TransferCall,
): Promise<PullResult> {
  throwIfCancelled(call.signal)
  const image = await locateImage(reference, services, call)
  const wanted =
    options.platforms !== 'all' && options.platforms.length === 0 ? [services.platform] : options.platforms
  const budget = createDocumentBudget()
  const chosen = await chooseManifests(image, wanted, budget, services, call)
  if (chosen.length === 0) {
    throw new BuilderError('ISB_MANIFEST_INVALID', `${nameOf(image.endpoint)} has a list without any image`)
  }
  for (const { remote } of chosen) {
    const index = remote.digest === image.top.digest ? undefined : image.top
    const { endpoint } = image
    const subject = { reference: image.reference, endpoint, manifest: remote, index }
    await services.rules.admit(subject, registryCall(call))
  }
  const prepared: PreparedImage[] = []
  for (const one of chosen) {
    const ready = await prepare(one, image, budget, services, call)
    checkPlatform(ready, options, image, { services, call })
    prepared.push(ready)
  }
  const named = prepared.find((one) => platformMatches(services.platform, one.platform)) ?? prepared[0]
  if (named !== undefined && options.names === 'reference') {
    for (const name of namesFor(image.reference)) {
      await services.images.checkName(digestHex(named.chosen.document.config.digest), name)
    }
  }
  const images: PulledImage[] = []
  for (const [i, one] of prepared.entries()) {
    if (prepared.length > 1) {
      call.onLog(`Copying image ${one.chosen.remote.digest} (${i + 1}/${prepared.length})`)
    }
    const names = one === named && options.names !== 'none' ? namesFor(image.reference) : []
    const record = await store(
      one,
      image,
      { names, isOptional: options.names === 'if-allowed' },
      services,
      call,
    )
    images.push({ record, platform: one.platform, digest: one.chosen.remote.digest })
  }
  return { reference: image.reference, digest: image.top.digest, images }
}

/** Everything small of an image is here and fits together. */
interface PreparedImage {
  readonly chosen: ChosenManifest
  readonly configBytes: Uint8Array
  readonly config: ImageConfig
  readonly platform: Platform
  /** Bottom first. */
  readonly layers: readonly RemoteLayer[]
}

async function prepare(
  chosen: ChosenManifest,
  image: LocatedImage,
  budget: DocumentBudget,
  services: TransferServices,
  call: TransferCall,
): Promise<PreparedImage> {
  const { document, remote } = chosen
  const what = `manifest ${remote.digest} of ${nameOf(image.endpoint)}`
  checkDescriptors(document.config, document.layers, what)
  budget.take(document.config.size, nameOf(image.endpoint))
  const configBytes = await readConfig(document.config, image, services, call)
  const config = decodeConfig(configBytes, document.config.digest, image)
  const diffIds = config.rootfs.diff_ids
  if (diffIds.length !== document.layers.length) {
    throw invalid(
      `${what} has ${document.layers.length} layers, its configuration has ${diffIds.length} diff IDs`,
    )
  }
  const layers = document.layers.flatMap((blob, i): RemoteLayer[] => {
    const diffId = diffIds[i]
    return diffId === undefined ? [] : [{ blob, diffId }]
  })
  const { os, architecture, variant } = config
  const platform = { os, architecture, ...(variant === undefined || variant === '' ? {} : { variant }) }
  return { chosen, configBytes, config, platform, layers }
}

/** Registries and builders of long ago gave configurations no type of their own. */
const configTypes: readonly string[] = [
  mediaTypes.dockerConfig,
  mediaTypes.ociConfig,
  'application/octet-stream',
  '',
]

function checkDescriptors(config: Descriptor, layers: readonly Descriptor[], what: string): void {
  if (!configTypes.includes(config.mediaType)) {
    throw invalid(`${what} is no container image: its configuration is ${JSON.stringify(config.mediaType)}`)
  }
  if (config.size > imageLimits.document) {
    throw tooMuch(
      `the configuration of ${what} has ${config.size} bytes, ${imageLimits.document} are allowed`,
    )
  }
  if (layers.length > imageLimits.layers) {
    throw tooMuch(`${what} has ${layers.length} layers, ${imageLimits.layers} can be mounted`)
  }
  for (const [i, layer] of layers.entries()) {
    if (layerCompression(layer.mediaType) === undefined) {
      const type = JSON.stringify(layer.mediaType.slice(0, 200))
      if (layer.mediaType.endsWith('+encrypted')) {
        throw new BuilderError('ISB_UNSUPPORTED', `layer ${i + 1} of ${what} is encrypted (${type})`)
      }
      throw invalid(`layer ${i + 1} of ${what} is no layer but ${type}`)
    }
    if (layer.size > imageLimits.layer) {
      throw tooMuch(`layer ${i + 1} of ${what} has ${layer.size} bytes, ${imageLimits.layer} are allowed`)
    }
  }
}

async function readConfig(
  descriptor: Descriptor,
  image: LocatedImage,
  services: TransferServices,
  call: TransferCall,
): Promise<Uint8Array> {
  const stored = await services.images.get(digestHex(descriptor.digest))
  if (stored !== undefined && stored.configBytes.length === descriptor.size) return stored.configBytes
  const { value } = await firstThat(image.endpoints, call, (endpoint, asking) =>
    services.client.readBlob(endpoint, descriptor, imageLimits.document, asking),
  )
  return value
}

function decodeConfig(bytes: Uint8Array, digest: Digest, image: LocatedImage): ImageConfig {
  try {
    return decodeImageConfig(bytes)
  } catch (error) {
    if (!isBuilderError(error, 'ISB_ARCHIVE_INVALID')) throw error
    const where = `configuration ${digest} of ${nameOf(image.endpoint)}`
    throw fromRegistry(new BuilderError(error.code, `${where}: ${error.message}`, error.details))
  }
}

/** What an index states was checked when it was chosen; an image on its own says it in its configuration. */
function checkPlatform(
  { chosen, platform }: PreparedImage,
  { platforms }: PullOptions,
  image: LocatedImage,
  { services, call }: { readonly services: TransferServices; readonly call: TransferCall },
): void {
  if (chosen.stated || platforms === 'all') return
  const name = formatFamiliar(image.reference)
  if (platforms.length === 0) {
    if (platformMatches(services.platform, platform)) return
    const own = formatPlatform(services.platform)
    call.onLog(`[Warning] ${name} is for ${formatPlatform(platform)}, this machine is ${own}`)
    return
  }
  if (platforms.some((wanted) => platformMatches(wanted, platform))) return
  const wanted = platforms.map(formatPlatform).join(', ')
  throw new BuilderError(
    'ISB_PLATFORM_UNSUPPORTED',
    `${name} is for ${formatPlatform(platform)}, not for ${wanted}`,
  )
}

function namesFor(reference: ImageReference): readonly string[] {
  return reference.digest === undefined ? [localName(formatFamiliar(reference))] : []
}

async function store(
  prepared: PreparedImage,
  image: LocatedImage,
  given: { readonly names: readonly string[]; readonly isOptional: boolean },
  services: TransferServices,
  call: TransferCall,
): Promise<ImageRecord> {
  const { chosen, configBytes, layers } = prepared
  call.onLog('Getting image source signatures')
  const stored = await pullLayers(layers, image.endpoints, services, call)
  throwIfCancelled(call.signal)
  call.onLog(`Copying config ${chosen.document.config.digest}`)
  const ids = stored.map(({ id }) => id)
  const record = await putImage(
    { configBytes, layers: ids, names: given.names, owner: call.access.uid },
    given.isOptional,
    services,
    call,
  )
  call.onLog('Writing manifest to image destination')
  await remember(prepared, image, record, services, call)
  call.onLog('Storing signatures')
  return record
}

async function putImage(
  image: NewImage,
  namesAreOptional: boolean,
  { images }: TransferServices,
  { lease, onLog }: TransferCall,
): Promise<ImageRecord> {
  try {
    return await images.put(image, lease)
  } catch (error) {
    if (!namesAreOptional || image.names.length === 0 || !isBuilderError(error, 'ISB_PERMISSION_DENIED')) {
      throw error
    }
    onLog(`[Warning] The image is stored without its name: ${error.message}`)
    return await images.put({ ...image, names: [] }, lease)
  }
}

async function remember(
  { chosen, layers }: PreparedImage,
  { reference, endpoint, top }: LocatedImage,
  record: ImageRecord,
  { memory }: TransferServices,
  { access }: TransferCall,
): Promise<void> {
  const blobs = new Set([...layers.map(({ blob }) => blob.digest), chosen.document.config.digest])
  await memory.rememberPlace(access.uid, endpoint.host, endpoint.repository, [...blobs])
  for (const digest of new Set([chosen.remote.digest, top.digest])) {
    await memory.rememberDigest(canonicalName(reference), digest, record.id)
  }
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_MANIFEST_INVALID', message)
}

function tooMuch(message: string): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', message)
}
