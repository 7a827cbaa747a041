import { ordered } from './transaction.js'

export interface StoreRecordParams {
  readonly uid: number
  readonly shape: string
  readonly parent: string
  readonly inputs: string
  readonly origin: string
  readonly contentKey: string
  readonly state: string | null
  readonly inputsKey: string | null
  readonly tainted: boolean
  readonly layerId: string | null
  readonly now: number
}

/** Cache records may be lost, so none of them waits for a flush of its own. */
export const cacheWrites = {
  /** Gives its number; null when the layer is already gone and nothing was stored. */
  storeCacheRecord: ordered((tx, p: StoreRecordParams): number | null => {
    if (
      p.layerId !== null &&
      tx.get("SELECT 1 FROM layers WHERE id = ? AND state = 'ready'", p.layerId) === undefined
    ) {
      return null
    }
    const stored = tx.get<{ record: number }>(
      `INSERT INTO cache_records (uid, shape, parent, inputs, origin, content_key, state, inputs_key, tainted,
         has_layer, layer_id, stored_at, used_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT (uid, shape, parent, inputs, content_key)
       DO UPDATE SET state = coalesce(excluded.state, state), inputs_key = coalesce(excluded.inputs_key, inputs_key),
         tainted = excluded.tainted, has_layer = excluded.has_layer, layer_id = excluded.layer_id,
         stored_at = excluded.stored_at, used_at = excluded.used_at, evicted_at = NULL
       RETURNING record`,
      ...[p.uid, p.shape, p.parent, p.inputs, p.origin, p.contentKey, p.state, p.inputsKey],
      ...[p.tainted ? 1 : 0, p.layerId === null ? 0 : 1, p.layerId, p.now, p.now],
    )
    if (stored === undefined) throw new Error('a cache record was not stored')
    return stored.record
  }),

  learnCacheFacts: ordered(
    (
      tx,
      p: {
        readonly facts: readonly {
          readonly id: number
          readonly state: string | null
          readonly inputsKey: string | null
        }[]
      },
    ) => {
      for (const { id, state, inputsKey } of p.facts) {
        tx.run(
          `UPDATE cache_records SET state = coalesce(?, state), inputs_key = coalesce(?, inputs_key)
           WHERE record = ?`,
          ...[state, inputsKey, id],
        )
      }
    },
  ),

  touchCacheRecords: ordered((tx, p: { readonly records: readonly number[]; readonly now: number }) => {
    for (const record of p.records)
      tx.run('UPDATE cache_records SET used_at = ? WHERE record = ?', p.now, record)
  }),

  rememberProject: ordered(
    (
      tx,
      p: { readonly uid: number; readonly project: string; readonly document: string; readonly now: number },
    ) => {
      tx.run(
        `INSERT INTO cache_projects (uid, project, document, used_at) VALUES (?, ?, ?, ?)
         ON CONFLICT (uid, project) DO UPDATE SET document = excluded.document, used_at = excluded.used_at`,
        ...[p.uid, p.project, p.document, p.now],
      )
    },
  ),

  /** Records removed. */
  dropCacheRecords: ordered((tx, p: { readonly uid: number | null }): number =>
    p.uid === null
      ? tx.run('DELETE FROM cache_records')
      : tx.run('DELETE FROM cache_records WHERE uid = ?', p.uid),
  ),
}
