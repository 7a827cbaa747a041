import type { Digest } from '@isula-build/shared/oci/digest.js'
import type { LayerCompression, ManifestFormat } from '@isula-build/shared/oci/media-types.js'
import type { Platform } from '@isula-build/shared/oci/platform.js'
import type { ImageReference } from '@isula-build/shared/oci/reference.js'
import type { BlobFiles } from '../../ports/blob-files.js'
import type { Clock } from '../../ports/clock.js'
import type { ImageRecord, ImageStore } from '../../ports/image-store.js'
import type { LayerStore, Lease } from '../../ports/layer-store.js'
import type { LayerWorkers } from '../../ports/layer-worker.js'
import type { ManifestListStore } from '../../ports/manifest-lists.js'
import type { RegistryAccess, RegistryClient } from '../../ports/registry.js'
import type { RegistryRules } from '../../ports/registry-rules.js'
import type { TransferMemory } from '../../ports/transfer-memory.js'
import type { SharedWork } from './shared-work.js'

/** What pulls and pushes are made of. */
export interface TransferServices {
  readonly client: RegistryClient
  readonly rules: RegistryRules
  readonly memory: TransferMemory
  readonly files: BlobFiles
  readonly layers: LayerStore
  /** As the caller may use it. */
  readonly images: ImageStore
  readonly workers: LayerWorkers
  readonly clock: Clock
  /** The daemon's own platform. */
  readonly platform: Platform
  /** Lists of this store; without it no name means one. */
  readonly lists?: ManifestListStore | undefined
  /** Layers being unpacked by any pull; without it none waits for another's. */
  readonly unpacking?: SharedWork | undefined
}

export interface TransferCall {
  readonly access: RegistryAccess
  readonly lease: Lease
  readonly signal: AbortSignal
  /** One line for the user, without its end. */
  readonly onLog: (line: string) => void
  readonly onProgress?: ((digest: Digest, done: number, total: number) => void) | undefined
}

export interface PulledImage {
  readonly record: ImageRecord
  readonly platform: Platform
  /** Of the image's own manifest. */
  readonly digest: Digest
}

export interface PullResult {
  /** Which of the candidates it was. */
  readonly reference: ImageReference
  /** Of the manifest or index that the reference means. */
  readonly digest: Digest
  readonly images: readonly PulledImage[]
}

/** What a push shall look like; undefined fields: as the image was, gzip, the compressor's default. */
export interface PushShape {
  readonly format: ManifestFormat | undefined
  readonly compression: Exclude<LayerCompression, 'none'> | undefined
  readonly level: number | undefined
}

/** A manifest that is at the registry now. */
export interface PushedManifest {
  readonly digest: Digest
  readonly size: number
  readonly mediaType: string
}
