import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { digestHex } from '@isula-build/shared/oci/digest.js'
import type { JsonObject } from '@isula-build/shared/oci/json-document.js'
import { objectOf, optional, stringOf, stringsOf } from '@isula-build/shared/oci/json-document.js'
import type { ManifestFormat } from '@isula-build/shared/oci/media-types.js'
import { formatPlatform, type Platform, platformRank } from '@isula-build/shared/oci/platform.js'
import type { ListEntry, ListPlatform, ManifestList } from '../../ports/manifest-lists.js'
import { type EncodedManifest, encodeIndex } from './manifest.js'

type ListedImage = Pick<ListEntry, 'digest' | 'size' | 'mediaType' | 'platform' | 'annotations'>

/**
 * The list as a registry gets it. A Docker manifest list holds no annotations, so it is written without them; it may
 * hold OCI manifests and the other way round.
 */
export function encodeList(
  format: ManifestFormat,
  entries: readonly ListedImage[],
  annotations: Readonly<Record<string, string>>,
): EncodedManifest {
  const isEmpty = (texts: Readonly<Record<string, string>> | undefined): boolean =>
    format === 'docker' || texts === undefined || Object.keys(texts).length === 0
  const manifests = entries.map(
    ({ mediaType, digest, size, platform, annotations: own }): Descriptor => ({
      ...{ mediaType, digest, size, platform: encodePlatform(platform) },
      ...(isEmpty(own) ? {} : { annotations: own ?? {} }),
    }),
  )
  return encodeIndex(format, manifests, isEmpty(annotations) ? undefined : annotations)
}

/** A list with these entries; its ID is the digest of the document. */
export function listOf(list: Omit<ManifestList, 'id'>): ManifestList {
  const { descriptor } = encodeList(list.format, list.entries, list.annotations)
  return { ...list, id: digestHex(descriptor.digest) }
}

/** `platform` of a descriptor in an index (OCI image spec, image-index.md; Docker manifest list, `features`). */
export function decodeListPlatform(value: unknown, what: string): ListPlatform {
  const json: JsonObject = objectOf(value, what)
  const text = (key: string): string | undefined => optional(json, key, stringOf) || undefined
  const texts = (key: string): readonly string[] | undefined => optional(json, key, stringsOf)
  return listPlatform({
    os: text('os') ?? '',
    architecture: text('architecture') ?? '',
    variant: text('variant'),
    osVersion: text('os.version'),
    osFeatures: texts('os.features'),
    features: texts('features'),
  })
}

/** Without what is undefined or empty. */
export function listPlatform(fields: {
  readonly os: string
  readonly architecture: string
  readonly variant?: string | undefined
  readonly osVersion?: string | undefined
  readonly osFeatures?: readonly string[] | undefined
  readonly features?: readonly string[] | undefined
}): ListPlatform {
  const { os, architecture, variant, osVersion, osFeatures, features } = fields
  return {
    ...{ os, architecture },
    ...(variant === undefined || variant === '' ? {} : { variant }),
    ...(osVersion === undefined || osVersion === '' ? {} : { osVersion }),
    ...(osFeatures === undefined || osFeatures.length === 0 ? {} : { osFeatures }),
    ...(features === undefined || features.length === 0 ? {} : { features }),
  }
}

/** The entry that runs best on the platform; undefined when none does. */
export function pickEntry(entries: readonly ListEntry[], wanted: Platform): ListEntry | undefined {
  let best: { readonly entry: ListEntry; readonly rank: number } | undefined
  for (const entry of entries) {
    const rank = platformRank(wanted, entry.platform)
    if (rank !== undefined && (best === undefined || rank < best.rank)) best = { entry, rank }
  }
  return best?.entry
}

/** For messages: `linux/arm64 (sha256:…)`. */
export function describeEntry({ platform, digest }: Pick<ListEntry, 'platform' | 'digest'>): string {
  return `${formatPlatform(platform)} (${digest})`
}

function encodePlatform({ osVersion, osFeatures, ...rest }: ListPlatform): Platform {
  return {
    ...rest,
    ...(osVersion === undefined ? {} : { 'os.version': osVersion }),
    ...(osFeatures === undefined ? {} : { 'os.features': osFeatures }),
  }
}
