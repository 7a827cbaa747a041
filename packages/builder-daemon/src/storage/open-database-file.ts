import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import Database from 'better-sqlite3'
import { backupPath, listBackups } from './backup.js'
import { takeCleanMark } from './clean-mark.js'
import { failureCode } from './failure.js'
import { type Layout, namesIn } from './layout.js'
import { configureWriter, migrate } from './schema.js'
import { quickCheck } from './writer.js'

export interface OpenedDatabase {
  readonly db: Database.Database
  /** The database of the last run was lost or unreadable; what is on the disk has to be looked through. */
  readonly lost: boolean
  /** Number of the backup that took its place. */
  readonly backup: number | undefined
  /** Where the unreadable one was put. */
  readonly movedTo: string | undefined
}

/** There while a lost database is being replaced, so that a start cut short is taken up by the next one. */
function lostMarker(layout: Layout): string {
  return join(layout.databaseDirectory, 'lost')
}

/** What replaces a lost database is committed. */
export function settleLost(layout: Layout): void {
  rmSync(lostMarker(layout), { force: true })
}

const files = (path: string) => [path, `${path}-wal`, `${path}-shm`]

/** Opens, checks unless it is known to be sound, and migrates; undefined when the file is not a sound database. */
function openSound(path: string, isKnownSound = false): Database.Database | undefined {
  let db: Database.Database | undefined
  try {
    // SQLite would make it readable by all; what it puts beside it gets the same mode.
    closeSync(openSync(path, 'a', 0o600))
    chmodSync(path, 0o600)
    db = new Database(path)
    configureWriter(db)
    if (!isKnownSound && quickCheck(db).length > 0) {
      db.close()
      return undefined
    }
    migrate(db)
    db.prepare("SELECT value FROM meta WHERE key = 'epoch'").get()
    return db
  } catch (error) {
    db?.close()
    // Only what is wrong with the content condemns a database, not a full disk or a newer version.
    const code = failureCode(error)
    if (
      isBuilderError(error) ||
      !/^SQLITE_(CORRUPT|NOTADB|ERROR|IOERR_SHORT_READ|CONSTRAINT|MISMATCH)/.test(code)
    ) {
      throw error
    }
    return undefined
  }
}

const untouched = { backup: undefined, movedTo: undefined }

function moveAside(layout: Layout): string {
  for (let number = 1; ; number++) {
    const target = join(layout.databaseDirectory, `damaged-${number}`)
    if (existsSync(target)) continue
    mkdirSync(target, { mode: 0o700 })
    for (const path of files(layout.database)) {
      if (existsSync(path)) renameSync(path, join(target, path.slice(layout.databaseDirectory.length + 1)))
    }
    return target
  }
}

function restore(layout: Layout, number: number): Database.Database | undefined {
  const temporary = `${layout.database}.restored`
  for (const path of files(temporary)) rmSync(path, { force: true })
  copyFileSync(backupPath(layout.backups, number), temporary)
  const candidate = openSound(temporary)
  candidate?.close()
  if (candidate !== undefined) {
    const fd = openSync(temporary, 'r')
    fsyncSync(fd)
    closeSync(fd)
    renameSync(temporary, layout.database)
  }
  for (const path of files(temporary)) rmSync(path, { force: true })
  return candidate === undefined ? undefined : openSound(layout.database)
}

function isPresent(path: string): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  return stat?.isFile() === true && stat.size > 0
}

/**
 * Opens the image database for the only writer there is. One that is unreadable is kept aside and
 * replaced by the newest backup that is sound, else by an empty one. Fails with ISB_UNSUPPORTED when a
 * newer isula-builder wrote it.
 */
export function openDatabaseFile(layout: Layout): OpenedDatabase {
  const isClean = takeCleanMark(layout)
  const present = isPresent(layout.database)
  if (present) {
    const db = openSound(layout.database, isClean)
    if (db !== undefined) return { db, lost: existsSync(lostMarker(layout)), ...untouched }
  }
  const backups = listBackups(layout.backups)
  const wasUsed = namesIn(layout.layers).length > 0 || namesIn(layout.blobs).length > 0
  if (!present && !wasUsed && backups.length === 0) {
    for (const path of files(layout.database)) rmSync(path, { force: true })
    return { db: openFresh(layout), lost: false, ...untouched }
  }
  writeFileSync(lostMarker(layout), '', { mode: 0o600, flush: true })
  const movedTo = files(layout.database).some(existsSync) ? moveAside(layout) : undefined
  for (const backup of backups) {
    const db = restore(layout, backup)
    if (db !== undefined) return { db, lost: true, backup, movedTo }
  }
  return { db: openFresh(layout), lost: true, backup: undefined, movedTo }
}

function openFresh(layout: Layout): Database.Database {
  const db = openSound(layout.database)
  if (db === undefined) throw new Error(`${layout.database}: a new database is not sound`)
  return db
}
