import { markDeleting } from './layers.js'
import { reclaiming, type Transaction } from './transaction.js'

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

/** How long, and how many for each user, records stay whose layer is gone: they only explain. */
const evictedMs = 30 * 86_400_000
const evictedRecords = 10_000
/** The same for what is remembered of projects. */
const projectMs = 30 * 86_400_000
const projects = 1000

/** Records unused since then let go of their layers; gives how many. */
function retireRecords(tx: Transaction, now: number, since: number): number {
  const forgotten = tx.run('DELETE FROM cache_records WHERE used_at < ? AND has_layer = 0', since)
  return (
    forgotten +
    tx.run(
      `UPDATE cache_records SET layer_id = NULL, evicted_at = ?
       WHERE used_at < ? AND has_layer = 1 AND layer_id IS NOT NULL`,
      ...[now, since],
    )
  )
}

function forgetEvicted(tx: Transaction, now: number): void {
  // Whatever took the layer without saying when leaves nothing that explains anything.
  tx.run('DELETE FROM cache_records WHERE has_layer = 1 AND layer_id IS NULL AND evicted_at IS NULL')
  tx.run('DELETE FROM cache_records WHERE evicted_at < ?', now - evictedMs)
  tx.run(
    `DELETE FROM cache_records WHERE record IN (
       SELECT record FROM (
         SELECT record, row_number() OVER (PARTITION BY uid ORDER BY evicted_at DESC) AS place
         FROM cache_records WHERE evicted_at IS NOT NULL)
       WHERE place > ?)`,
    evictedRecords,
  )
  tx.run('DELETE FROM cache_projects WHERE used_at < ?', now - projectMs)
  tx.run(
    `DELETE FROM cache_projects WHERE (uid, project) IN (
       SELECT uid, project FROM (
         SELECT uid, project, row_number() OVER (PARTITION BY uid ORDER BY used_at DESC) AS place
         FROM cache_projects)
       WHERE place > ?)`,
    projects,
  )
}

export const gcWrites = {
  /**
   * Mark and sweep. Images and live leases are the roots; deciding and marking are one transaction, so
   * nobody can take a reference in between.
   */
  collect: reclaiming((tx, p: { readonly now: number; readonly limits: CollectLimits }): Collected => {
    // A clock that was set back must not make anything immortal.
    tx.run('UPDATE layers SET published_at = ? WHERE published_at > ?', p.now, p.now)
    tx.run('UPDATE cache_records SET used_at = ? WHERE used_at > ?', p.now, p.now)
    tx.run('UPDATE cache_records SET evicted_at = ? WHERE evicted_at > ?', p.now, p.now)
    tx.run('UPDATE cache_projects SET used_at = ? WHERE used_at > ?', p.now, p.now)

    const cacheRecords = retireRecords(tx, p.now, p.now - p.limits.cacheMs)
    forgetEvicted(tx, p.now)
    const rows = tx.all<{ id: string; tar_size: number | null }>(
      `SELECT id, tar_size FROM layers AS l
       WHERE state <> 'deleting'
         AND NOT EXISTS (SELECT 1 FROM image_layers WHERE layer_id = l.id)
         AND NOT EXISTS (SELECT 1 FROM lease_layers WHERE layer_id = l.id)
         AND (state = 'damaged' OR (
           published_at <= ? AND NOT EXISTS (SELECT 1 FROM cache_records WHERE layer_id = l.id)))`,
      p.now - p.limits.graceMs,
    )
    markDeleting(
      tx,
      rows.map((row) => row.id),
      p.now,
    )
    const layers = tx
      .all<{ id: string }>("SELECT id FROM layers WHERE state <> 'ready' AND state = 'deleting'")
      .map((row) => row.id)
    return { layers, bytes: rows.reduce((sum, row) => sum + (row.tar_size ?? 0), 0), cacheRecords }
  }),
}
