import type { Digest } from '@isula-build/shared/oci/digest.js'

/** Where the tar of a layer lies, perhaps compressed. */
export interface StoredTar {
  readonly fd: number
  /** undefined: a stream, to its end. */
  readonly range: { readonly offset: number; readonly length: number } | undefined
  /** Bytes of uncompressed tar allowed. */
  readonly limit: number
  /** Of the bytes as stored. */
  readonly expectedDigest?: Digest | undefined
}

/** What a thread that feeds another one's job is told (see `pipe/feed`). */
export interface FeedParams {
  readonly job: number
  readonly stored: StoredTar
}
