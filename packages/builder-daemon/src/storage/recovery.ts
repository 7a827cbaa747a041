import { rmSync, statfsSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from '../ports/logger.js'
import { discardNow } from './discard.js'
import { failureCode, storeFailure, tellsDamagedDatabase } from './failure.js'
import { isLayerId, type Layout, linkName, namesIn } from './layout.js'
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
  /** Layers left unflushed: verified before their first use. */
  readonly suspects: number
  /** Staging directories that were moved to the trash. */
  readonly swept: number
  readonly endedLeases: number
  readonly ms: number
}

/** Finishes removals that were cut short. */
function finishRemovals(layout: Layout, statements: Statements): void {
  // The second condition is the index's, the first one is meant.
  const rows = statements.all<{ id: string }>(
    "SELECT id FROM layers WHERE state = 'deleting' AND state <> 'ready'",
  )
  for (const { id } of rows) {
    if (isLayerId(id)) discardNow(layout, join(layout.links, linkName(id)))
    discardNow(layout, join(layout.layers, id))
    statements.run('DELETE FROM layers WHERE id = ?', id)
  }
}

function sweepStaging(layout: Layout): number {
  return namesIn(layout.staging).filter((name) => discardNow(layout, join(layout.staging, name))).length
}

function settle(layout: Layout, opened: OpenedDatabase): Omit<RecoveryReport, 'ms'> {
  const statements = prepareStatements(opened.db)
  const rebuilt = opened.lost ? rebuild(layout, statements) : { layers: 0, images: 0 }
  const endedLeases = statements.run('DELETE FROM leases')
  statements.run("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
  const epoch = statements.get<{ value: number }>("SELECT value FROM meta WHERE key = 'epoch'")
  if (epoch === undefined) throw new Error(`${layout.database}: no epoch`)
  finishRemovals(layout, statements)
  const suspects = statements.get<{ n: number }>(
    "SELECT count(*) AS n FROM layers WHERE synced = 0 AND state = 'ready'",
  )
  return {
    epoch: epoch.value,
    databaseLost: opened.lost,
    restoredBackup: opened.backup,
    rebuiltLayers: rebuilt.layers,
    rebuiltImages: rebuilt.images,
    suspects: suspects?.n ?? 0,
    swept: sweepStaging(layout),
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
 * Makes the rows of a locked store sound again, whatever ended the last daemon. Moves only, removes nothing itself:
 * the trash is emptied in the background later, and files are compared with rows by upkeep.ts. Every step may be cut
 * short and is then done again by the next start. Synchronous: it runs before anything is served.
 */
export function recover(layout: Layout, log: Logger, elapsed: () => number): RecoveryReport {
  try {
    const report = withReserve(layout, () => checkedIfDamaged(() => openAndSettle(layout, log)))
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

/** Damage that shows so late was in a database that its mark made known as sound. The mark is gone now. */
function checkedIfDamaged<T>(work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (!tellsDamagedDatabase(error)) throw error
    return work()
  }
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
