import type { ImageReference } from '@isula-build/shared/oci/reference.js'
import { dockerScopes } from './scopes.js'

/** Where signatures of images are, by scope (containers-registries.d(5)). */
export interface SignaturePlaces {
  readonly standard: SignaturePlace | undefined
  readonly scopes: ReadonlyMap<string, SignaturePlace>
}

export interface SignaturePlace {
  /** URL (file, http, https) below which simple signatures lie. */
  readonly lookaside: string | undefined
  /** Whether signatures of cosign's are looked for beside the image. */
  readonly attachments: boolean | undefined
}

/** Where containers/image looks when nothing is configured. */
const defaultLookaside = 'file:///var/lib/containers/sigstore'

export const noPlaces: SignaturePlaces = { standard: undefined, scopes: new Map() }

/** URL of the directory of one signed manifest: `<lookaside>/<repository>@sha256=<hex>`. */
export function lookasideOf(places: SignaturePlaces, reference: ImageReference, hex: string): URL {
  const base = new URL(setting(places, reference, ({ lookaside }) => lookaside) ?? defaultLookaside)
  base.pathname = `${base.pathname.replace(/\/+$/, '')}/${reference.path}@sha256=${hex}`
  return base
}

/** Looked for unless that is switched off: only policies that ask for such signatures cause it. */
export function attachmentsOf(places: SignaturePlaces, reference: ImageReference): boolean {
  return setting(places, reference, ({ attachments }) => attachments) ?? true
}

/** Of the most specific scope that says something. */
function setting<T>(
  places: SignaturePlaces,
  reference: ImageReference,
  read: (place: SignaturePlace) => T | undefined,
): T | undefined {
  for (const scope of dockerScopes(reference)) {
    const place = places.scopes.get(scope)
    const value = place === undefined ? undefined : read(place)
    if (value !== undefined) return value
  }
  return places.standard === undefined ? undefined : read(places.standard)
}
