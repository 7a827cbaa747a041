import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, digestOf, parseDigest } from '@isula-build/shared/oci/digest.js'
import type { ManifestFormat } from '@isula-build/shared/oci/media-types.js'
import type { ImageRecord } from '../../ports/image-store.js'
import type { Endpoint } from '../../ports/registry.js'
import type { LayerBlob } from '../../ports/transfer-memory.js'
import { checkCompressionLevel, isRecipeOf } from '../image/compression-level.js'
import { type BlobInfo, type EncodedManifest, encodeManifest } from '../image/manifest.js'
import { inParallel } from '../images/in-parallel.js'
import { layersToSave, type SavedLayer } from '../images/saved-layers.js'
import { type PlacedBlob, placeConfig, placeLayer, registryCall } from './place-blob.js'
import type { PushedManifest, PushShape, TransferCall, TransferServices } from './transfer.js'

export interface PushDestination {
  readonly endpoint: Endpoint
  /** A tag, or the digest the manifest must have; undefined: under its own digest only. */
  readonly reference: string | undefined
  /** Canonical name that the user knows the endpoint by; undefined: host and repository of the endpoint. */
  readonly name?: string | undefined
}

/** Layers under way at the same time. */
const layersAtOnce = 5

/**
 * Makes the image appear at the destination: first what it is made of, the manifest last. What the registry has is
 * not sent, also when an earlier push was cut short. Nothing is left half done by an abort: without a manifest there is
 * no image. Fails with ISB_IMAGE_DAMAGED, ISB_ARGUMENT_INVALID for a shape that does not exist, and as RegistryClient.
 */
export async function pushImage(
  image: ImageRecord,
  to: PushDestination,
  shape: PushShape,
  services: TransferServices,
  call: TransferCall,
): Promise<PushedManifest> {
  const place = () => pushContent(image, to.endpoint, shape, services, call)
  const manifest = await place()
  try {
    return await pushManifest(image, manifest, to, services, call)
  } catch (error) {
    if (!isBuilderError(error, 'ISB_IMAGE_NOT_FOUND')) throw error
    // A blob that was there is gone: the registry may have been cleaning up.
    call.onLog(`[Warning] ${error.message}; the content is sent again`)
    return await pushManifest(image, await place(), to, services, call)
  }
}

/**
 * Layers and config only; gives the manifest that may follow. For lists, whose images have no tag.
 */
export async function pushContent(
  image: ImageRecord,
  endpoint: Endpoint,
  shape: PushShape,
  services: TransferServices,
  call: TransferCall,
): Promise<EncodedManifest> {
  checkShape(shape)
  call.onLog('Getting image source signatures')
  const layers = await layersToSave(image, services, call)
  const { format, config, blobs } = await placeContent(
    { layers, config: image.configBytes },
    shape,
    endpoint,
    services,
    call,
  )
  return encodeManifest(format, { config, layers: blobs })
}

export interface PlacedContent {
  readonly format: ManifestFormat
  readonly config: BlobInfo
  /** In the order of the layers. */
  readonly blobs: readonly PlacedBlob[]
}

/** Everything that a manifest may name, in forms that it can say. */
export async function placeContent(
  { layers, config: content }: { readonly layers: readonly SavedLayer[]; readonly config: Uint8Array },
  shape: PushShape,
  endpoint: Endpoint,
  services: TransferServices,
  call: TransferCall,
): Promise<PlacedContent> {
  const known = new Map<DiffId, readonly LayerBlob[]>()
  for (const { diffId } of layers) known.set(diffId, await services.memory.blobsOf(diffId))
  const format = formatOf(shape, [...known.values()])
  const config = { digest: digestOf(content), size: content.length }
  // What the registry says to the small one is known before anything big is compressed.
  let onReady = (): void => undefined
  const after = new Promise<void>((resolve) => {
    onReady = resolve
  })
  const placeSmall = (signal: AbortSignal) =>
    placeConfig(config, content, endpoint, services, { ...call, signal }, onReady).finally(onReady)
  const placed = await placeAll(layers, placeSmall, call.signal, (layer, signal) => {
    const forms = (known.get(layer.diffId) ?? []).filter((blob) => isWanted(blob, shape, format))
    const wanted = {
      known: forms,
      compression: shape.compression ?? 'gzip',
      level: shape.level,
      after,
    } as const
    return placeLayer(layer, wanted, endpoint, services, { ...call, signal })
  })
  call.onLog(`Copying config ${config.digest}`)
  return { format, config, blobs: layers.map(({ diffId }) => blobOf(placed, diffId)) }
}

/** The manifest of content that is there already. */
export async function pushManifest(
  image: Pick<ImageRecord, 'id'>,
  { bytes, descriptor }: EncodedManifest,
  to: PushDestination,
  { client, memory }: TransferServices,
  call: TransferCall,
): Promise<PushedManifest> {
  const { endpoint } = to
  const { digest, size, mediaType } = descriptor
  const name = to.name ?? `${endpoint.host}/${endpoint.repository}`
  if (parseDigest(to.reference) !== undefined && to.reference !== digest) {
    throw new BuilderError(
      'ISB_DIGEST_MISMATCH',
      `the manifest for ${name} is ${digest}, not ${to.reference} as the destination says`,
      { hint: 'Push to a tag.' },
    )
  }
  call.onLog('Writing manifest to image destination')
  await client.putManifest(endpoint, to.reference ?? digest, { mediaType, bytes }, registryCall(call))
  call.onLog('Storing signatures')
  await memory.rememberDigest(name, digest, image.id)
  return { digest, size, mediaType }
}

function checkShape({ format, compression, level }: PushShape): void {
  checkCompressionLevel(compression ?? 'gzip', level)
  if (compression !== 'zstd' || format !== 'docker') return
  throw new BuilderError('ISB_ARGUMENT_INVALID', 'images in docker format have no zstd layers', {
    hint: 'Choose --format oci, or gzip.',
  })
}

/**
 * An image in the store does not know which format it came in, so docker's is the default, which every reader takes.
 * It cannot say zstd: where that is wanted, or all that a layer came as, it is OCI.
 */
function formatOf(shape: PushShape, known: readonly (readonly LayerBlob[])[]): ManifestFormat {
  if (shape.format !== undefined) return shape.format
  if (shape.compression !== undefined) return shape.compression === 'zstd' ? 'oci' : 'docker'
  const isZstd = (blob: LayerBlob): boolean => blob.compression === 'zstd' && blob.recipe === null
  return known.some((forms) => forms.length > 0 && forms.every(isZstd)) ? 'oci' : 'docker'
}

function isWanted(blob: LayerBlob, shape: PushShape, format: ManifestFormat): boolean {
  if (format === 'docker' && blob.compression === 'zstd') return false
  if (shape.compression === undefined && shape.level === undefined) {
    // Not every reader of OCI images takes zstd: what was made here for who asked for it is not for all others.
    return blob.compression !== 'zstd' || blob.recipe === null
  }
  const compression = shape.compression ?? 'gzip'
  return blob.compression === compression && isRecipeOf(blob.recipe, compression, shape.level)
}

/** The biggest first, so that none is left over for the end; the first failure stops all others. */
async function placeAll(
  layers: readonly SavedLayer[],
  beside: (signal: AbortSignal) => Promise<void>,
  signal: AbortSignal,
  place: (layer: SavedLayer, signal: AbortSignal) => Promise<PlacedBlob>,
): Promise<ReadonlyMap<DiffId, PlacedBlob>> {
  const different = new Map(layers.map((layer) => [layer.diffId, layer]))
  const queue = [...different.values()].sort((a, b) => b.size - a.size)
  const stop = new AbortController()
  const either = AbortSignal.any([signal, stop.signal])
  let first: { readonly error: unknown } | undefined
  const stopping = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await work
    } catch (error) {
      // The others fail because of this one.
      first ??= { error }
      stop.abort()
      throw first.error
    }
  }
  const small = stopping(beside(either))
  const [placed] = await Promise.allSettled([
    inParallel(queue, layersAtOnce, async (layer) => {
      return [layer.diffId, await stopping(place(layer, either))] as const
    }),
    small,
  ])
  await small
  if (placed.status === 'rejected') throw placed.reason
  return new Map(placed.value)
}

function blobOf(placed: ReadonlyMap<DiffId, PlacedBlob>, diffId: DiffId): PlacedBlob {
  const blob = placed.get(diffId)
  if (blob === undefined) throw new Error(`layer ${diffId} was not placed`)
  return blob
}
