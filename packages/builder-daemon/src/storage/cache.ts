import type { CacheIndex, CachePart, CacheRecord } from '../ports/cache-index.js'
import type { Clock } from '../ports/clock.js'
import type { LayerId } from '../ports/layer-store.js'
import type { Logger } from '../ports/logger.js'
import type { Database } from './database.js'

export interface LocalCacheIndex extends CacheIndex {
  /** The named parts a record was stored with, in their order; undefined without such a record. */
  parts(uid: number, staticKey: string, contentKey: string): Promise<readonly CachePart[] | undefined>
  /** Forgets the records of one user, or of all; gives how many there were. */
  drop(uid?: number): Promise<number>
}

/** How old a record's time of use may get before a hit renews it; keeps hits free of writes. */
const renewAfterMs = 3_600_000

interface RecordRow {
  readonly record: number
  readonly content_key: string
  readonly layer_id: string | null
  readonly used_at: number
}

export function createCacheIndex(deps: {
  readonly database: Database
  readonly clock: Clock
  readonly log: Logger
}): LocalCacheIndex {
  const { database, clock, log } = deps

  const renew = (rows: readonly RecordRow[]): void => {
    const now = clock.now()
    const records = rows.filter((row) => now - row.used_at > renewAfterMs).map((row) => row.record)
    if (records.length === 0) return
    database.write('touchCacheRecords', { records, now }).catch((error) => {
      log.warn('cache.not-renewed', { error: String(error) })
    })
  }

  return {
    async lookup(uid, staticKey) {
      const rows = database.read.all<RecordRow>(
        `SELECT record, content_key, layer_id, used_at FROM cache_records
         WHERE uid = ? AND static_key = ?
           AND (layer_id IS NULL OR EXISTS (SELECT 1 FROM layers WHERE id = layer_id AND state = 'ready'))
         ORDER BY stored_at DESC, record DESC`,
        uid,
        staticKey,
      )
      renew(rows)
      return rows.map(
        (row): CacheRecord => ({
          staticKey,
          contentKey: row.content_key,
          layer: row.layer_id as LayerId | null,
        }),
      )
    },

    async store(uid, record, parts) {
      const stored = await database.write('storeCacheRecord', {
        uid,
        staticKey: record.staticKey,
        contentKey: record.contentKey,
        layerId: record.layer,
        parts,
        now: clock.now(),
      })
      if (!stored) log.debug('cache.not-stored', { layer: record.layer })
    },

    async parts(uid, staticKey, contentKey) {
      const found = database.read.get<{ record: number }>(
        'SELECT record FROM cache_records WHERE uid = ? AND static_key = ? AND content_key = ?',
        uid,
        staticKey,
        contentKey,
      )
      if (found === undefined) return undefined
      return database.read.all<CachePart>(
        'SELECT name, value FROM cache_parts WHERE record = ? ORDER BY position',
        found.record,
      )
    },

    drop: (uid) => database.write('dropCacheRecords', { uid: uid ?? null }),
  }
}
