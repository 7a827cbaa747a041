import type { DiffId, Digest } from '@isula-build/shared/oci/digest.js'
import type { ImageConfig } from '@isula-build/shared/oci/image-config.js'
import type { Member } from './archive-index.js'

/** An image found in an archive: documents decoded and verified, layers only located. */
export interface ArchivedImage {
  readonly configBytes: Uint8Array
  readonly config: ImageConfig
  /** Bottom first, one for every diff ID of the config. */
  readonly layers: readonly ArchivedLayer[]
  /** In local form `repo:tag`. */
  readonly names: readonly string[]
}

export interface ArchivedLayer {
  readonly diffId: DiffId
  readonly member: Member
  /** Digest of the bytes as stored, where the archive states one. */
  readonly blob: Digest | undefined
}
