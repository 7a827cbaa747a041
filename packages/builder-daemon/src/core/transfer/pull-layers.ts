import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { parentKey } from '@isula-build/shared/oci/chain-id.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import { isForeignLayer } from '@isula-build/shared/oci/media-types.js'
import type { HeldBlob } from '../../ports/blob-files.js'
import type { LayerRecord } from '../../ports/layer-store.js'
import type { ApplyResult } from '../../ports/layer-worker.js'
import type { Endpoint } from '../../ports/registry.js'
import { imageLimits } from '../images/image-limits.js'
import { throwIfCancelled } from './cancelled.js'
import { createLimit, type Limit } from './limit.js'
import { firstThat, nameOf } from './locate.js'
import type { TransferCall, TransferServices } from './transfer.js'

/** A layer of an image as its registry has it. */
export interface RemoteLayer {
  readonly blob: Descriptor
  readonly diffId: DiffId
}

/** Layers of one pull under way at once, on the wire and on the disk. */
const parallel = 4

interface Pull {
  readonly endpoints: readonly Endpoint[]
  readonly services: TransferServices
  readonly call: TransferCall
  readonly fetching: Limit
  readonly unpacking: Limit
  /** Blobs that are layers of the image more than once. */
  readonly repeated: ReadonlySet<string>
}

interface Place {
  readonly layer: RemoteLayer
  /** Names the layers below. */
  readonly key: string
  /** The layers below, bottom first, once they are stored. */
  readonly below: readonly Promise<LayerRecord>[]
  /** The same layer, further down. */
  readonly before: Promise<LayerRecord> | undefined
}

/**
 * Stores the layers, bottom first, that are not here yet. They are fetched side by side, and each is unpacked as soon as
 * it is here, without those below it; only where these turn out to matter it is done again over them. The result is
 * that of doing one after the other. The first failure stops the rest and is thrown once all are still; what was fetched
 * then is there for the next attempt, unless the disk is full.
 */
export async function pullLayers(
  layers: readonly RemoteLayer[],
  endpoints: readonly Endpoint[],
  services: TransferServices,
  call: TransferCall,
): Promise<readonly LayerRecord[]> {
  const stop = new AbortController()
  const digests = layers.map(({ blob }) => blob.digest)
  const repeated = new Set(digests.filter((digest, i) => digests.indexOf(digest) !== i))
  const pull: Pull = {
    ...{ endpoints, services, repeated },
    call: { ...call, signal: AbortSignal.any([call.signal, stop.signal]) },
    fetching: createLimit(parallel),
    unpacking: createLimit(parallel),
  }
  let failure: { readonly error: unknown } | undefined
  const records: Promise<LayerRecord>[] = []
  for (const [i, layer] of layers.entries()) {
    const key = parentKey(layers.slice(0, i).map(({ diffId }) => diffId))
    const same = layers.findIndex(({ diffId }) => diffId === layer.diffId)
    const record = storeLayer(
      { layer, key, below: [...records], before: records[same] },
      {
        ...pull,
        // Everything that waits listens to it; one signal is not made for that many.
        call: { ...pull.call, signal: AbortSignal.any([pull.call.signal]) },
      },
    )
    record.catch((error) => {
      failure ??= { error }
      stop.abort()
    })
    records.push(record)
  }
  await Promise.allSettled(records)
  if (failure !== undefined) {
    throwIfCancelled(call.signal)
    if (isBuilderError(failure.error, 'ISB_NO_SPACE')) await services.files.release(call.access.uid, digests)
    throw failure.error
  }
  await services.files.release(
    call.access.uid,
    digests.filter((digest) => repeated.has(digest)),
  )
  return await Promise.all(records)
}

async function storeLayer(place: Place, pull: Pull): Promise<LayerRecord> {
  const { blob } = place.layer
  const { services, call } = pull
  await place.before
  const existing = await find(place, pull)
  if (existing !== undefined) {
    call.onLog(`Copying blob ${blob.digest} skipped: already exists`)
    return existing
  }
  call.onLog(`Copying blob ${blob.digest}`)
  const release = () => services.files.release(call.access.uid, [blob.digest])
  try {
    using held = await pull.fetching(() => fetchBlob(place, pull))
    const record = await unpackBlob(place, held, pull)
    if (!pull.repeated.has(blob.digest)) await release()
    return record
  } catch (error) {
    if (error instanceof StoredMeanwhile || tellsContent(error)) await release()
    if (error instanceof StoredMeanwhile) return error.record
    throw error
  }
}

function find(
  { layer, key }: Place,
  { services, call }: Pull,
  caller: 'names' | 'has' = 'names',
): Promise<LayerRecord | undefined> {
  return services.layers.findByDiffId(layer.diffId, key, call.lease, caller)
}

/** Whoever has the whole blob, and it is known to unpack to the layer, has the layer. */
async function findOwned(place: Place, pull: Pull): Promise<LayerRecord | undefined> {
  const { blob, diffId } = place.layer
  const forms = await pull.services.memory.blobsOf(diffId)
  return await find(place, pull, forms.some(({ digest }) => digest === blob.digest) ? 'has' : 'names')
}

/** Somebody else stored the layer, and let go of the blob, before this pull came to ask for it. */
class StoredMeanwhile extends Error {
  override readonly name = 'StoredMeanwhile'

  constructor(readonly record: LayerRecord) {
    super('the layer is stored')
  }
}

async function fetchBlob(place: Place, pull: Pull): Promise<HeldBlob> {
  const { endpoints, services, call } = pull
  const { blob } = place.layer
  throwIfCancelled(call.signal)
  const fill = async (path: string, signal: AbortSignal): Promise<void> => {
    const record = await find(place, pull)
    if (record !== undefined) throw new StoredMeanwhile(record)
    const onProgress = (done: number): void => call.onProgress?.(blob.digest, done, blob.size)
    try {
      await firstThat(endpoints, { ...call, signal }, (endpoint, asking) =>
        services.client.fetchBlob(endpoint, blob, { path, onProgress }, asking),
      )
    } catch (error) {
      throw isForeignLayer(blob.mediaType) ? foreign(blob, error) : error
    }
  }
  const source = `${endpoints.map(nameOf).join(' ')} ${call.access.tlsVerify ?? ''}`
  return await services.files.obtain(call.access.uid, blob.digest, fill, call.signal, source)
}

/** Addresses that a manifest gives for a layer are not asked: whoever wrote it chose them. */
function foreign(blob: Descriptor, error: unknown): unknown {
  if (!isBuilderError(error) || error.code === 'ISB_CANCELLED') return error
  return new BuilderError(
    error.code,
    `layer ${blob.digest} is marked as not to be distributed, and the registry does not have it: ${error.message}`,
    { ...error.details, cause: error },
  )
}

async function unpackBlob(place: Place, held: HeldBlob, pull: Pull): Promise<LayerRecord> {
  const { diffId } = place.layer
  const alone = await unpackOnce(place, held, pull, {
    share: diffId,
    lowers: place.below.length === 0 ? [] : undefined,
  })
  if (alone !== undefined) return alone
  const below = await Promise.all(place.below)
  const directories = below.map(({ id }) => `${pull.services.layers.directory(id)}/diff`)
  const lowers = [...new Set(directories.reverse())]
  const stacked = await unpackOnce(place, held, pull, { share: `${diffId} ${place.key}`, lowers })
  if (stacked === undefined) throw new Error(`layer ${diffId} asks for more than the layers below it`)
  return stacked
}

interface Unpacking {
  /** Pulls with the same text here do the work once. */
  readonly share: string
  /** Top first; undefined when they are not there yet. */
  readonly lowers: readonly string[] | undefined
}

/** undefined when the layers below matter and are not given. */
async function unpackOnce(
  place: Place,
  held: HeldBlob,
  pull: Pull,
  { share, lowers }: Unpacking,
): Promise<LayerRecord | undefined> {
  const { services, call } = pull
  const work = async () => ({ record: await pull.unpacking(() => apply(place, held, pull, lowers)) })
  for (;;) {
    throwIfCancelled(call.signal)
    const found = await findOwned(place, pull)
    if (found !== undefined) return found
    const shared = services.unpacking
    const own = shared === undefined ? await work() : await shared.run(share, work, call.signal)
    if (own !== undefined) return own.record
  }
}

async function apply(
  place: Place,
  held: HeldBlob,
  pull: Pull,
  lowers: readonly string[] | undefined,
): Promise<LayerRecord | undefined> {
  const { services, call, endpoints } = pull
  const { layer, key } = place
  throwIfCancelled(call.signal)
  const staging = await services.layers.stage(call.lease)
  let applied: ApplyResult | undefined
  try {
    applied = await services.workers.run(
      'applyFile',
      {
        ...{ path: held.path, upper: staging.upper, lowers },
        headersFile: `${staging.root}/headers.gz`,
        limit: imageLimits.layer,
        expectedDiffId: layer.diffId,
      },
      call.signal,
    )
    if (applied !== undefined) {
      const { diffId, tarSize, usedParents } = applied
      const sealed = { diffId, tarSize, keepsHeaders: true, parentKey: usedParents ? key : null }
      const record = await services.layers.publish(staging, sealed, call.lease)
      await remember(layer, applied, services)
      return record
    }
  } catch (error) {
    await services.layers.abandon(staging)
    throw tellsContent(error) ? inContext(error, layer, endpoints[0]) : error
  }
  await services.layers.abandon(staging)
  return undefined
}

/** Only what was unpacked is known to be a form of the layer; what a manifest says is not. */
async function remember(
  { blob, diffId }: RemoteLayer,
  { compression }: ApplyResult,
  { memory }: TransferServices,
): Promise<void> {
  if (compression === 'xz' || compression === 'bzip2') return
  await memory.rememberBlob(diffId, { digest: blob.digest, size: blob.size, compression, recipe: null })
}

function tellsContent(error: unknown): error is BuilderError {
  return (
    isBuilderError(error) &&
    ['ISB_ARCHIVE_INVALID', 'ISB_DIGEST_MISMATCH', 'ISB_LIMIT_EXCEEDED'].includes(error.code)
  )
}

function inContext(error: BuilderError, { blob }: RemoteLayer, endpoint: Endpoint | undefined): BuilderError {
  const where = endpoint === undefined ? '' : ` of ${nameOf(endpoint)}`
  return new BuilderError(error.code, `layer ${blob.digest}${where}: ${error.message}`, {
    ...error.details,
    cause: error,
  })
}
