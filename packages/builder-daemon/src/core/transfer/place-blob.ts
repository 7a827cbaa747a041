import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'
import type { LayerCompression } from '@isula-build/shared/oci/media-types.js'
import type { HeldBlob } from '../../ports/blob-files.js'
import type {
  CompressLayerParams,
  CompressLayerResult,
  HelpCompressionParams,
  LayerWorkers,
} from '../../ports/layer-worker.js'
import type { Endpoint, RegistryCall } from '../../ports/registry.js'
import type { LayerBlob } from '../../ports/transfer-memory.js'
import type { Compression } from '../image/compression-level.js'
import type { BlobInfo } from '../image/manifest.js'
import type { SavedLayer } from '../images/saved-layers.js'
import { withPipe } from './blob-pipes.js'
import { throwIfCancelled } from './cancelled.js'
import { inPairs } from './compression-help.js'
import type { TransferCall, TransferServices } from './transfer.js'

/** A blob that the registry has. */
export interface PlacedBlob extends BlobInfo {
  readonly compression: LayerCompression
}

export interface WantedLayer {
  /** Forms that will do, the likeliest first. */
  readonly known: readonly LayerBlob[]
  /** What to make when none of them is there. */
  readonly compression: Compression
  readonly level: number | undefined
  /** Nothing is made before, so that it keeps no thread from what comes first. Never rejects. */
  readonly after: Promise<void>
}

/** Forms of a layer, and repositories to mount from, that are worth a request each. */
const maxForms = 4
const maxMounts = 2

/** Layers from this size on are compressed by more than one thread, and sent meanwhile, bytes. */
const big = 16 << 20

const isBig = ({ size }: SavedLayer): boolean => size >= big

/**
 * Makes the registry have the layer in one of the forms: one that it has, else one that it has in another repository,
 * else one that is made and sent. Damage of the layer is reported to the store. What was found out is remembered at
 * once, so that the next attempt starts where this one ended.
 */
export async function placeLayer(
  layer: SavedLayer,
  wanted: WantedLayer,
  endpoint: Endpoint,
  services: TransferServices,
  call: TransferCall,
): Promise<PlacedBlob> {
  const { memory } = services
  const known = wanted.known.slice(0, maxForms)
  const missing = new Set<Digest>()
  for (const blob of known) {
    if (await isThere(blob.digest, endpoint, services, call)) {
      call.onLog(`Copying blob ${layer.diffId} skipped: already exists`)
      await memory.rememberBlob(layer.diffId, blob)
      return blob
    }
    missing.add(blob.digest)
  }
  for (const blob of known) {
    const from = await mountedFrom(blob.digest, endpoint, services, call)
    if (from === undefined) continue
    call.onLog(`Copying blob ${layer.diffId} skipped: mounted from ${from}`)
    await memory.rememberBlob(layer.diffId, blob)
    return blob
  }
  call.onLog(`Copying blob ${layer.diffId}`)
  await wanted.after
  if (isBig(layer)) {
    const sent = await streamed({ layer, wanted, missing }, endpoint, services, call)
    if (sent !== undefined) return sent
  }
  using file = await compressed(layer, wanted, services, call)
  const { made } = file
  await memory.rememberBlob(layer.diffId, made)
  const isNew = !missing.has(made.digest)
  if (isNew && (await isThere(made.digest, endpoint, services, call))) return made
  if (isNew && (await mountedFrom(made.digest, endpoint, services, call)) !== undefined) return made
  await upload(made, file.path, endpoint, services, call)
  return made
}

/**
 * Sends it while it is compressed; undefined when the registry has to be given it in another way. A registry that is slow
 * is asked for the blob again once its digest is known.
 */
async function streamed(
  {
    layer,
    wanted,
    missing,
  }: { readonly layer: SavedLayer; readonly wanted: WantedLayer; readonly missing: ReadonlySet<Digest> },
  endpoint: Endpoint,
  services: TransferServices,
  call: TransferCall,
): Promise<PlacedBlob | undefined> {
  const { client, memory, files } = services
  const stop = new AbortController()
  const both = { ...call, signal: AbortSignal.any([call.signal, stop.signal]) }
  const settled = async <T>(work: Promise<T>, isEnd: (end: PromiseSettledResult<T>) => boolean) => {
    const [end] = await Promise.allSettled([work])
    if (isEnd(end)) stop.abort()
    return end
  }
  using file = await files.create(call.access.uid)
  let made: LayerBlob | undefined
  let isFound = false
  const [sent, making] = await withPipe((pipe) => {
    const onProgress = (done: number): void => {
      if (made !== undefined) call.onProgress?.(made.digest, done, made.size)
    }
    const stream = { memory: pipe, path: file.path, onProgress }
    const make = async (): Promise<void> => {
      const result = await compress(layer, wanted, { file: file.path, pipe }, services, both)
      made = result.made
      await memory.rememberBlob(layer.diffId, made)
      if (!result.isBehind || missing.has(made.digest)) return
      isFound = await isThere(made.digest, endpoint, services, both)
      if (isFound) stop.abort()
    }
    return Promise.all([
      // That there will be no blob it may know before the reason for it is known here, which must not be lost.
      settled(client.streamBlob(endpoint, stream, registryCall(both)), (end) =>
        end.status === 'rejected' ? isBuilderError(end.reason) : !end.value,
      ),
      settled(make(), ({ status }) => status === 'rejected'),
    ])
  })
  throwIfCancelled(call.signal)
  if (isFound) return made
  if (making.status === 'rejected' && !isBuilderError(making.reason, 'ISB_CANCELLED')) throw making.reason
  if (sent.status === 'rejected') throw sent.reason
  if (!sent.value || made === undefined) return undefined
  await memory.rememberPlace(call.access.uid, endpoint.host, endpoint.repository, [made.digest])
  return made
}

/** Its blob in a file, which goes when disposed of; nothing is said to anybody. */
export async function makeLayerBlob(
  layer: SavedLayer,
  compression: Compression,
  services: TransferServices,
  call: TransferCall,
): Promise<{ readonly path: string; readonly blob: PlacedBlob } & Disposable> {
  const file = await compressed(layer, { compression, level: undefined }, services, call)
  try {
    await services.memory.rememberBlob(layer.diffId, file.made)
    return { path: file.path, blob: file.made, [Symbol.dispose]: () => file[Symbol.dispose]() }
  } catch (error) {
    file[Symbol.dispose]()
    throw error
  }
}

/** `onReady`: it needs no thread any more. */
export async function placeConfig(
  config: BlobInfo,
  content: Uint8Array,
  endpoint: Endpoint,
  services: TransferServices,
  call: TransferCall,
  onReady: () => void,
): Promise<void> {
  if (await isThere(config.digest, endpoint, services, call)) return
  using file = await services.files.create(call.access.uid)
  await services.workers.run('writeFile', { file: file.path, content }, call.signal)
  onReady()
  await upload(config, file.path, endpoint, services, call)
}

export function registryCall({ access, signal, onLog }: TransferCall): RegistryCall {
  return { access, signal, onNotice: onLog }
}

async function isThere(
  digest: Digest,
  endpoint: Endpoint,
  { client, memory }: TransferServices,
  call: TransferCall,
): Promise<boolean> {
  if (!(await client.hasBlob(endpoint, digest, registryCall(call)))) return false
  await memory.rememberPlace(call.access.uid, endpoint.host, endpoint.repository, [digest])
  return true
}

async function mountedFrom(
  digest: Digest,
  endpoint: Endpoint,
  { client, memory }: TransferServices,
  call: TransferCall,
): Promise<string | undefined> {
  const { host, repository } = endpoint
  const places = await memory.placesOf(call.access.uid, host, digest)
  for (const from of places.filter((place) => place !== repository).slice(0, maxMounts)) {
    if (!(await client.mountBlob(endpoint, digest, from, registryCall(call)))) continue
    await memory.rememberPlace(call.access.uid, host, repository, [digest])
    return from
  }
  return undefined
}

async function upload(
  { digest, size }: BlobInfo,
  path: string,
  endpoint: Endpoint,
  { client, memory }: TransferServices,
  call: TransferCall,
): Promise<void> {
  const onProgress = (done: number): void => call.onProgress?.(digest, done, size)
  await client.uploadBlob(endpoint, { digest, size, path, onProgress }, registryCall(call))
  await memory.rememberPlace(call.access.uid, endpoint.host, endpoint.repository, [digest])
}

/** A blob that was made here. */
interface MadeBlob extends HeldBlob {
  readonly made: LayerBlob
}

type Recipe = Pick<WantedLayer, 'compression' | 'level'>

async function compressed(
  layer: SavedLayer,
  recipe: Recipe,
  services: TransferServices,
  call: TransferCall,
): Promise<MadeBlob> {
  const held = await services.files.create(call.access.uid)
  try {
    const { made } = await compress(layer, recipe, { file: held.path }, services, call)
    return { made, path: held.path, [Symbol.dispose]: () => held[Symbol.dispose]() }
  } catch (error) {
    held[Symbol.dispose]()
    throw error
  }
}

/**
 * Big layers have their turn in the order in which this is called. The store learns of damage, so that storing the
 * content again replaces the layer.
 */
async function compress(
  layer: SavedLayer,
  { compression, level }: Recipe,
  to: Pick<CompressLayerParams, 'file' | 'pipe'>,
  services: TransferServices,
  call: TransferCall,
): Promise<{ readonly made: LayerBlob; readonly isBehind: boolean }> {
  const { workers } = services
  const { id, directory: layerDirectory, keepsHeaders, diffId } = layer
  const whole = { layerDirectory, keepsHeaders, expectedDiffId: diffId, compression, level, ...to }
  const run = async (shared: SharedArrayBuffer | undefined) => {
    try {
      const { digest, size, recipe, isBehind } = await (shared === undefined
        ? workers.run('compressLayer', whole, call.signal)
        : withHelp({ ...whole, shared }, workers, call.signal))
      return { made: { digest, size, compression, recipe }, isBehind }
    } catch (error) {
      if (isBuilderError(error, 'ISB_IMAGE_DAMAGED')) await services.layers.reportDamage(id)
      throw error
    }
  }
  return isBig(layer) && compression === 'gzip' ? await inPairs(workers, run) : await run(undefined)
}

/** Ends when nobody uses the shared memory any more. Without a thread that is free the helper never starts. */
async function withHelp(
  params: CompressLayerParams & Pick<HelpCompressionParams, 'shared'>,
  workers: LayerWorkers,
  signal: AbortSignal,
): Promise<CompressLayerResult> {
  const { compression, level, shared } = params
  const done = new AbortController()
  const lost = new AbortController()
  let loss: { readonly error: unknown } | undefined
  const made = workers.run('compressLayer', params, AbortSignal.any([signal, lost.signal]))
  const helped = workers.run('helpCompression', { compression, level, shared }, done.signal).then(
    () => undefined,
    (error) => {
      if (done.signal.aborted) return
      // A block it had begun will never be finished.
      loss = { error }
      lost.abort()
    },
  )
  try {
    return await made
  } catch (error) {
    throw loss === undefined ? error : loss.error
  } finally {
    done.abort()
    await helped
  }
}
