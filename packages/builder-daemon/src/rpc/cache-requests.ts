import type { CacheEntry } from '../ports/build-cache.js'
import type { FileIdentity } from './handlers.js'

// What BuilderCore's methods take and give that is about the build cache.

/** A build cache outside of the store: in a registry, or a directory (an OCI layout) that is opened as the caller. */
export type CacheSource =
  | { readonly kind: 'registry'; readonly reference: string }
  /** `expected` as in ContextOrigin, but another one is an error. */
  | { readonly kind: 'directory'; readonly path: string; readonly expected: FileIdentity | undefined }

/** `min`: what the image consists of; `max`: the results of all steps. */
export type CacheTarget = {
  readonly mode: 'min' | 'max'
  /** undefined: gzip, or what a layer came as. */
  readonly compression: 'gzip' | 'zstd' | undefined
  /** A build whose cache could not be written is no failure. */
  readonly ignoreError: boolean
} & (
  | { readonly kind: 'registry'; readonly reference: string }
  /** Made, or added to, as the caller; `parent` as in OutputTarget. */
  | { readonly kind: 'directory'; readonly path: string; readonly parent: FileIdentity | undefined }
)

export interface PruneRequest {
  /** Also cache mounts, and for root downloads that nobody uses. */
  readonly all: boolean
  /** Stop when no more than this is left, bytes; 0: everything goes. */
  readonly keepBytes: number
  /** Only what was not used for so long, milliseconds; 0: whenever it was used. */
  readonly unusedFor: number
  /** Nothing goes; the events say what would. */
  readonly dryRun: boolean
}

export type PruneEvent =
  | { readonly kind: 'removed'; readonly entry: CacheEntry }
  | {
      readonly kind: 'summary'
      readonly freedBytes: number
      /** Cache records that went without an entry. */
      readonly records: number
      /** Of `freedBytes`, what downloads took. */
      readonly downloads: number
    }
