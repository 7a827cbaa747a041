import { markDeleting } from './layers.js'
import { reclaiming } from './transaction.js'

export interface CollectLimits {
  /** Age below which an unreferenced layer stays, so that a retry after a failure finds it. */
  readonly graceMs: number
  /** Cache records unused for longer are dropped; younger ones keep their layer. */
  readonly cacheMs: number
}

export interface Collected {
  /** To be retired: the newly collected ones and those an earlier removal left behind. */
  readonly layers: readonly string[]
  /** Sum of their layer tars, as far as known, bytes. */
  readonly bytes: number
  readonly cacheRecords: number
}

export const gcWrites = {
  /**
   * Mark and sweep. Images and live leases are the roots; deciding and marking are one transaction, so
   * nobody can take a reference in between. `limits` null takes everything that is not a root's.
   */
  collect: reclaiming((tx, p: { readonly now: number; readonly limits: CollectLimits | null }): Collected => {
    // A clock that was set back must not make anything immortal.
    tx.run('UPDATE layers SET published_at = ? WHERE published_at > ?', p.now, p.now)
    tx.run('UPDATE cache_records SET used_at = ? WHERE used_at > ?', p.now, p.now)

    const cacheRecords =
      p.limits === null ? 0 : tx.run('DELETE FROM cache_records WHERE used_at < ?', p.now - p.limits.cacheMs)
    const rows = tx.all<{ id: string; tar_size: number | null }>(
      `SELECT id, tar_size FROM layers AS l
       WHERE state <> 'deleting'
         AND NOT EXISTS (SELECT 1 FROM image_layers WHERE layer_id = l.id)
         AND NOT EXISTS (SELECT 1 FROM lease_layers WHERE layer_id = l.id)
         AND (state = 'damaged' OR ? OR (
           published_at <= ? AND NOT EXISTS (SELECT 1 FROM cache_records WHERE layer_id = l.id)))`,
      p.limits === null ? 1 : 0,
      p.limits === null ? 0 : p.now - p.limits.graceMs,
    )
    markDeleting(
      tx,
      rows.map((row) => row.id),
    )
    const layers = tx
      .all<{ id: string }>("SELECT id FROM layers WHERE state <> 'ready' AND state = 'deleting'")
      .map((row) => row.id)
    return { layers, bytes: rows.reduce((sum, row) => sum + (row.tar_size ?? 0), 0), cacheRecords }
  }),
}
