import { denied, root } from './owners.js'
import type { Statements, Transaction } from './transaction.js'

interface OwnedRow {
  readonly owner: number
}

/** What happens to a list decides its owner: undefined when there is none of this name. */
export function ownerOfList(statements: Statements, name: string): number | undefined {
  return statements.get<OwnedRow>('SELECT owner FROM manifest_lists WHERE name = ?', name)?.owner
}

/** Removes the list of this name; false when there is none. Another user's is denied, `what` says what for. */
export function dropList(tx: Transaction, name: string, by: number, what: string): boolean {
  const owner = ownerOfList(tx, name)
  if (owner === undefined) return false
  if (owner !== by && by !== root) throw denied(by, what, owner)
  tx.run('DELETE FROM manifest_lists WHERE name = ?', name)
  return true
}

/** A list that an image is in. */
export function listWith(statements: Statements, imageId: string): string | undefined {
  return statements.get<{ list: string }>(
    'SELECT list FROM manifest_list_images WHERE image_id = ? ORDER BY list LIMIT 1',
    imageId,
  )?.list
}
