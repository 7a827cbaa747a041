import type { LayerId } from './layer-store.js'

/** One named reason in a cache key, kept so that a miss can be explained. */
export interface CachePart {
  readonly name: string
  readonly value: string
}

export interface CacheRecord {
  /** What is known before any content is read: instruction, parents, environment. */
  readonly staticKey: string
  /** Digest of the content that was copied; '' where the static key says it all. */
  readonly contentKey: string
  readonly layer: LayerId | null
}

/** May be lost, never wrong. Partitioned by user. */
export interface CacheIndex {
  lookup(uid: number, staticKey: string): Promise<readonly CacheRecord[]>
  store(uid: number, record: CacheRecord, parts: readonly CachePart[]): Promise<void>
}
