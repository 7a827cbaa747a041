import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { digestOf } from '@isula-build/shared/oci/digest.js'
import type { ImageReference } from '@isula-build/shared/oci/reference.js'
import { checkCompressionLevel } from '../image/compression-level.js'
import { firstThat, type LocatedImage, locateImage, nameOf, registryCall } from '../transfer/locate.js'
import { placeConfig } from '../transfer/place-blob.js'
import { placeContent } from '../transfer/push.js'
import type { PushShape, TransferCall, TransferServices } from '../transfer/transfer.js'
import type { CacheContent } from './collect.js'
import { cacheLimits, encodeCacheDocument } from './document.js'
import type { CachePlace, OpenedCache, UnpackedLayer } from './imports.js'
import { decodeCacheManifest, emptyLayer, encodeCacheManifest } from './manifest.js'

/**
 * Makes the cache appear at the destination, the manifest last; what the registry has is not sent. Fails as `pushImage`.
 */
export async function pushCache(
  content: CacheContent,
  reference: ImageReference,
  compression: PushShape['compression'],
  services: TransferServices,
  call: TransferCall,
): Promise<void> {
  checkCompressionLevel(compression ?? 'gzip', undefined)
  const endpoint = services.rules.destination(reference)
  const shape: PushShape = { format: 'oci', compression, level: undefined }
  const place = async () => {
    const config = encodeCacheDocument(content.document)
    const placed = await placeContent({ layers: content.layers, config }, shape, endpoint, services, call)
    if (placed.blobs.length === 0) {
      const blob = { digest: digestOf(emptyLayer), size: emptyLayer.length }
      await placeConfig(blob, emptyLayer, endpoint, services, call, () => undefined)
    }
    return encodeCacheManifest(placed.config, placed.blobs)
  }
  const put = async (): Promise<void> => {
    const { bytes, descriptor } = await place()
    const manifest = { mediaType: descriptor.mediaType, bytes }
    await services.client.putManifest(endpoint, reference.tag ?? 'latest', manifest, registryCall(call))
  }
  try {
    await put()
  } catch (error) {
    if (!isBuilderError(error, 'ISB_IMAGE_NOT_FOUND')) throw error
    call.onLog(`[Warning] ${error.message}; the content is sent again`)
    await put()
  }
}

/** A cache at a registry, with what the rules say of its reference. */
export function registryCache(reference: string, services: TransferServices, call: TransferCall): CachePlace {
  return {
    name: reference,
    async open(signal) {
      const inner = { ...call, signal }
      const located = await locate(reference, services, inner)
      if (located === undefined) return undefined
      const { endpoint, top } = located
      await services.rules.admit(
        { reference: located.reference, endpoint, manifest: top, index: undefined },
        registryCall(inner),
      )
      const { config, layers } = decodeCacheManifest(top.bytes, reference)
      const { value: document } = await firstThat(located.endpoints, inner, (one, asking) =>
        services.client.readBlob(one, config, cacheLimits.document, asking),
      )
      return { layers, document, unpack: unpackFrom(located, services, call) }
    },
  }
}

async function locate(reference: string, services: TransferServices, call: TransferCall) {
  try {
    return await locateImage(reference, services, call)
  } catch (error) {
    if (isBuilderError(error, 'ISB_IMAGE_NOT_FOUND')) return undefined
    throw error
  }
}

function unpackFrom(
  { endpoints }: LocatedImage,
  { client, files, memory, workers }: TransferServices,
  call: TransferCall,
): OpenedCache['unpack'] {
  const source = `${endpoints.map(nameOf).join(' ')} ${call.access.tlsVerify ?? ''}`

  async function unpack(blob: Descriptor, path: string, params: UnpackedLayer, signal: AbortSignal) {
    const applied = await workers.run('applyFile', { path, ...params }, signal)
    if (applied === undefined) return undefined
    const { compression, diffId } = applied
    if (compression !== 'xz' && compression !== 'bzip2') {
      const { digest, size } = blob
      await memory.rememberBlob(diffId, { digest, size, compression, recipe: null })
    }
    return applied
  }

  return async (blob, params, signal) => {
    const fill = async (path: string, filling: AbortSignal): Promise<void> => {
      const onProgress = (done: number): void => call.onProgress?.(blob.digest, done, blob.size)
      await firstThat(endpoints, { ...call, signal: filling }, (endpoint, asking) =>
        client.fetchBlob(endpoint, blob, { path, onProgress }, asking),
      )
    }
    const { uid } = call.access
    try {
      using held = await files.obtain(uid, blob.digest, fill, signal, source)
      return await unpack(blob, held.path, params, signal)
    } finally {
      // A failure for want of an answer leaves nothing that a build would come back for.
      await files.release(uid, [blob.digest])
    }
  }
}
