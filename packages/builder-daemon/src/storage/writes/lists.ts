import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { nameRow, passOn, requireImage } from './images.js'
import { dropList, ownerOfList } from './list-names.js'
import { denied, root } from './owners.js'
import { durable, reclaiming, type Transaction } from './transaction.js'

export interface PutListParams {
  readonly name: string
  readonly id: string
  readonly owner: number
  readonly createdAt: number
  readonly document: string
  /** Local images in it. */
  readonly images: readonly string[]
  readonly mode: 'create' | 'replace'
}

export const listWrites = {
  putList: durable((tx, p: PutListParams) => {
    const isTaken = ownerOfList(tx, p.name) !== undefined || nameRow(tx, p.name) !== undefined
    if (p.mode === 'create' && isTaken) {
      throw new BuilderError('ISB_ALREADY_EXISTS', `the name "${p.name}" is already in use`, {
        hint: 'Choose another name, or remove what has it.',
      })
    }
    for (const id of p.images) requireImage(tx, id)
    dropList(tx, p.name, p.owner, `replace the manifest list "${p.name}"`)
    takeFromImage(tx, p.name, p.owner)
    tx.run(
      'INSERT INTO manifest_lists (name, id, owner, created_at, document) VALUES (?, ?, ?, ?, ?)',
      p.name,
      p.id,
      p.owner,
      p.createdAt,
      p.document,
    )
    for (const id of new Set(p.images)) {
      tx.run('INSERT INTO manifest_list_images (list, image_id) VALUES (?, ?)', p.name, id)
    }
  }),

  removeList: reclaiming((tx, p: { readonly name: string; readonly by: number }): boolean =>
    dropList(tx, p.name, p.by, `remove the manifest list "${p.name}"`),
  ),
}

function takeFromImage(tx: Transaction, name: string, by: number): void {
  const held = nameRow(tx, name)
  if (held === undefined) return
  if (held.owner !== by && by !== root) throw denied(by, `take the name "${name}"`, held.owner)
  tx.run('DELETE FROM names WHERE name = ?', name)
  passOn(tx, held.image_id)
}
