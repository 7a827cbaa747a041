import { lstat, readFile, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { LayerId } from '../ports/layer-store.js'
import type { Database, Statements } from './database.js'
import { failureCode } from './failure.js'
import { decodeImageFile } from './image-file.js'
import { metaName, readMeta } from './layer-meta.js'
import type { LayersInMotion } from './layers.js'
import { isLayerId, type Layout, layerDirectory, linkName, linkTarget, namesIn } from './layout.js'
import { type LayerRow, layerColumns } from './writes/layers.js'

/**
 * I1 a ready layer has its directory, its record and its short link; I2 an image has its config, its
 * file and all its layers; I3 a name points to one image, or is that of one list; I4 nothing lies in the store that no row
 * knows; I5 no lease or staging directory of an earlier daemon; DB the database file itself.
 */
export interface Violation {
  readonly invariant: 'DB' | 'I1' | 'I2' | 'I3' | 'I4' | 'I5'
  /** A layer ID, an image ID, a name or a path. */
  readonly subject: string
  readonly problem: string
}

interface Look {
  readonly layout: Layout
  readonly database: Database
  readonly inMotion: LayersInMotion & { readonly images: { has(id: string): boolean } }
}

/** Whether the row still says what it said: a store in use changes while it is looked through. */
function isStill(statements: Statements, row: LayerRow): boolean {
  return statements.get('SELECT 1 FROM layers WHERE id = ? AND state = ?', row.id, row.state) !== undefined
}

async function missing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EINVAL'].includes(failureCode(error))) return undefined
    throw error
  }
}

async function layerProblem(layout: Layout, row: LayerRow): Promise<string | undefined> {
  const id = row.id as LayerId
  const directory = layerDirectory(layout, id)
  const diff = await missing(lstat(join(directory, 'diff')))
  if (!diff?.isDirectory()) return 'its directory is missing'
  if (row.keeps_headers === 1 && !(await missing(lstat(join(directory, 'headers.gz'))))?.isFile()) {
    return 'its tar headers are missing'
  }
  const meta = await readMeta(directory)
  // One that was not flushed is verified, and its record written again, before it is used.
  if (meta === undefined) return row.suspect === 1 ? undefined : `its ${metaName} is missing or unreadable`
  const agrees = meta.parentKey === row.parent_key && meta.keepsHeaders === (row.keeps_headers === 1)
  // A diff ID found later is recorded in the row first.
  if (!agrees || (meta.diffId !== null && meta.diffId !== row.diff_id))
    return `its ${metaName} says otherwise`
  const target = await missing(readlink(join(layout.links, linkName(id))))
  return target === linkTarget(id) ? undefined : 'its short link is missing or wrong'
}

async function checkLayers({ layout, database }: Look): Promise<Violation[]> {
  const found: Violation[] = []
  const rows = database.read.all<LayerRow>(`SELECT ${layerColumns} FROM layers WHERE state <> 'deleting'`)
  for (const row of rows) {
    const problem = row.state === 'damaged' ? 'it is damaged' : await layerProblem(layout, row)
    if (problem === undefined || !isStill(database.read, row)) continue
    found.push({ invariant: 'I1', subject: row.id, problem })
  }
  return found
}

interface CheckedImage {
  readonly id: string
  readonly size: number
}

async function checkImages({ layout, database }: Look): Promise<Violation[]> {
  const found: Violation[] = []
  const images = database.read.all<CheckedImage>('SELECT id, size FROM images ORDER BY id')
  for (const { id } of images) {
    const bytes = await missing(readFile(join(layout.blobs, id)))
    const file = bytes === undefined ? undefined : decodeImageFile(id, bytes)
    const row = database.read.get<{ config: Uint8Array }>('SELECT config FROM images WHERE id = ?', id)
    if (row === undefined) continue
    if (file === undefined) {
      found.push({ invariant: 'I2', subject: id, problem: 'its file is missing or unreadable' })
    } else if (Buffer.compare(row.config, file.configBytes) !== 0) {
      found.push({ invariant: 'I2', subject: id, problem: 'its stored config has another digest' })
    }
  }
  for (const { image_id, state } of database.read.all<{ image_id: string; state: string | null }>(
    `SELECT image_id, state FROM image_layers LEFT JOIN layers ON id = layer_id
     WHERE state IS NULL OR state <> 'ready'`,
  )) {
    found.push({ invariant: 'I2', subject: image_id, problem: `one of its layers is ${state ?? 'missing'}` })
  }
  return found
}

function checkNames({ database }: Look): Violation[] {
  const dangling = database.read.all<{ name: string }>(
    'SELECT name FROM names WHERE image_id NOT IN (SELECT id FROM images)',
  )
  const double = database.read.all<{ name: string }>(
    'SELECT name FROM names WHERE name IN (SELECT name FROM manifest_lists)',
  )
  return [
    ...dangling.map(({ name }): Violation => violation(name, 'it points to no image')),
    ...double.map(({ name }): Violation => violation(name, 'an image and a manifest list have it')),
  ]
  function violation(subject: string, problem: string): Violation {
    return { invariant: 'I3', subject, problem }
  }
}

/** An entry is only garbage if it still is there, and still unknown, after its row could be committed. */
function checkEntries({ layout, database, inMotion }: Look): Violation[] {
  const { read } = database
  const isLayer = (id: string) => read.get('SELECT 1 FROM layers WHERE id = ?', id) !== undefined
  const links = () => {
    const layers = read.all<{ id: string }>('SELECT id FROM layers').map(({ id }) => id)
    return new Set([...layers, ...inMotion.layers].filter(isLayerId).map(linkName))
  }
  const known = links()
  const unknown = [
    ...namesIn(layout.layers)
      .filter((name) => !inMotion.layers.has(name) && !isLayer(name))
      .map((name) => join(layout.layers, name)),
    ...namesIn(layout.links)
      .filter((name) => !known.has(name))
      .map((name) => join(layout.links, name)),
    ...namesIn(layout.staging)
      .filter((name) => !inMotion.staging.has(name))
      .map((name) => join(layout.staging, name)),
    ...namesIn(layout.blobs)
      .filter((name) => read.get('SELECT 1 FROM images WHERE id = ?', name) === undefined)
      .filter((name) => !inMotion.images.has(name.replace(/\.tmp$/, '')))
      .map((name) => join(layout.blobs, name)),
  ]
  return unknown.map((path) => ({ invariant: 'I4', subject: path, problem: 'no row knows it' }))
}

function checkEpochs({ database }: Look): Violation[] {
  const old = database.read.all<{ id: string }>(
    `SELECT id FROM leases WHERE epoch <> (SELECT value FROM meta WHERE key = 'epoch')
     UNION ALL SELECT id FROM ops WHERE epoch <> (SELECT value FROM meta WHERE key = 'epoch')`,
  )
  return old.map(({ id }) => ({ invariant: 'I5', subject: id, problem: 'it belongs to an earlier daemon' }))
}

/** Looks the store through while it is in use; changes nothing. */
export async function checkStore(look: Look): Promise<Violation[]> {
  const file = await look.database.quickCheck()
  return [
    ...file.map((problem): Violation => ({ invariant: 'DB', subject: look.layout.database, problem })),
    ...(await checkLayers(look)),
    ...(await checkImages(look)),
    ...checkNames(look),
    ...checkEntries(look),
    ...checkEpochs(look),
  ]
}
