import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { digestOf } from '@isula-build/shared/oci/digest.js'
import { layerCompression, layerMediaType, mediaTypes } from '@isula-build/shared/oci/media-types.js'
import type { BlobInfo, EncodedManifest, ManifestInput } from '../image/manifest.js'
import { decodeManifestDocument } from '../image/manifest-document.js'
import { imageLimits } from '../images/image-limits.js'
import { cacheLimits } from './document.js'

/** Of the configuration by which a manifest is told to be a build cache (OCI image spec, artifacts guidance). */
export const cacheConfigType = 'application/vnd.isula-build.cache.config.v1+json'

/** Content of the one layer of a cache that has none: a manifest has to have some. */
export const emptyLayer: Uint8Array = Buffer.from('{}', 'utf8')

export interface CacheManifest {
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
}

export function encodeCacheManifest(config: BlobInfo, layers: ManifestInput['layers']): EncodedManifest {
  const descriptors = layers.map(({ digest, size, compression }) => ({
    mediaType: layerMediaType('oci', compression),
    ...{ digest, size },
  }))
  const empty = { mediaType: mediaTypes.ociEmpty, digest: digestOf(emptyLayer), size: emptyLayer.length }
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: cacheConfigType, digest: config.digest, size: config.size },
      layers: descriptors.length === 0 ? [empty] : descriptors,
    }),
    'utf8',
  )
  const descriptor = { mediaType: mediaTypes.ociManifest, digest: digestOf(bytes), size: bytes.length }
  return { bytes, descriptor }
}

/** Fails with ISB_ARCHIVE_INVALID, also for an image, which is no cache, and ISB_LIMIT_EXCEEDED. */
export function decodeCacheManifest(bytes: Uint8Array, what: string): CacheManifest {
  const document = decodeManifestDocument(bytes, what, undefined)
  if (document.kind !== 'manifest' || document.config.mediaType !== cacheConfigType) {
    throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} is no build cache`, {
      hint: 'Name what --cache-to wrote.',
    })
  }
  const { config, layers } = document
  if (config.size > cacheLimits.document || layers.length > cacheLimits.layers) {
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what} is too large`)
  }
  for (const { mediaType, size } of layers) {
    if (mediaType !== mediaTypes.ociEmpty && layerCompression(mediaType) === undefined) {
      throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} has a layer that is none`)
    }
    if (size > imageLimits.layer) {
      throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what} has a layer of ${size} bytes`)
    }
  }
  return { config, layers }
}
