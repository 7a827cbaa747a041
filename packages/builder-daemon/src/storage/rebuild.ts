import { lstatSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { failureCode } from './failure.js'
import { decodeImageFile } from './image-file.js'
import { decodeMeta, metaName } from './layer-meta.js'
import { isLayerId, isRealDirectory, type Layout, namesIn } from './layout.js'
import { decodeStoredConfig } from './stored-config.js'
import type { Statements } from './writes/transaction.js'

export interface Rebuilt {
  readonly layers: number
  readonly images: number
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return lstatSync(path).isFile() ? readFileSync(path) : undefined
  } catch (error) {
    if (failureCode(error) === 'ENOENT' || failureCode(error) === 'ENOTDIR') return undefined
    throw error
  }
}

/** Layers with a diff ID come back as ones to be verified before use: their row never says more than is known. */
function rebuildLayers(layout: Layout, statements: Statements): number {
  let found = 0
  for (const id of namesIn(layout.layers).filter(isLayerId)) {
    if (!isRealDirectory(join(layout.layers, id))) continue
    if (statements.get('SELECT 1 FROM layers WHERE id = ?', id) !== undefined) continue
    const text = readIfThere(join(layout.layers, id, metaName))
    const meta = text === undefined ? undefined : decodeMeta(text.toString('utf8'))
    if (meta === undefined || meta.diffId === null) continue
    if (!isRealDirectory(join(layout.layers, id, 'diff'))) continue
    statements.run(
      `INSERT INTO layers
         (id, diff_id, tar_size, keeps_headers, parent_key, family, state, synced, epoch, published_at)
       VALUES (?, ?, ?, ?, ?, ?, 'ready', 0, 0, ?)`,
      id,
      meta.diffId,
      meta.tarSize,
      meta.keepsHeaders ? 1 : 0,
      meta.parentKey,
      meta.family,
      meta.publishedAt,
    )
    found++
  }
  return found
}

function diffIdsOf(configBytes: Uint8Array): readonly string[] | undefined {
  try {
    return decodeStoredConfig(configBytes).rootfs.diff_ids
  } catch (error) {
    if (isBuilderError(error)) return undefined
    throw error
  }
}

/** The layer it was stored with, or, when a heal replaced that one since, another with the same content. */
function findLayer(statements: Statements, id: string | undefined, diffId: string): string | undefined {
  return statements.get<{ id: string }>(
    `SELECT id FROM layers WHERE diff_id = ? AND state <> 'deleting'
     ORDER BY id = ? DESC, parent_key IS NULL DESC LIMIT 1`,
    diffId,
    id ?? '',
  )?.id
}

function rebuildImages(layout: Layout, statements: Statements): number {
  const missing = namesIn(layout.blobs)
    .filter((name) => /^[0-9a-f]{64}$/.test(name))
    .filter((id) => statements.get('SELECT 1 FROM images WHERE id = ?', id) === undefined)
  const files = missing.flatMap((id) => {
    const bytes = readIfThere(join(layout.blobs, id))
    const file = bytes === undefined ? undefined : decodeImageFile(id, bytes)
    return file === undefined ? [] : [{ id, file }]
  })
  let found = 0
  // A name that several images were stored with belongs to the one stored last.
  for (const { id, file } of files.sort((a, b) => b.file.storedAt - a.file.storedAt)) {
    const diffIds = diffIdsOf(file.configBytes)
    const layers = diffIds?.map((diffId, index) => findLayer(statements, file.layers[index], diffId))
    if (layers === undefined || layers.includes(undefined)) continue
    statements.run(
      `INSERT INTO images (id, created_at, stored_at, size, owner, config)
       VALUES (?, ?, ?, ?, ?, ?)`,
      id,
      file.createdAt,
      file.storedAt,
      file.configBytes.length,
      file.owner,
      file.configBytes,
    )
    layers.forEach((layer, position) => {
      statements.run(
        'INSERT INTO image_layers (image_id, position, layer_id) VALUES (?, ?, ?)',
        id,
        position,
        layer ?? null,
      )
    })
    statements.run(
      `UPDATE images SET size = size + (
         SELECT coalesce(sum(tar_size), 0) FROM image_layers JOIN layers ON layers.id = layer_id WHERE image_id = ?)
       WHERE id = ?`,
      id,
      id,
    )
    for (const name of file.names) {
      statements.run(
        'INSERT OR IGNORE INTO names (name, image_id, owner) VALUES (?, ?, ?)',
        name,
        id,
        file.owner,
      )
    }
    found++
  }
  return found
}

/**
 * Adds to a restored or empty database what directories and files tell: layers from their own records,
 * images from theirs. Names given later than the images were stored are lost, cache records too.
 */
export function rebuild(layout: Layout, statements: Statements): Rebuilt {
  const layers = rebuildLayers(layout, statements)
  return { layers, images: rebuildImages(layout, statements) }
}
