import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { RemovedName } from '../../ports/image-store.js'
import { layersOfImage, leaseLayer, markDeleting, requireReady } from './layers.js'
import { dropList, listWith, ownerOfList } from './list-names.js'
import { denied, root } from './owners.js'
import {
  durable,
  ordered,
  reclaiming,
  requireLease,
  type Statements,
  type Transaction,
} from './transaction.js'

export interface PutParams {
  readonly id: string
  readonly configBytes: Uint8Array
  readonly diffIds: readonly string[]
  readonly layers: readonly string[]
  readonly names: readonly string[]
  readonly owner: number
  readonly createdAt: number
  readonly now: number
}

export interface RemoveParams {
  readonly imageId: string
  readonly by: number
  /** The name it is meant by: while it has others, only this one goes. */
  readonly name: string | undefined
  readonly now: number
}

/** A removal as committed; the directories of `retired` are still to be moved away. */
export interface Removal {
  readonly removed: RemovedName
  readonly retired: readonly string[]
}

function imageExists(statements: Statements, id: string): boolean {
  return statements.get('SELECT 1 FROM images WHERE id = ?', id) !== undefined
}

export function requireImage(statements: Statements, id: string): void {
  if (!imageExists(statements, id)) {
    throw new BuilderError('ISB_IMAGE_NOT_FOUND', `no image ${id.slice(0, 12)} in the store`)
  }
}

function imageOfName(statements: Statements, name: string): string | undefined {
  return statements.get<{ image_id: string }>('SELECT image_id FROM names WHERE name = ?', name)?.image_id
}

/** The image by full ID or exact name. */
export function exactImage(statements: Statements, idOrName: string): string | undefined {
  return imageOfName(statements, idOrName) ?? (imageExists(statements, idOrName) ? idOrName : undefined)
}

/** What a user means: names before IDs, then a unique ID prefix (see ImageStore.resolve). */
export function meantImage(statements: Statements, reference: string): string | undefined {
  const named = imageOfName(statements, `${reference}:latest`) ?? imageOfName(statements, reference)
  if (named !== undefined) return named
  const hex = reference.startsWith('sha256:') ? reference.slice('sha256:'.length) : reference
  if (!/^[0-9a-f]{1,64}$/.test(hex)) return undefined
  const matches = statements.all<{ id: string }>(
    'SELECT id FROM images WHERE id >= ? AND id < ? ORDER BY id LIMIT 2',
    hex,
    `${hex}g`,
  )
  if (matches.length > 1) {
    throw new BuilderError('ISB_REFERENCE_INVALID', `image ID prefix "${reference}" is ambiguous`, {
      hint: 'Give more digits of the image ID, or a name.',
    })
  }
  return matches[0]?.id
}

interface NameRow {
  readonly name: string
  readonly image_id: string
  readonly owner: number
}

export function nameRow(statements: Statements, name: string): NameRow | undefined {
  return statements.get<NameRow>('SELECT name, image_id, owner FROM names WHERE name = ?', name)
}

/** Whether the image gets the name from him; false: it has it already, of somebody else. Fails when he may not. */
export function mayGiveName(statements: Statements, name: string, imageId: string, by: number): boolean {
  const held = nameRow(statements, name)
  const owner = held?.owner ?? ownerOfList(statements, name) ?? by
  if (owner === by || by === root) return true
  if (held?.image_id === imageId) return false
  throw denied(by, `take the name "${name}"`, owner)
}

function giveName(tx: Transaction, name: string, imageId: string, by: number): void {
  if (!mayGiveName(tx, name, imageId, by)) return
  dropList(tx, name, by, `take the name "${name}"`)
  tx.run(
    `INSERT INTO names (name, image_id, owner) VALUES (?, ?, ?)
     ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id, owner = excluded.owner`,
    name,
    imageId,
    by,
  )
}

/**
 * What is left when a user takes his names off an image: undefined when nobody else needs it, else the names
 * that went. Without a name and an image of his own, he may not.
 */
function takeNames(tx: Transaction, imageId: string, by: number): readonly string[] | undefined {
  if (by === root) return undefined
  const owner = tx.get<{ owner: number }>('SELECT owner FROM images WHERE id = ?', imageId)?.owner ?? root
  const names = tx.all<NameRow>(
    'SELECT name, image_id, owner FROM names WHERE image_id = ? ORDER BY name',
    imageId,
  )
  const mine = names.filter((row) => row.owner === by)
  const [heir] = names.filter((row) => row.owner !== by)
  if (owner === by && heir === undefined) return undefined
  if (owner !== by && mine.length === 0) {
    throw denied(by, `remove the image "${imageId.slice(0, 12)}"`, owner)
  }
  for (const { name } of mine) tx.run('DELETE FROM names WHERE name = ?', name)
  passOn(tx, imageId)
  return mine.map(({ name }) => name)
}

/** Takes the name off, for whoever may. */
function takeName(tx: Transaction, { name, image_id, owner }: NameRow, by: number): void {
  if (owner !== by && by !== root) throw denied(by, `remove the name "${name}"`, owner)
  tx.run('DELETE FROM names WHERE name = ?', name)
  passOn(tx, image_id)
}

/** What is left when the image is meant by one name: undefined when that is its only one. */
function takeOneName(
  tx: Transaction,
  imageId: string,
  name: string,
  by: number,
): readonly string[] | undefined {
  const held = nameRow(tx, name)
  if (held?.image_id !== imageId) {
    throw new BuilderError('ISB_IMAGE_NOT_FOUND', `no image named "${name}" any more`)
  }
  const other = tx.get('SELECT 1 FROM names WHERE image_id = ? AND name <> ?', imageId, name)
  if (other === undefined) return undefined
  takeName(tx, held, by)
  return [name]
}

/** An image whose owner has no name on it any more belongs to whoever has one. */
export function passOn(tx: Transaction, imageId: string): void {
  tx.run(
    `UPDATE images SET owner = (SELECT owner FROM names WHERE image_id = images.id ORDER BY name LIMIT 1)
     WHERE id = ? AND EXISTS (SELECT 1 FROM names WHERE image_id = images.id)
       AND NOT EXISTS (SELECT 1 FROM names WHERE image_id = images.id AND owner = images.owner)`,
    imageId,
  )
}

function leaseImage(tx: Transaction, leaseId: string, imageId: string): void {
  tx.run('INSERT OR IGNORE INTO lease_images (lease_id, image_id) VALUES (?, ?)', leaseId, imageId)
}

function setLayers(tx: Transaction, imageId: string, layers: readonly string[]): void {
  tx.run('DELETE FROM image_layers WHERE image_id = ?', imageId)
  layers.forEach((layer, position) => {
    tx.run(
      'INSERT INTO image_layers (image_id, position, layer_id) VALUES (?, ?, ?)',
      imageId,
      position,
      layer,
    )
  })
}

/** Layer tars of the stack, bytes. A layer that does not hold what the config says breaks the caller's promise. */
function checkStack(tx: Transaction, p: PutParams): number {
  if (p.layers.length !== p.diffIds.length) {
    throw new Error(`image ${p.id}: ${p.layers.length} layers for ${p.diffIds.length} diff IDs`)
  }
  let size = 0
  p.layers.forEach((id, position) => {
    const row = requireReady(tx, id)
    if (row.diff_id !== p.diffIds[position]) {
      throw new Error(`image ${p.id}: layer ${id} is ${row.diff_id}, the config wants ${p.diffIds[position]}`)
    }
    size += row.tar_size ?? 0
  })
  return size
}

function putImage(tx: Transaction, p: PutParams, leaseId: string): void {
  const size = checkStack(tx, p) + p.configBytes.length
  if (!imageExists(tx, p.id)) {
    tx.run(
      'INSERT INTO images (id, created_at, stored_at, size, owner, config) VALUES (?, ?, ?, ?, ?, ?)',
      p.id,
      p.createdAt,
      p.now,
      size,
      p.owner,
      p.configBytes,
    )
    setLayers(tx, p.id, p.layers)
  } else if (layersOfImage(tx, p.id).some((row) => row.state !== 'ready')) {
    setLayers(tx, p.id, p.layers)
  }
  for (const name of p.names) giveName(tx, name, p.id, p.owner)
  leaseStored(tx, leaseId, p)
}

/** To put it would change nothing. */
function isThere(tx: Transaction, { id, names, owner }: PutParams): boolean {
  if (!imageExists(tx, id) || layersOfImage(tx, id).some((row) => row.state !== 'ready')) return false
  return names.every((name) => {
    const held = nameRow(tx, name)
    // Root would make the name its own.
    return held?.image_id === id && (held.owner === owner || owner !== root)
  })
}

function leaseStored(tx: Transaction, leaseId: string, p: PutParams): void {
  leaseImage(tx, leaseId, p.id)
  for (const layer of p.layers) leaseLayer(tx, leaseId, layer)
}

export const imageWrites = {
  /**
   * Protects images that are there as they are to be put, all under their names; false, and nothing done, when one is
   * not. What it leaves as it is was durable before.
   */
  keepImages: ordered(
    (tx, p: { readonly images: readonly PutParams[]; readonly leaseId: string }): boolean => {
      requireLease(tx, p.leaseId)
      if (!p.images.every((image) => isThere(tx, image))) return false
      for (const image of p.images) {
        checkStack(tx, image)
        leaseStored(tx, p.leaseId, image)
      }
      return true
    },
  ),

  /** All or none. */
  putImages: durable((tx, p: { readonly images: readonly PutParams[]; readonly leaseId: string }) => {
    requireLease(tx, p.leaseId)
    for (const image of p.images) putImage(tx, image, p.leaseId)
  }),

  /** Looks up and protects in one step, so that nothing can be removed in between. */
  resolveImage: ordered((tx, p: { readonly reference: string; readonly leaseId: string }) => {
    requireLease(tx, p.leaseId)
    const id = meantImage(tx, p.reference)
    if (id === undefined) return undefined
    leaseImage(tx, p.leaseId, id)
    for (const row of layersOfImage(tx, id)) leaseLayer(tx, p.leaseId, row.id)
    return id
  }),

  tagImage: durable((tx, p: { readonly imageId: string; readonly name: string; readonly by: number }) => {
    requireImage(tx, p.imageId)
    giveName(tx, p.name, p.imageId, p.by)
  }),

  untagName: reclaiming((tx, p: { readonly name: string; readonly by: number }) => {
    const held = nameRow(tx, p.name)
    if (held === undefined) throw new BuilderError('ISB_IMAGE_NOT_FOUND', `no image named "${p.name}"`)
    takeName(tx, held, p.by)
  }),

  removeImage: reclaiming((tx, p: RemoveParams): Removal => {
    requireImage(tx, p.imageId)
    const one = p.name === undefined ? undefined : takeOneName(tx, p.imageId, p.name, p.by)
    const taken = one ?? takeNames(tx, p.imageId, p.by)
    if (taken !== undefined) {
      const removed = { imageId: p.imageId, untagged: taken, removedLayers: [], removedImage: false }
      return { removed, retired: [] }
    }
    const list = listWith(tx, p.imageId)
    if (list !== undefined) {
      throw new BuilderError(
        'ISB_IMAGE_IN_USE',
        `image ${p.imageId.slice(0, 12)} is in the manifest list "${list}"`,
        { hint: 'Remove the list first.' },
      )
    }
    const holder = tx.get<{ purpose: string; uid: number }>(
      'SELECT purpose, uid FROM lease_images JOIN leases ON id = lease_id WHERE image_id = ? LIMIT 1',
      p.imageId,
    )
    if (holder !== undefined) {
      throw new BuilderError(
        'ISB_IMAGE_IN_USE',
        `image ${p.imageId.slice(0, 12)} is in use by ${holder.purpose} of user ${holder.uid}`,
        { hint: 'Wait until it has finished, or cancel it.' },
      )
    }
    const names = tx.all<{ name: string }>(
      'SELECT name FROM names WHERE image_id = ? ORDER BY name',
      p.imageId,
    )
    const layers = layersOfImage(tx, p.imageId).reverse()
    tx.run('DELETE FROM images WHERE id = ?', p.imageId)
    const unused = layers.filter(
      (row, index) =>
        layers.findIndex((other) => other.id === row.id) === index &&
        tx.get('SELECT 1 FROM image_layers WHERE layer_id = ?', row.id) === undefined &&
        tx.get('SELECT 1 FROM lease_layers WHERE layer_id = ?', row.id) === undefined,
    )
    const retired = unused.map((row) => row.id)
    markDeleting(tx, retired, p.now)
    return {
      removed: {
        imageId: p.imageId,
        untagged: names.map((row) => row.name),
        removedLayers: unused.map((row) => row.diff_id ?? row.id),
        removedImage: true,
      },
      retired,
    }
  }),
}
