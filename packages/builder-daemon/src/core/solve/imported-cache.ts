import type { CacheOrigin } from '../../ports/cache-index.js'
import type { LayerId } from '../../ports/layer-store.js'

/** Records of elsewhere that one build was told to use. They serve that build alone. */
export interface ImportedCache {
  /**
   * Looks for a result of a vertex; its layer, when it has one, is in the store then and held by the build. A record whose
   * layer cannot be had is passed over with a warning. Fails only when the build is cancelled.
   */
  find(wanted: ImportQuery): Promise<ImportedResult | undefined>
}

export interface ImportQuery {
  readonly shape: string
  readonly origin: CacheOrigin
  /** Asked for only when a record could match. */
  readonly content: () => Promise<string>
  /** As in CacheQuery. */
  readonly readsInputsOnly: boolean
  /** The content does not cover what is read of `origin.inputs`. */
  readonly needsInputs: boolean
  /** Has the layers of a stack hashed that were not yet; undefined when one is gone. */
  readonly hash: (stack: readonly LayerId[]) => Promise<unknown>
  readonly signal: AbortSignal
}

export interface ImportedResult {
  /** null: nothing changed. */
  readonly layer: LayerId | null
  readonly contentKey: string
}
