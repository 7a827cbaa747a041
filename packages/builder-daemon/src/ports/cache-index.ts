import type { LayerId } from './layer-store.js'

/** One named reason in a cache key, so that a miss can be explained. */
export interface CachePart {
  readonly name: string
  readonly value: string
}

/** The stacks of layers a vertex was executed over, bottom first. */
export interface CacheOrigin {
  readonly parent: readonly LayerId[]
  /** Of what it reads besides (COPY --from, bind mounts), in the order of the vertex. */
  readonly inputs: readonly (readonly LayerId[])[]
}

/** What executing a vertex gave. */
export interface CacheRecord {
  /** What was done: digest of the parts of the vertex. */
  readonly shape: string
  readonly origin: CacheOrigin
  /** Digest of the content that was read elsewhere than in the origin; '' where nothing was. */
  readonly contentKey: string
  /** What `origin.parent` holds, times left out; undefined until somebody had to know. */
  readonly state: string | undefined
  /** The same of what is read of `origin.inputs`, where the content key does not cover it. */
  readonly inputsKey: string | undefined
  /** It, or something it stands on, came of a secret, an ssh agent or credentials: nobody else's. */
  readonly tainted: boolean
  /** null: nothing changed. */
  readonly layer: LayerId | null
}

export interface StoredRecord extends CacheRecord {
  readonly id: number
  /** Another user made it. */
  readonly foreign: boolean
  /** The layer is there; without, the record never matches. */
  readonly usable: boolean
  /** When the layer was removed, milliseconds since the epoch. */
  readonly evictedAt: number | undefined
}

export interface RecordFacts {
  readonly id: number
  readonly state?: string | undefined
  readonly inputsKey?: string | undefined
}

/**
 * May be lost, never wrong. Partitioned by user; where the administrator shares the cache, look-ups also
 * find what others made, but never what is tainted.
 */
export interface CacheIndex {
  /** Records of a shape, those over this parent first, then the newest; a limited number of them. */
  lookup(uid: number, shape: string, parent: readonly LayerId[]): Promise<readonly StoredRecord[]>
  /** Replaces what was stored for the same origin and content; undefined when the layer is already gone. */
  store(uid: number, record: CacheRecord): Promise<number | undefined>
  /** Adds what was found out later; records that are gone are passed over. */
  learn(facts: readonly RecordFacts[]): Promise<void>
  /** When the layers of these records were removed; records that are usable, or forgotten, are left out. */
  evictions(ids: readonly number[]): Promise<ReadonlyMap<number, number>>
  /** Layers of these records of a user, as far as they are there. */
  layersOf(uid: number, ids: readonly number[]): Promise<readonly LayerId[]>
  /** What `remember` was given last. */
  recall(uid: number, project: string): Promise<string | undefined>
  /** Keeps a text for the next build of a project, until it was not built for long. */
  remember(uid: number, project: string, document: string): Promise<void>
}
