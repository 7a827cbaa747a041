import type { LayerId } from '../../ports/layer-store.js'
import type { CacheAnswer, CacheQuery } from './cached-result.js'
import type { Snapshot } from './environment.js'
import type { VertexFacts } from './explain.js'
import { childSnapshot } from './layer-result.js'

/** Outcome of a vertex; `cached` when no work was done. */
export interface Executed {
  readonly snapshot: Snapshot
  readonly cached: boolean
  readonly facts: VertexFacts
}

/** A vertex of which the cache has the result. */
export function executedFrom(
  query: CacheQuery,
  answer: CacheAnswer,
  sources: readonly LayerId[] = [],
): Executed {
  const { hit } = answer
  if (hit === undefined) throw new Error(`the cache has no result of vertex ${query.vertex.id}`)
  const tainted = query.tainted || query.inputs.some((input) => input.tainted)
  return {
    snapshot: childSnapshot(query.parent, hit.own, tainted),
    cached: true,
    facts: { shape: query.shape, contentKey: hit.contentKey, record: hit.record, evicted: [], sources },
  }
}
