import type { LayerBlob } from '../../ports/transfer-memory.js'
import { ordered } from './transaction.js'

/** What transfers found out only saves work, so none of it waits for a flush of its own. */
export const transferWrites = {
  rememberBlob: ordered(
    (tx, p: { readonly diffId: string; readonly blob: LayerBlob; readonly now: number }) => {
      // Bytes that can be made here stay so when they come back from elsewhere.
      tx.run(
        `INSERT INTO layer_blobs (diff_id, digest, size, compression, recipe, used_at) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (diff_id, digest) DO UPDATE SET
           size = excluded.size, compression = excluded.compression,
           recipe = coalesce(excluded.recipe, recipe), used_at = excluded.used_at`,
        p.diffId,
        p.blob.digest,
        p.blob.size,
        p.blob.compression,
        p.blob.recipe,
        p.now,
      )
    },
  ),

  rememberPlace: ordered(
    (
      tx,
      p: {
        readonly uid: number
        readonly host: string
        readonly repository: string
        readonly digests: readonly string[]
        readonly now: number
      },
    ) => {
      for (const digest of p.digests) {
        tx.run(
          `INSERT INTO blob_places (uid, host, digest, repository, seen_at) VALUES (?, ?, ?, ?, ?)
           ON CONFLICT (uid, host, digest, repository) DO UPDATE SET seen_at = excluded.seen_at`,
          p.uid,
          p.host,
          digest,
          p.repository,
          p.now,
        )
      }
    },
  ),

  /** Without effect when the image is gone. */
  rememberDigest: ordered(
    (tx, p: { readonly name: string; readonly digest: string; readonly imageId: string }) => {
      tx.run(
        `INSERT OR IGNORE INTO image_digests (name, digest, image_id)
         SELECT ?, ?, id FROM images WHERE id = ?`,
        p.name,
        p.digest,
        p.imageId,
      )
    },
  ),

  /** Forgets blobs and places from before `before`, and all but the newest `rows` of each; gives how many went. */
  trimTransfers: ordered(
    (tx, p: { readonly now: number; readonly before: number; readonly rows: number }): number => {
      // A clock that was set back must not make anything immortal.
      tx.run('UPDATE layer_blobs SET used_at = ? WHERE used_at > ?', p.now, p.now)
      tx.run('UPDATE blob_places SET seen_at = ? WHERE seen_at > ?', p.now, p.now)
      const old =
        tx.run('DELETE FROM layer_blobs WHERE used_at < ?', p.before) +
        tx.run('DELETE FROM blob_places WHERE seen_at < ?', p.before)
      const beyond =
        tx.run(
          `DELETE FROM layer_blobs WHERE (diff_id, digest) IN
             (SELECT diff_id, digest FROM layer_blobs ORDER BY used_at DESC LIMIT -1 OFFSET ?)`,
          p.rows,
        ) +
        tx.run(
          `DELETE FROM blob_places WHERE (uid, host, digest, repository) IN
             (SELECT uid, host, digest, repository FROM blob_places ORDER BY seen_at DESC LIMIT -1 OFFSET ?)`,
          p.rows,
        )
      return old + beyond
    },
  ),
}
