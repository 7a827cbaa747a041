import type { DiffId } from '@isula-build/shared/oci/digest.js'

/** Random name of a layer directory (32 hex digits), never derived from input. */
export type LayerId = string & { readonly __brand: 'LayerId' }

export interface LayerRecord {
  readonly id: LayerId
  /** null until the layer was exported or hashed once. */
  readonly diffId: DiffId | null
  /** Bytes of the uncompressed layer tar, null while `diffId` is. */
  readonly tarSize: number | null
  /** The layer came from elsewhere: its tar headers are kept beside the files, to export it byte-identical. */
  readonly keepsHeaders: boolean
  /**
   * What the parents hold, or do not hold, matters to the changeset (a hard link to them, a directory that no entry
   * describes), so it may be shared only under exactly these: a digest of the parents' diff IDs. null = standalone.
   */
  readonly parentKey: string | null
}

/** A directory being filled. `upper` becomes the layer; `work` serves overlayfs; `extra` is thrown away. */
export interface StagingLayer {
  readonly id: string
  readonly root: string
  readonly upper: string
  readonly work: string
}

/** What a lease protects from removal; dies with its operation or its daemon. */
export interface Lease {
  readonly id: string
}

export interface SealedLayer {
  /** A held layer that some of its files are hard links of: damage of one makes the other suspect. */
  readonly sharesWith?: LayerId | undefined
  readonly diffId: DiffId | null
  readonly tarSize: number | null
  readonly keepsHeaders: boolean
  readonly parentKey: string | null
  /** See `LayerStore.contentIds`; only where it is known already. */
  readonly contentId?: string | null
}

export interface LayerStore {
  acquireLease(owner: { readonly uid: number; readonly purpose: string }): Promise<Lease>
  releaseLease(lease: Lease): Promise<void>
  /** An empty staging directory, recorded so that recovery removes it when the daemon dies. */
  stage(lease: Lease): Promise<StagingLayer>
  /**
   * Renames `staging/<id>` into `layers/` and records it, protected by `lease`. Its durability is that of the store
   * (verified or strict) once an image uses it; a crash before that may lose it. Files beside `upper` (tar headers)
   * go along.
   */
  publish(staging: StagingLayer, sealed: SealedLayer, lease: Lease): Promise<LayerRecord>
  /** Moves the staging directory to the trash; it is removed in the background. */
  abandon(staging: StagingLayer): Promise<void>
  /**
   * A ready layer with this content that may be used over `parentKey`; protected by `lease` when found. Whoever only
   * `names` the content gets what he may reach anyway: a layer of an image, his own, one that his own cache gives him;
   * root any. A layer in another user's build cache is as if it were not here. Who `has` the content gets any.
   */
  findByDiffId(
    diffId: DiffId,
    parentKey: string,
    lease: Lease,
    caller: 'names' | 'has',
  ): Promise<LayerRecord | undefined>
  /** Records what hashing found out later. */
  setDiffId(id: LayerId, diffId: DiffId, tarSize: number, contentId?: string | null): Promise<void>
  /**
   * What layers hold apart from times: equal IDs are equal changesets. For a layer that came from elsewhere
   * it is the diff ID. null for one that is gone, or that was not hashed for it yet.
   */
  contentIds(ids: readonly LayerId[]): Promise<readonly (string | null)[]>
  /** Protects existing layers; fails with ISB_IMAGE_DAMAGED when one is damaged, after verifying suspects. */
  hold(ids: readonly LayerId[], lease: Lease): Promise<readonly LayerRecord[]>
  /**
   * Protects those of the layers that are there, in one step: to `hold` one of them afterwards, which is what makes it
   * fit for use, costs next to nothing.
   */
  holdReady(ids: readonly LayerId[], lease: Lease): Promise<void>
  /** The files are not what the diff ID says: nothing uses the layer until its content is published again. */
  reportDamage(id: LayerId): Promise<void>
  /** `<dataroot>/layers/<id>`: holds `diff/` and, with kept headers, `headers.gz`. */
  directory(id: LayerId): string
  /** Short symbolic link relative to the data root (`l/XXXXXX`) for overlay mount options. */
  shortLink(id: LayerId): string
}
