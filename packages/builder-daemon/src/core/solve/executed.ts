import type { LayerId } from '../../ports/layer-store.js'
import { type CacheAnswer, type CacheQuery, marksOf, originOf } from './cached-result.js'
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
  const { tainted, imported } = marksOf(query)
  const { shape } = query
  const { contentKey, record } = hit
  return {
    snapshot: childSnapshot(query.parent, hit.own, { tainted, imported: imported || hit.imported }),
    cached: true,
    facts: { shape, contentKey, record, evicted: [], sources, origin: originOf(query) },
  }
}
