import type { ImageConfig } from '@isula-build/shared/oci/image-config.js'
import type { LayerId, LayerRecord, Lease } from './layer-store.js'

export interface ImageRecord {
  /** 64 hex digits: sha256 of `configBytes`. */
  readonly id: string
  readonly configBytes: Uint8Array
  readonly config: ImageConfig
  readonly layers: readonly LayerRecord[]
  /** Names in canonical local form `repo:tag`, sorted; may be empty. */
  readonly names: readonly string[]
  /** Milliseconds since the epoch: the config's `created`, else when it was stored. */
  readonly createdAt: number
  /** Sum of the layer tars plus the config, bytes. */
  readonly size: number
  /** Who made it. */
  readonly owner: number
  readonly damaged: boolean
}

/** A listing row; cheap, no config is decoded. */
export interface ImageSummary {
  readonly id: string
  readonly names: readonly string[]
  readonly createdAt: number
  readonly size: number
  readonly owner: number
}

export interface NewImage {
  readonly configBytes: Uint8Array
  readonly layers: readonly LayerId[]
  /** Names move here from whatever image had them, in the same transaction. */
  readonly names: readonly string[]
  /** Who stores it, and whose the names are. */
  readonly owner: number
}

export interface RemovedName {
  readonly imageId: string
  readonly untagged: readonly string[]
  /** Layers no image uses any more, top first; empty when only names went. */
  readonly removedLayers: readonly string[]
  /** False when names of other users keep it; it is theirs then. */
  readonly removedImage: boolean
}

/**
 * Images have an owner, and so has every name: whoever gave it. A name is taken from, and an image removed
 * of, another user by root alone; `by` says who asks, root when left out. Anything else fails with
 * ISB_PERMISSION_DENIED and changes nothing; it is decided in the transaction that acts.
 */
export interface ImageStore {
  /**
   * Config, layers and all names in one transaction. Storing an image that exists adds the names; a name of
   * another user that is this image's already stays his.
   */
  put(image: NewImage, lease: Lease): Promise<ImageRecord>
  /** The same with several, in this order, all or none; of a name that several have the last one gets it. */
  putAll(images: readonly NewImage[], lease: Lease): Promise<readonly ImageRecord[]>
  /** By full ID or exact name `repo:tag`. */
  get(idOrName: string): Promise<ImageRecord | undefined>
  /**
   * What a user means: `name:latest`, then the name, then the full ID, then an ID prefix (>= 1 hex
   * digit; fails with ISB_REFERENCE_INVALID when ambiguous). A name that equals an ID prefix wins.
   * `lease` protects the image's layers from removal.
   */
  resolve(reference: string, lease?: Lease): Promise<ImageRecord | undefined>
  /** Most often the very same array as the last time while nothing changed, so what follows from it may be kept. */
  list(): Promise<readonly ImageSummary[]>
  /** Gives `name` to the image, taking it from another one if needed. */
  tag(imageId: string, name: string, by?: number): Promise<void>
  untag(name: string, by?: number): Promise<void>
  /**
   * Fails as `tag` would for want of rights; for work whose end needs the name. The image need not be there. Whether he
   * may is decided again when the name is given.
   */
  checkName(imageId: string, name: string, by?: number): Promise<void>
  /**
   * Removes the image with all its names, for a user with those that are his. `name`: the image is meant by it, so while
   * it has others only this one goes; fails with ISB_IMAGE_NOT_FOUND when it is another image's. Fails with
   * ISB_IMAGE_IN_USE while a live lease of another operation holds it.
   */
  remove(imageId: string, by?: number, name?: string): Promise<RemovedName>
}
