import type { Platform } from '../core/plan/plan.js'
import type { Clock } from '../ports/clock.js'
import type { ImageStore } from '../ports/image-store.js'
import type { LayerStore, Lease } from '../ports/layer-store.js'
import type { LayerWorkers } from '../ports/layer-worker.js'
import type { ManifestListStore } from '../ports/manifest-lists.js'
import type { ArchiveLimits } from './archive-limits.js'

/** What reading and writing archives needs from the daemon. */
export interface ArchiveServices {
  readonly layers: LayerStore
  readonly images: ImageStore
  /** Without it no name means a list. */
  readonly lists?: ManifestListStore | undefined
  readonly workers: LayerWorkers
  readonly clock: Clock
  /** The platform picked from an image index. */
  readonly platform: Platform
  readonly limits: ArchiveLimits
  /** Fails with ISB_POLICY_REJECTED for archives that may not be loaded; without it all may. */
  readonly admit?: ((transport: 'docker-archive' | 'oci-archive', path: string) => void) | undefined
}

export interface ArchiveOptions {
  /** Uid of the caller, who owns what comes out. */
  readonly owner: number
  /** Protects layers until they belong to an image. */
  readonly lease: Lease
  readonly signal: AbortSignal
  /** One line for the user, without its newline. */
  readonly onLog: (line: string) => void
}

/**
 * Where an archive comes from. `fd` may be a regular file, a pipe or a socket; it stays the caller's to
 * close. `path` is for messages.
 */
export type ArchiveInput =
  | { readonly fd: number; readonly path: string }
  | { readonly stream: AsyncIterable<Uint8Array>; readonly path: string }
