import type { DiffId, Digest } from '@isula-build/shared/oci/digest.js'
import type { LayerCompression } from '@isula-build/shared/oci/media-types.js'

/** A form in which a registry has, or got, a layer. */
export interface LayerBlob {
  readonly digest: Digest
  /** Bytes as stored there. */
  readonly size: number
  readonly compression: LayerCompression
  /**
   * How to make the same bytes again from the layer (compressor, version, level); null: they came from elsewhere and
   * cannot be made here.
   */
  readonly recipe: string | null
}

/** What earlier transfers found out. All of it may be lost at any time; it only saves work. */
export interface TransferMemory {
  /** Known forms of a layer, the one used last first. */
  blobsOf(diffId: DiffId): Promise<readonly LayerBlob[]>
  rememberBlob(diffId: DiffId, blob: LayerBlob): Promise<void>
  /** Repositories of `host` where this user saw the blob, the latest first. */
  placesOf(uid: number, host: string, digest: Digest): Promise<readonly string[]>
  rememberPlace(uid: number, host: string, repository: string, digests: readonly Digest[]): Promise<void>
  /**
   * `name@digest` (canonical name, manifest or index) means this image. Goes with the image.
   */
  rememberDigest(name: string, digest: Digest, imageId: string): Promise<void>
  /** Images that `name@digest` is known to mean: one for each platform of an index. */
  imagesOf(name: string, digest: Digest): Promise<readonly string[]>
  /** Digests by which an image is known under a name. */
  digestsOf(imageId: string, name: string): Promise<readonly Digest[]>
}
