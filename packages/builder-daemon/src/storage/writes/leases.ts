import { ordered } from './transaction.js'

/** Leases and staging directories die with their daemon, so none of this needs a flush of its own. */
export const leaseWrites = {
  acquireLease: ordered(
    (
      tx,
      p: { readonly id: string; readonly uid: number; readonly purpose: string; readonly now: number },
    ) => {
      tx.run(
        'INSERT INTO leases (id, uid, purpose, epoch, acquired_at) VALUES (?, ?, ?, ?, ?)',
        p.id,
        p.uid,
        p.purpose,
        tx.epoch,
        p.now,
      )
    },
  ),

  /** Ends the lease; gives the staging directories that were still recorded under it. */
  releaseLease: ordered((tx, p: { readonly id: string }): readonly string[] => {
    const staged = tx.all<{ id: string }>('SELECT id FROM ops WHERE lease_id = ?', p.id)
    tx.run('DELETE FROM leases WHERE id = ?', p.id)
    return staged.map((row) => row.id)
  }),

  addOp: ordered((tx, p: { readonly id: string; readonly leaseId: string }) => {
    tx.run('INSERT INTO ops (id, lease_id, epoch) VALUES (?, ?, ?)', p.id, p.leaseId, tx.epoch)
  }),

  dropOp: ordered((tx, p: { readonly id: string }) => {
    tx.run('DELETE FROM ops WHERE id = ?', p.id)
  }),
}
