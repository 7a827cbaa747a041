import type { ImageReference } from '@isula-build/shared/oci/reference.js'

/** policy.json as data (containers-policy.json(5)). */
export interface Policy {
  readonly default: readonly PolicyRequirement[]
  /** Transport (`docker`, `docker-archive`, …) → scope → what images in it have to meet. */
  readonly transports: ReadonlyMap<string, ReadonlyMap<string, readonly PolicyRequirement[]>>
}

export type PolicyRequirement =
  | { readonly type: 'insecureAcceptAnything' }
  | { readonly type: 'reject' }
  /** Nobody implements what it asks for, so it is never met. */
  | { readonly type: 'signedBaseLayer' }
  /** `signedBy`: simple signing with GPG; `sigstoreSigned`: a signature of cosign's. By any of the keys. */
  | {
      readonly type: 'signedBy' | 'sigstoreSigned'
      readonly keys: KeySource
      readonly identity: SignedIdentity
    }

export type KeySource =
  | { readonly kind: 'files'; readonly paths: readonly string[] }
  | { readonly kind: 'data'; readonly blocks: readonly Uint8Array[] }

/** Which names a signature may be for. */
export type SignedIdentity =
  | { readonly type: 'matchExact' | 'matchRepoDigestOrExact' | 'matchRepository' }
  | { readonly type: 'exactReference' | 'exactRepository'; readonly reference: ImageReference }
  | { readonly type: 'remapIdentity'; readonly prefix: string; readonly signedPrefix: string }
