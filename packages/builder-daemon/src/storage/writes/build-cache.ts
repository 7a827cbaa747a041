import { markDeleting } from './layers.js'
import { ordered, reclaiming, type Statements } from './transaction.js'

/** Of what no image and no operation uses. */
const unusedLayer = `NOT EXISTS (SELECT 1 FROM image_layers WHERE layer_id = l.id)
  AND NOT EXISTS (SELECT 1 FROM lease_layers WHERE layer_id = l.id)`

export interface UnusedLayerRow {
  readonly id: string
  readonly disk_bytes: number | null
  readonly used_at: number
  /** JSON list of user IDs. */
  readonly owners: string
}

/** The next layers that nothing but the cache has, by ID. */
export function unusedLayers(statements: Statements, after: string, limit: number): UnusedLayerRow[] {
  return statements.all<UnusedLayerRow>(
    `SELECT id, disk_bytes,
       coalesce((SELECT max(used_at) FROM cache_records WHERE layer_id = l.id), published_at) AS used_at,
       (SELECT json_group_array(DISTINCT uid) FROM cache_records WHERE layer_id = l.id) AS owners
     FROM layers AS l WHERE id > ? AND state <> 'deleting' AND ${unusedLayer} ORDER BY id LIMIT ?`,
    after,
    limit,
  )
}

export interface CacheMountRow {
  readonly uid: number
  readonly name: string
  readonly id: string
  readonly used_at: number
  readonly bytes: number | null
  /** 1 when it was not used since it was measured. */
  readonly measured: number
}

export interface ForgetParams {
  /** Whose; null: everybody's. */
  readonly uid: number | null
  readonly usedBefore: number
}

/**
 * Records that hold no room of their own: of steps without a layer, of layers that images have, and for a user also of
 * those that others have records of.
 */
const weightless = `evicted_at IS NULL AND used_at < ? AND (? IS NULL OR uid = ?)
  AND (has_layer = 0 OR (layer_id IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM lease_layers WHERE lease_layers.layer_id = r.layer_id)
    AND (EXISTS (SELECT 1 FROM image_layers WHERE image_layers.layer_id = r.layer_id)
      OR (? IS NOT NULL AND EXISTS (
        SELECT 1 FROM cache_records AS o WHERE o.layer_id = r.layer_id AND o.uid <> r.uid)))))`

function weightlessValues({ uid, usedBefore }: ForgetParams) {
  return [usedBefore, uid, uid, uid] as const
}

export function countForgettable(statements: Statements, p: ForgetParams): number {
  const row = statements.get<{ n: number }>(
    `SELECT count(*) AS n FROM cache_records AS r WHERE ${weightless}`,
    ...weightlessValues(p),
  )
  return row?.n ?? 0
}

export const buildCacheWrites = {
  /**
   * Of these layers those that are still unused, and for a user only those that nobody else has records of; they are to
   * be retired. Deciding and marking are one transaction, so nobody can take hold of one in between.
   */
  evictLayers: reclaiming(
    (
      tx,
      p: { readonly ids: readonly string[]; readonly uid: number | null; readonly now: number },
    ): readonly string[] => {
      const removable = p.ids.filter((id) => {
        const row = tx.get<{ own: number; others: number }>(
          `SELECT (SELECT count(*) FROM cache_records WHERE layer_id = l.id AND uid = ?) AS own,
             (SELECT count(*) FROM cache_records WHERE layer_id = l.id AND uid <> ?) AS others
           FROM layers AS l WHERE id = ? AND state <> 'deleting' AND ${unusedLayer}`,
          ...[p.uid ?? 0, p.uid ?? 0, id],
        )
        return row !== undefined && (p.uid === null || (row.own > 0 && row.others === 0))
      })
      markDeleting(tx, removable, p.now)
      return removable
    },
  ),

  /** They stay to tell why a step has to be done again. */
  forgetRecords: reclaiming((tx, p: ForgetParams & { readonly now: number }): number =>
    tx.run(
      `UPDATE cache_records SET has_layer = 1, layer_id = NULL, evicted_at = ? WHERE record IN (
         SELECT record FROM cache_records AS r WHERE ${weightless})`,
      ...[p.now, ...weightlessValues(p)],
    ),
  ),

  setDiskUse: ordered(
    (tx, p: { readonly layers: readonly { readonly id: string; readonly bytes: number }[] }) => {
      for (const { id, bytes } of p.layers) tx.run('UPDATE layers SET disk_bytes = ? WHERE id = ?', bytes, id)
    },
  ),

  /** Asked of the writer, so that every use told before is seen. */
  listCacheMounts: ordered((tx): readonly CacheMountRow[] =>
    tx.all<CacheMountRow>(
      `SELECT uid, name, id, used_at, bytes, coalesce(measured_at > used_at, 0) AS measured
       FROM cache_mounts ORDER BY uid, name`,
    ),
  ),

  /** The last use of cache mounts, which makes what was measured old. */
  useCacheMounts: ordered(
    (
      tx,
      p: {
        readonly uid: number
        readonly mounts: readonly { readonly name: string; readonly id: string }[]
        readonly now: number
      },
    ) => {
      for (const { name, id } of p.mounts) {
        tx.run(
          `INSERT INTO cache_mounts (uid, name, id, used_at) VALUES (?, ?, ?, ?)
           ON CONFLICT (uid, name) DO UPDATE SET id = excluded.id, used_at = excluded.used_at`,
          ...[p.uid, name, id, p.now],
        )
      }
    },
  ),

  /** `at`: when measuring began; a directory nobody has told of yet is as old as `usedAt`. */
  measureCacheMount: ordered(
    (
      tx,
      p: {
        readonly uid: number
        readonly name: string
        readonly usedAt: number
        readonly bytes: number
        readonly at: number
      },
    ) => {
      tx.run(
        `INSERT INTO cache_mounts (uid, name, id, used_at, bytes, measured_at) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (uid, name) DO UPDATE SET bytes = excluded.bytes, measured_at = excluded.measured_at`,
        ...[p.uid, p.name, p.name, p.usedAt, p.bytes, p.at],
      )
    },
  ),

  forgetCacheMounts: ordered(
    (tx, p: { readonly mounts: readonly { readonly uid: number; readonly name: string }[] }) => {
      for (const { uid, name } of p.mounts)
        tx.run('DELETE FROM cache_mounts WHERE uid = ? AND name = ?', uid, name)
    },
  ),
}
