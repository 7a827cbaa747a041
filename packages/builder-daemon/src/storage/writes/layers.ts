import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { ordered, reclaiming, requireLease, type Statements, type Transaction } from './transaction.js'

export interface LayerRow {
  readonly id: string
  readonly diff_id: string | null
  readonly tar_size: number | null
  readonly keeps_headers: number
  readonly parent_key: string | null
  /** What it and all layers have in common that may share files with it. */
  readonly family: string
  readonly state: 'ready' | 'damaged' | 'deleting'
  /** 1 when an earlier daemon left it unflushed, so its files are not to be trusted yet. */
  readonly suspect: number
}

export const layerColumns = `id, diff_id, tar_size, keeps_headers, parent_key, coalesce(family, id) AS family, state,
  (synced = 0 AND epoch < (SELECT value FROM meta WHERE key = 'epoch')) AS suspect`

export function layerRow(statements: Statements, id: string): LayerRow | undefined {
  return statements.get<LayerRow>(`SELECT ${layerColumns} FROM layers WHERE id = ?`, id)
}

/** What every layer holds: its content ID, for one from elsewhere its diff ID; null as far as nobody knows, or has it. */
export function layerContents(statements: Statements, ids: readonly string[]): (string | null)[] {
  return ids.map(
    (id) =>
      statements.get<{ content: string | null }>(
        `SELECT CASE keeps_headers WHEN 1 THEN diff_id ELSE content_id END AS content
         FROM layers WHERE id = ? AND state = 'ready'`,
        id,
      )?.content ?? null,
  )
}

export function layersOfImage(statements: Statements, imageId: string): LayerRow[] {
  return statements.all<LayerRow>(
    `SELECT ${layerColumns} FROM image_layers JOIN layers ON id = layer_id WHERE image_id = ? ORDER BY position`,
    imageId,
  )
}

export interface WantedLayer {
  readonly diffId: string
  readonly parentKey: string
  /** Of whoever asks. */
  readonly leaseId: string
  /** He has the content already, so no layer with it tells him anything. */
  readonly isTheirs: boolean
}

/** In the order of `ids`, when the lease protects all of them already and none is damaged. */
export function heldLayers(
  statements: Statements,
  ids: readonly string[],
  leaseId: string,
): readonly LayerRow[] | undefined {
  const rows: LayerRow[] = []
  for (const id of ids) {
    const row = statements.get<LayerRow>(
      `SELECT ${layerColumns} FROM layers
       WHERE id = ? AND state = 'ready'
         AND EXISTS (SELECT 1 FROM lease_layers WHERE lease_id = ? AND layer_id = layers.id)`,
      ...[id, leaseId],
    )
    if (row === undefined) return undefined
    rows.push(row)
  }
  return rows
}

/** See `LayerStore.findByDiffId`. What nobody is known to have made is nobody's. */
export function layersByDiffId(statements: Statements, wanted: WantedLayer): LayerRow[] {
  return statements.all<LayerRow>(
    `WITH asking AS (SELECT uid FROM leases WHERE id = ?)
     SELECT ${layerColumns} FROM layers
     WHERE diff_id = ? AND state = 'ready' AND (parent_key IS NULL OR parent_key = ?)
       AND (? OR owner = (SELECT uid FROM asking) OR (SELECT uid FROM asking) = 0
         OR EXISTS (SELECT 1 FROM image_layers WHERE layer_id = layers.id)
         OR EXISTS (SELECT 1 FROM cache_records WHERE layer_id = layers.id AND uid = (SELECT uid FROM asking)))
     ORDER BY suspect, published_at, id`,
    ...[wanted.leaseId, wanted.diffId, wanted.parentKey, wanted.isTheirs ? 1 : 0],
  )
}

/**
 * Makes layers unreachable; the caller moves their directories away once this is committed. Cache records
 * stay, without their layer.
 */
export function markDeleting(tx: Transaction, ids: readonly string[], now: number): void {
  for (const id of ids) {
    tx.run("UPDATE layers SET state = 'deleting' WHERE id = ?", id)
    tx.run('UPDATE cache_records SET layer_id = NULL, evicted_at = ? WHERE layer_id = ?', now, id)
  }
}

export function leaseLayer(tx: Transaction, leaseId: string, layerId: string): void {
  tx.run('INSERT OR IGNORE INTO lease_layers (lease_id, layer_id) VALUES (?, ?)', leaseId, layerId)
}

/** The layer, if it is still there and undamaged. */
export function requireReady(tx: Transaction, id: string): LayerRow {
  const row = layerRow(tx, id)
  if (row === undefined || row.state === 'deleting') {
    throw new BuilderError('ISB_IMAGE_DAMAGED', `layer ${id} is no longer in the store`)
  }
  if (row.state === 'damaged') throw new BuilderError('ISB_IMAGE_DAMAGED', `layer ${id} is damaged`)
  return row
}

/**
 * Gives the place of damaged layers with the same content to an intact one. Images that are healed by it are there for
 * whoever asks, so it is durable before anybody can.
 */
function heal(tx: Transaction, id: string, now: number): readonly string[] {
  const replaced = tx.all<{ id: string }>(
    `SELECT old.id FROM layers AS new JOIN layers AS old ON old.diff_id = new.diff_id
     WHERE new.id = ? AND old.state = 'damaged' AND (new.parent_key IS NULL OR old.parent_key = new.parent_key)`,
    id,
  )
  const removable: string[] = []
  for (const old of replaced) {
    if (tx.run('UPDATE image_layers SET layer_id = ? WHERE layer_id = ?', id, old.id) > 0) tx.flush()
    tx.run('UPDATE cache_records SET layer_id = ? WHERE layer_id = ?', id, old.id)
    if (tx.get('SELECT 1 FROM lease_layers WHERE layer_id = ?', old.id) === undefined) removable.push(old.id)
  }
  markDeleting(tx, removable, now)
  return removable
}

export interface PublishParams {
  readonly id: string
  /** The staging directory this came from. */
  readonly op: string
  readonly leaseId: string
  readonly diffId: string | null
  readonly tarSize: number | null
  readonly keepsHeaders: boolean
  readonly parentKey: string | null
  readonly contentId: string | null
  /** The layer it shares files with, and the family of that; null when it shares none. */
  readonly sharesWith: string | null
  readonly family: string | null
  readonly synced: boolean
  readonly now: number
}

export const layerWrites = {
  /**
   * Records a layer whose directory is in place; gives the damaged layers it replaced, to be removed. Nobody has been
   * told of it before an image uses it, and that commit is durable.
   */
  publishLayer: ordered((tx, p: PublishParams): readonly string[] => {
    requireLease(tx, p.leaseId)
    if (tx.run('DELETE FROM ops WHERE id = ?', p.op) !== 1) {
      throw new BuilderError('ISB_CANCELLED', 'the staged layer was already given up')
    }
    // Found damaged or left behind meanwhile, it says nothing good about this one.
    const isTrusted = p.sharesWith === null || layerRow(tx, p.sharesWith)?.state === 'ready'
    tx.run(
      `INSERT INTO layers
         (id, diff_id, tar_size, keeps_headers, parent_key, content_id, family, state, synced, epoch, published_at,
          owner)
       VALUES (?, ?, ?, ?, ?, ?, ?, 'ready', ?, ?, ?, (SELECT uid FROM leases WHERE id = ?))`,
      p.id,
      p.diffId,
      p.tarSize,
      p.keepsHeaders ? 1 : 0,
      p.parentKey,
      p.contentId,
      p.family,
      p.synced && isTrusted ? 1 : 0,
      isTrusted ? tx.epoch : 0,
      p.now,
      p.leaseId,
    )
    leaseLayer(tx, p.leaseId, p.id)
    return p.diffId === null ? [] : heal(tx, p.id, p.now)
  }),

  setDiffId: ordered(
    (
      tx,
      p: {
        readonly id: string
        readonly diffId: string
        readonly tarSize: number
        readonly contentId: string | null
        readonly now: number
      },
    ): readonly string[] => {
      const row = requireReady(tx, p.id)
      if (row.diff_id !== null && row.diff_id !== p.diffId) {
        throw new BuilderError(
          'ISB_DIGEST_MISMATCH',
          `layer ${p.id} was recorded as ${row.diff_id} and is now ${p.diffId}`,
        )
      }
      tx.run(
        'UPDATE layers SET diff_id = ?, tar_size = ?, content_id = coalesce(?, content_id) WHERE id = ?',
        ...[p.diffId, p.tarSize, p.contentId, p.id],
      )
      return heal(tx, p.id, p.now)
    },
  ),

  /** All or none. */
  holdLayers: ordered((tx, p: { readonly ids: readonly string[]; readonly leaseId: string }): LayerRow[] => {
    requireLease(tx, p.leaseId)
    return p.ids.map((id) => {
      const row = requireReady(tx, id)
      leaseLayer(tx, p.leaseId, id)
      return row
    })
  }),

  /** Those that are there. */
  holdReadyLayers: ordered((tx, p: { readonly ids: readonly string[]; readonly leaseId: string }) => {
    requireLease(tx, p.leaseId)
    for (const id of p.ids) if (layerRow(tx, id)?.state === 'ready') leaseLayer(tx, p.leaseId, id)
  }),

  /** Holds every candidate, so that a suspect one cannot vanish while it is verified. */
  findByDiffId: ordered((tx, p: WantedLayer): LayerRow[] => {
    requireLease(tx, p.leaseId)
    const rows = layersByDiffId(tx, p)
    const intact = rows.find((row) => row.suspect === 0)
    const held = intact === undefined ? rows : [intact]
    for (const row of held) leaseLayer(tx, p.leaseId, row.id)
    return held
  }),

  /** A background flush ended well, which clears nothing that has become suspect meanwhile. */
  markSynced: ordered((tx, p: { readonly ids: readonly string[] }) => {
    for (const id of p.ids) tx.run('UPDATE layers SET synced = 1 WHERE id = ? AND epoch = ?', id, tx.epoch)
  }),

  /** The content was recomputed and is right, though it may still be in the page cache only. */
  markVerified: ordered((tx, p: { readonly id: string }) => {
    tx.run('UPDATE layers SET epoch = ? WHERE id = ?', tx.epoch, p.id)
  }),

  /** Layers that share files with them are verified before they are used again. */
  markDamaged: reclaiming((tx, p: { readonly ids: readonly string[] }) => {
    for (const id of p.ids) {
      const family = layerRow(tx, id)?.family ?? id
      tx.run(
        "UPDATE layers SET synced = 0, epoch = 0 WHERE (id = ? OR family = ?) AND id <> ? AND state = 'ready'",
        ...[family, family, id],
      )
      tx.run("UPDATE layers SET state = 'damaged' WHERE id = ? AND state = 'ready'", id)
      tx.run('DELETE FROM cache_records WHERE layer_id = ?', id)
    }
  }),

  /** The directories are in the trash. */
  forgetLayers: reclaiming((tx, p: { readonly ids: readonly string[] }) => {
    for (const id of p.ids) tx.run("DELETE FROM layers WHERE id = ? AND state = 'deleting'", id)
  }),
}
