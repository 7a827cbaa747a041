import { randomBytes } from 'node:crypto'
import { lstatSync, readlinkSync, renameSync, rmSync, statfsSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from '../ports/logger.js'
import { failureCode, storeFailure } from './failure.js'
import { encodeImageFile } from './image-file.js'
import {
  entriesIn,
  isLayerId,
  isRealDirectory,
  type Layout,
  linkName,
  linkTarget,
  namesIn,
} from './layout.js'
import { type OpenedDatabase, openDatabaseFile, settleLost } from './open-database-file.js'
import { rebuild } from './rebuild.js'
import { makeReserve, spendReserve } from './reserve.js'
import { prepareStatements, type Statements } from './writes/transaction.js'

/** What a start found and put right. */
export interface RecoveryReport {
  /** Of this daemon, counted up at every start. */
  readonly epoch: number
  readonly databaseLost: boolean
  readonly restoredBackup: number | undefined
  readonly rebuiltLayers: number
  readonly rebuiltImages: number
  /** Layers whose directory is missing, newly found. */
  readonly damaged: number
  /** Layers left unflushed: verified before their first use. */
  readonly suspects: number
  /** Entries that were moved to the trash. */
  readonly swept: number
  readonly endedLeases: number
  readonly ms: number
}

/** False for a mount point, which somebody still uses: it stays, and does not keep the store from opening. */
function discard(layout: Layout, path: string): boolean {
  try {
    renameSync(path, join(layout.trash, randomBytes(16).toString('hex')))
    return true
  } catch (error) {
    if (failureCode(error) === 'EBUSY') return false
    throw error
  }
}

interface KnownLayer {
  readonly id: string
  readonly state: 'ready' | 'damaged' | 'deleting'
}

/** Rows decide: what is not theirs goes, what is missing is damage, an unfinished removal is finished. */
function settleLayers(layout: Layout, statements: Statements): { damaged: number; swept: number } {
  const rows = statements.all<KnownLayer>('SELECT id, state FROM layers')
  const known = new Map(rows.map((row) => [row.id, row.state]))
  let swept = 0
  const directories = new Set<string>()
  for (const entry of entriesIn(layout.layers)) {
    const { name } = entry
    if (entry.isDirectory()) directories.add(name)
    const state = known.get(name)
    if (state !== undefined && state !== 'deleting') continue
    if (discard(layout, join(layout.layers, name))) swept++
  }
  statements.run("DELETE FROM layers WHERE state = 'deleting'")
  let damaged = 0
  for (const row of rows) {
    if (row.state !== 'ready') continue
    if (directories.has(row.id) && isRealDirectory(join(layout.layers, row.id, 'diff'))) continue
    statements.run("UPDATE layers SET state = 'damaged' WHERE id = ?", row.id)
    statements.run('DELETE FROM cache_records WHERE layer_id = ?', row.id)
    damaged++
  }
  return { damaged, swept }
}

/** Links follow from rows, so they are made anew where they differ. */
function settleLinks(layout: Layout, statements: Statements): void {
  const wanted = new Map<string, string>()
  for (const { id } of statements.all<{ id: string }>('SELECT id FROM layers')) {
    if (isLayerId(id)) wanted.set(linkName(id), linkTarget(id))
  }
  for (const entry of entriesIn(layout.links)) {
    const { name } = entry
    const path = join(layout.links, name)
    const isRight = entry.isSymbolicLink() && readlinkSync(path) === wanted.get(name)
    if (isRight) wanted.delete(name)
    else discard(layout, path)
  }
  for (const [name, target] of wanted) symlinkSync(target, join(layout.links, name))
}

function sweepStaging(layout: Layout): number {
  return namesIn(layout.staging).filter((name) => discard(layout, join(layout.staging, name))).length
}

interface StoredImage {
  readonly id: string
  readonly created_at: number
  readonly stored_at: number
  readonly owner: number
  readonly config: Uint8Array
}

function writeImageFile(layout: Layout, statements: Statements, id: string): void {
  const row = statements.get<StoredImage>(
    'SELECT id, created_at, stored_at, owner, config FROM images WHERE id = ?',
    id,
  )
  if (row === undefined) return
  const layers = statements.all<{ layer_id: string }>(
    'SELECT layer_id FROM image_layers WHERE image_id = ? ORDER BY position',
    id,
  )
  const names = statements.all<{ name: string }>(
    'SELECT name FROM names WHERE image_id = ? ORDER BY name',
    id,
  )
  const bytes = encodeImageFile({
    layers: layers.map((layer) => layer.layer_id),
    names: names.map(({ name }) => name),
    owner: row.owner,
    createdAt: row.created_at,
    storedAt: row.stored_at,
    configBytes: row.config,
  })
  const path = join(layout.blobs, id)
  writeFileSync(`${path}.tmp`, bytes, { mode: 0o600 })
  renameSync(`${path}.tmp`, path)
}

/** Image files of no image go; missing and empty ones are written again from the row. */
function settleImageFiles(layout: Layout, statements: Statements): number {
  const missing = new Set(statements.all<{ id: string }>('SELECT id FROM images').map((row) => row.id))
  let swept = 0
  for (const name of namesIn(layout.blobs)) {
    const stat = lstatSync(join(layout.blobs, name))
    if (stat.isFile() && stat.size > 0 && missing.delete(name)) continue
    if (discard(layout, join(layout.blobs, name))) swept++
  }
  for (const id of missing) writeImageFile(layout, statements, id)
  return swept
}

function settle(layout: Layout, opened: OpenedDatabase): Omit<RecoveryReport, 'ms'> {
  const statements = prepareStatements(opened.db)
  const rebuilt = opened.lost ? rebuild(layout, statements) : { layers: 0, images: 0 }
  const endedLeases = statements.run('DELETE FROM leases')
  statements.run("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
  const epoch = statements.get<{ value: number }>("SELECT value FROM meta WHERE key = 'epoch'")
  if (epoch === undefined) throw new Error(`${layout.database}: no epoch`)
  const { damaged, swept } = settleLayers(layout, statements)
  const suspects = statements.get<{ n: number }>(
    "SELECT count(*) AS n FROM layers WHERE synced = 0 AND state = 'ready'",
  )
  settleLinks(layout, statements)
  return {
    epoch: epoch.value,
    databaseLost: opened.lost,
    restoredBackup: opened.backup,
    rebuiltLayers: rebuilt.layers,
    rebuiltImages: rebuilt.images,
    damaged,
    suspects: suspects?.n ?? 0,
    swept: swept + sweepStaging(layout) + settleImageFiles(layout, statements),
    endedLeases,
  }
}

function openAndSettle(layout: Layout, log: Logger): Omit<RecoveryReport, 'ms'> {
  const opened = openDatabaseFile(layout)
  try {
    const report = opened.db.transaction(() => settle(layout, opened)).immediate()
    if (opened.lost) {
      log.error('store.database-lost', {
        movedTo: opened.movedTo,
        restoredBackup: opened.backup,
        rebuiltLayers: report.rebuiltLayers,
        rebuiltImages: report.rebuiltImages,
      })
    }
    return report
  } finally {
    opened.db.close()
  }
}

/**
 * Makes a locked store sound again, whatever ended the last daemon. Moves only, removes nothing itself:
 * the trash is emptied in the background later. Every step may be cut short and is then done again by
 * the next start. Synchronous: it runs before anything is served.
 */
export function recover(layout: Layout, log: Logger, elapsed: () => number): RecoveryReport {
  try {
    const report = withReserve(layout, () => openAndSettle(layout, log))
    settleLost(layout)
    makeReserve(layout.databaseDirectory)
    return { ...report, ms: elapsed() }
  } catch (error) {
    throw storeFailure(error, 'recovering the store')
  }
}

/** Without room for its shared index SQLite only says that something could not be written. */
function tellsFull(layout: Layout, code: string): boolean {
  if (['SQLITE_FULL', 'ENOSPC', 'EDQUOT'].includes(code)) return true
  if (!/^SQLITE_(IOERR|CANTOPEN)/.test(code)) return false
  const disk = statfsSync(layout.dataRoot)
  return disk.bavail * disk.bsize < 1024 * 1024
}

function withReserve<T>(layout: Layout, work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (!tellsFull(layout, failureCode(error)) || !spendReserve(layout.databaseDirectory)) throw error
    return work()
  }
}

/** Removes what an interrupted write left beside the database. */
export function sweepTemporaries(layout: Layout): void {
  rmSync(join(layout.backups, 'next.tmp'), { force: true })
  rmSync(join(layout.databaseDirectory, 'reserve.tmp'), { force: true })
}
