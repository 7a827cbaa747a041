import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { parseDigest } from '@isula-build/shared/oci/digest.js'
import {
  arrayOf,
  decodeJson,
  type JsonObject,
  member,
  objectOf,
  optional,
  sizeOf,
  stringMapOf,
  stringOf,
} from '@isula-build/shared/oci/json-document.js'
import { isIndexMediaType, isManifestMediaType } from '@isula-build/shared/oci/media-types.js'
import { formatPlatform, type Platform, platformRank } from '@isula-build/shared/oci/platform.js'

const maxManifests = 10_000

/** A manifest or an index, told apart by what it holds. */
export type ManifestDocument =
  | { readonly kind: 'index'; readonly manifests: readonly Descriptor[] }
  | { readonly kind: 'manifest'; readonly config: Descriptor; readonly layers: readonly Descriptor[] }

/**
 * Decodes a manifest or index. One that is both, or that says another media type than its descriptor, is
 * refused: readers disagree on what it means (CVE-2021-41190).
 */
export function decodeManifestDocument(
  bytes: Uint8Array,
  what: string,
  mediaType: string | undefined,
): ManifestDocument {
  const json = objectOf(decodeJson(bytes, what), what)
  const stated = optional(json, 'mediaType', stringOf)
  if (mediaType !== undefined && stated !== undefined && stated !== mediaType) {
    throw invalid(`${what} says it is ${quote(stated)}, its descriptor says ${quote(mediaType)}`)
  }
  const isIndex = Object.hasOwn(json, 'manifests')
  const isManifest = ['layers', 'config', 'fsLayers'].some((key) => Object.hasOwn(json, key))
  if (isIndex && isManifest) throw invalid(`${what} is ambiguous: it is both a manifest and an index`)
  const type = mediaType ?? stated
  if (
    type !== undefined && isIndex
      ? !isIndexMediaType(type ?? '')
      : type !== undefined && !isManifestMediaType(type)
  ) {
    throw invalid(`${what} does not hold what its media type ${quote(type ?? '')} says`)
  }
  return isIndex ? indexOf(json, what) : manifestOf(json, what)
}

function indexOf(json: JsonObject, what: string): ManifestDocument {
  const manifests = optional(json, 'manifests', arrayOf) ?? []
  if (manifests.length > maxManifests) {
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what} lists more than ${maxManifests} manifests`)
  }
  return {
    kind: 'index',
    manifests: manifests.map((item) => decodeDescriptor(item, `a manifest in ${what}`)),
  }
}

function manifestOf(json: JsonObject, what: string): ManifestDocument {
  if (member(json, 'config') === undefined) throw invalid(`${what} has no "config"`)
  const layers = optional(json, 'layers', arrayOf) ?? []
  return {
    kind: 'manifest',
    config: decodeDescriptor(member(json, 'config'), `"config" of ${what}`),
    layers: layers.map((item) => decodeDescriptor(item, `a layer in ${what}`)),
  }
}

/** Decodes a descriptor (OCI image spec, descriptor.md). Fails with ISB_ARCHIVE_INVALID. */
export function decodeDescriptor(value: unknown, what: string): Descriptor {
  const json = objectOf(value, what)
  const written = optional(json, 'digest', stringOf)
  const digest = parseDigest(written)
  if (digest === undefined) {
    const shown = JSON.stringify((written ?? '').slice(0, 100))
    throw new BuilderError(
      'ISB_ARCHIVE_INVALID',
      `digest ${shown} of ${what} is not a lower-case sha256 digest`,
    )
  }
  const size = optional(json, 'size', sizeOf)
  if (size === undefined) throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} has no size`)
  const annotations = optional(json, 'annotations', stringMapOf)
  const platform = optional(json, 'platform', decodePlatform)
  return {
    mediaType: optional(json, 'mediaType', stringOf) ?? '',
    digest,
    size,
    ...(annotations === undefined ? {} : { annotations }),
    ...(platform === undefined ? {} : { platform }),
  }
}

function decodePlatform(value: unknown, what: string): Platform {
  const json: JsonObject = objectOf(value, what)
  const variant = optional(json, 'variant', stringOf)
  return {
    os: optional(json, 'os', stringOf) ?? '',
    architecture: optional(json, 'architecture', stringOf) ?? '',
    ...(variant === undefined || variant === '' ? {} : { variant }),
  }
}

/** BuildKit stores provenance beside images as manifests for an unknown platform. */
export function isAttestation(descriptor: Descriptor): boolean {
  return descriptor.annotations?.['vnd.docker.reference.type'] === 'attestation-manifest'
}

/** The best match for the platform; entries that name none are for any, and a single entry is what it is. */
export function pickPlatform(
  candidates: readonly Descriptor[],
  platform: Platform,
  what: string,
): Descriptor {
  const descriptors = candidates.filter((descriptor) => !isAttestation(descriptor))
  const [only] = descriptors
  if (only !== undefined && descriptors.length === 1) return only
  let best: { descriptor: Descriptor; rank: number } | undefined
  for (const descriptor of descriptors) {
    const rank =
      descriptor.platform === undefined
        ? Number.MAX_SAFE_INTEGER
        : platformRank(platform, descriptor.platform)
    if (rank !== undefined && (best === undefined || rank < best.rank)) best = { descriptor, rank }
  }
  if (best !== undefined) return best.descriptor
  const have = descriptors.map((item) => (item.platform === undefined ? '?' : formatPlatform(item.platform)))
  throw new BuilderError(
    'ISB_PLATFORM_UNSUPPORTED',
    `${what} has no image for ${formatPlatform(platform)}, only for ${have.slice(0, 20).join(', ') || 'none'}`,
  )
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', message)
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 200))
}
