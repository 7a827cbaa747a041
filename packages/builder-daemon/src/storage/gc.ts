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

export interface Collection {
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
  collect(): Promise<Collection>
}

export function createCollector(deps: {
  readonly database: Database
  readonly trash: Trash
  readonly clock: Clock
  readonly log: Logger
  readonly limits: CollectLimits
}): Collector {
  const { database, trash, clock, log } = deps
  return {
    async collect() {
      const collected = await database.write('collect', { now: clock.now(), limits: deps.limits })
      await trash.retire(collected.layers)
      const { bytes, cacheRecords } = collected
      const collection = { layers: collected.layers.length, bytes, cacheRecords }
      if (collection.layers + collection.cacheRecords > 0) log.info('store.collected', { ...collection })
      return collection
    },
  }
}
