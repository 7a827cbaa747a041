import type { Digest } from '@isula-build/shared/oci/digest.js'
import type { ManifestFormat } from '@isula-build/shared/oci/media-types.js'

/** What a list says of one of its images; OCI image spec image-index.md, Docker manifest list. */
export interface ListPlatform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
  readonly osVersion?: string
  readonly osFeatures?: readonly string[]
  readonly features?: readonly string[]
}

export interface ListEntry {
  /** Of the manifest: the registry's, or for a local image the one it has with uncompressed layers. */
  readonly digest: Digest
  readonly size: number
  readonly mediaType: string
  readonly platform: ListPlatform
  readonly annotations?: Readonly<Record<string, string>>
  /** Where the manifest is: `registry/repository` (canonical name), or the local image. */
  readonly origin:
    | { readonly kind: 'remote'; readonly name: string }
    | { readonly kind: 'local'; readonly imageId: string }
}

export interface ManifestList {
  /** In local form `repo:tag`. */
  readonly name: string
  /** 64 hex digits: sha256 of the encoded list. */
  readonly id: string
  readonly format: ManifestFormat
  readonly entries: readonly ListEntry[]
  readonly annotations: Readonly<Record<string, string>>
  readonly owner: number
  /** Milliseconds since the epoch. */
  readonly createdAt: number
}

/**
 * Lists of images for several platforms under one name. A name means a list or an image, never both; giving it to one
 * takes it from the other, in one transaction, under the rules of ImageStore for owners. Local images of a list stay
 * while it does.
 */
export interface ManifestListStore {
  /** Replaces a list of the same name and owner; `create` fails with ISB_ALREADY_EXISTS when the name is taken. */
  put(list: ManifestList, mode: 'create' | 'replace'): Promise<void>
  /** By exact name in local form. */
  get(name: string): Promise<ManifestList | undefined>
  all(): Promise<readonly ManifestList[]>
  /** Fails with ISB_PERMISSION_DENIED for another user's; false when there is none. */
  remove(name: string, by: number): Promise<boolean>
}
