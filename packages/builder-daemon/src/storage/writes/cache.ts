import type { CachePart } from '../../ports/cache-index.js'
import { ordered } from './transaction.js'

/** Cache records may be lost, so none of them waits for a flush of its own. */
export const cacheWrites = {
  /** False when the layer is already gone and nothing was stored. */
  storeCacheRecord: ordered(
    (
      tx,
      p: {
        readonly uid: number
        readonly staticKey: string
        readonly contentKey: string
        readonly layerId: string | null
        readonly parts: readonly CachePart[]
        readonly now: number
      },
    ): boolean => {
      if (
        p.layerId !== null &&
        tx.get("SELECT 1 FROM layers WHERE id = ? AND state = 'ready'", p.layerId) === undefined
      ) {
        return false
      }
      const stored = tx.get<{ record: number }>(
        `INSERT INTO cache_records (uid, static_key, content_key, layer_id, stored_at, used_at)
         VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (uid, static_key, content_key)
         DO UPDATE SET layer_id = excluded.layer_id, stored_at = excluded.stored_at, used_at = excluded.used_at
         RETURNING record`,
        p.uid,
        p.staticKey,
        p.contentKey,
        p.layerId,
        p.now,
        p.now,
      )
      if (stored === undefined) throw new Error('a cache record was not stored')
      tx.run('DELETE FROM cache_parts WHERE record = ?', stored.record)
      p.parts.forEach((part, position) => {
        tx.run(
          'INSERT INTO cache_parts (record, position, name, value) VALUES (?, ?, ?, ?)',
          stored.record,
          position,
          part.name,
          part.value,
        )
      })
      return true
    },
  ),

  touchCacheRecords: ordered((tx, p: { readonly records: readonly number[]; readonly now: number }) => {
    for (const record of p.records)
      tx.run('UPDATE cache_records SET used_at = ? WHERE record = ?', p.now, record)
  }),

  /** Records removed. */
  dropCacheRecords: ordered((tx, p: { readonly uid: number | null }): number =>
    p.uid === null
      ? tx.run('DELETE FROM cache_records')
      : tx.run('DELETE FROM cache_records WHERE uid = ?', p.uid),
  ),
}
