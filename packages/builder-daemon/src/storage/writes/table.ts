import { buildCacheWrites } from './build-cache.js'
import { cacheWrites } from './cache.js'
import { gcWrites } from './gc.js'
import { imageWrites } from './images.js'
import { layerWrites } from './layers.js'
import { leaseWrites } from './leases.js'
import { listWrites } from './lists.js'
import type { Write } from './transaction.js'
import { transferWrites } from './transfers.js'

/** Everything that changes the database, by the name it is asked for between threads. */
export const writes = {
  ...leaseWrites,
  ...layerWrites,
  ...imageWrites,
  ...cacheWrites,
  ...buildCacheWrites,
  ...gcWrites,
  ...transferWrites,
  ...listWrites,
}

export type WriteName = keyof typeof writes

export type WriteParams<N extends WriteName> = (typeof writes)[N] extends Write<infer P, infer _R> ? P : never

export type WriteResult<N extends WriteName> = (typeof writes)[N] extends Write<infer _P, infer R> ? R : never
