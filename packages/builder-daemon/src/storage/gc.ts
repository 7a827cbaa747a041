import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import type { Database } from './database.js'
import type { Trash } from './trash.js'
import type { CollectLimits } from './writes/gc.js'

export type { CollectLimits } from './writes/gc.js'

export const defaultLimits: CollectLimits = {
  graceMs: 3_600_000,
  cacheMs: 14 * 86_400_000,
}

export interface Pruned {
  readonly layers: number
  /** Sum of their layer tars, as far as known, bytes. */
  readonly bytes: number
  readonly cacheRecords: number
}

/**
 * Removes layers that neither an image nor a live lease uses, and cache records nobody used for long.
 * References are never counted, only looked up, so a crash leaves nothing to repair.
 */
export interface Collector {
  /** What the limits allow. */
  collect(): Promise<Pruned>
  /** Everything that is not in use, now, with the cache records that point to it. */
  prune(): Promise<Pruned>
}

export function createCollector(deps: {
  readonly database: Database
  readonly trash: Trash
  readonly clock: Clock
  readonly log: Logger
  readonly limits: CollectLimits
}): Collector {
  const { database, trash, clock, log } = deps
  const run = async (limits: CollectLimits | null): Promise<Pruned> => {
    const collected = await database.write('collect', { now: clock.now(), limits })
    await trash.retire(collected.layers)
    const { bytes, cacheRecords } = collected
    const pruned = { layers: collected.layers.length, bytes, cacheRecords }
    if (pruned.layers + pruned.cacheRecords > 0) log.info('store.collected', { ...pruned })
    return pruned
  }
  return { collect: () => run(deps.limits), prune: () => run(null) }
}
