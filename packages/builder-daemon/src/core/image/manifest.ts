import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { type Digest, digestOf } from '@isula-build/shared/oci/digest.js'
import {
  configMediaType,
  indexMediaType,
  type LayerCompression,
  layerMediaType,
  type ManifestFormat,
  manifestMediaType,
} from '@isula-build/shared/oci/media-types.js'
import { encodeCanonical, type KeyOrder, sorted } from './canonical-json.js'

/** A stored blob; `size` in bytes. */
export interface BlobInfo {
  readonly digest: Digest
  readonly size: number
}

export interface ManifestInput {
  readonly config: BlobInfo
  /** Bottom first. */
  readonly layers: readonly (BlobInfo & { readonly compression: LayerCompression })[]
  /** OCI only. */
  readonly annotations?: Readonly<Record<string, string>>
}

export interface EncodedManifest {
  readonly bytes: Uint8Array
  readonly descriptor: Descriptor
}

const platformOrder: KeyOrder = { architecture: sorted, os: sorted, variant: sorted }
const descriptorOrder: KeyOrder = {
  mediaType: sorted,
  digest: sorted,
  size: sorted,
  annotations: sorted,
  platform: platformOrder,
}
const manifestOrder: KeyOrder = {
  schemaVersion: sorted,
  mediaType: sorted,
  config: descriptorOrder,
  layers: descriptorOrder,
  manifests: descriptorOrder,
  annotations: sorted,
}

/** Image manifest: Docker schema 2 or OCI image-spec manifest.md. The same input gives the same bytes. */
export function encodeManifest(format: ManifestFormat, input: ManifestInput): EncodedManifest {
  const { config, layers, annotations } = input
  return encode(manifestMediaType(format), {
    config: descriptor(configMediaType(format), config),
    layers: layers.map((layer) => descriptor(layerMediaType(format, layer.compression), layer)),
    ...(annotations === undefined || format === 'docker' ? {} : { annotations }),
  })
}

/** OCI image index or Docker manifest list over manifests in their given order. */
export function encodeIndex(
  format: ManifestFormat,
  manifests: readonly Descriptor[],
  annotations?: Readonly<Record<string, string>>,
): EncodedManifest {
  return encode(indexMediaType(format), {
    manifests,
    ...(annotations === undefined || format === 'docker' ? {} : { annotations }),
  })
}

function descriptor(mediaType: string, blob: BlobInfo): Descriptor {
  return { mediaType, digest: blob.digest, size: blob.size }
}

function encode(mediaType: string, body: Readonly<Record<string, unknown>>): EncodedManifest {
  const bytes = encodeCanonical({ schemaVersion: 2, mediaType, ...body }, manifestOrder)
  return { bytes, descriptor: { mediaType, digest: digestOf(bytes), size: bytes.length } }
}
