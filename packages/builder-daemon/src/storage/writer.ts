import { closeSync, fsyncSync, openSync, rmSync, writeSync } from 'node:fs'
import { dirname, join } from 'node:path'
import Database from 'better-sqlite3'
import { createBackups } from './backup.js'
import type { ThreadRole } from './database-worker.js'
import { failureCode, storeFailure, tellsDamagedDatabase } from './failure.js'
import { spendReserve } from './reserve.js'
import { configureWriter } from './schema.js'
import {
  type BackupPolicy,
  encodeFailure,
  type ThreadFailure,
  type ThreadReply,
  type ThreadRequest,
} from './thread-messages.js'
import { writes } from './writes/table.js'
import { type Durability, prepareStatements, type Transaction, type Write } from './writes/transaction.js'

type Outcome =
  | { readonly ok: true; readonly result: unknown }
  | { readonly ok: false; readonly failure: ThreadFailure }

function findWrite(name: string): Write<unknown, unknown> {
  if (!Object.hasOwn(writes, name)) throw new Error(`unknown write ${name}`)
  return writes[name as keyof typeof writes] as Write<unknown, unknown>
}

/**
 * SQLite reports a full quota as a plain write error, so a write error is looked into by writing
 * next to the database.
 */
function explain(error: unknown, directory: string): Error {
  if (failureCode(error).startsWith('SQLITE_IOERR')) {
    const probe = join(directory, '.probe')
    try {
      const fd = openSync(probe, 'w', 0o600)
      try {
        writeSync(fd, Buffer.alloc(4096))
        fsyncSync(fd)
      } finally {
        closeSync(fd)
      }
    } catch (cause) {
      if (failureCode(cause) !== '') return storeFailure(cause, 'writing the image database')
    } finally {
      rmSync(probe, { force: true })
    }
  }
  return failureCode(error).startsWith('SQLITE_')
    ? storeFailure(error, 'writing the image database')
    : asError(error)
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}

/**
 * The one writer. All requests that are waiting run in one transaction, each in a savepoint, so that a
 * failing one rolls back alone; they are answered after the commit, which one fsync makes durable for all.
 */
export function createWriter(
  path: string,
  policy: BackupPolicy,
  report: (error: unknown) => void,
): ThreadRole {
  const directory = dirname(path)
  const db = new Database(path, { fileMustExist: true })
  configureWriter(db)
  const statements = prepareStatements(db)
  const epoch = statements.get<{ value: number }>("SELECT value FROM meta WHERE key = 'epoch'")?.value
  if (epoch === undefined) throw new Error(`${path}: no epoch`)
  let wantsFlush = false
  const tx: Transaction = {
    ...{ ...statements, epoch },
    flush() {
      wantsFlush = true
    },
  }
  const backups = createBackups(db, policy, report)
  let flushing = true
  let broken: Error | undefined

  /** In WAL mode a NORMAL commit is ordered but not flushed. */
  const setFlushing = (wanted: boolean) => {
    if (flushing === wanted) return
    db.pragma(`synchronous = ${wanted ? 'FULL' : 'NORMAL'}`)
    flushing = wanted
  }

  const runOne = (request: ThreadRequest): Outcome => {
    db.exec('SAVEPOINT request')
    try {
      const result = findWrite(request.name).run(tx, request.params)
      db.exec('RELEASE request')
      return { ok: true, result }
    } catch (error) {
      // A full disk makes SQLite roll everything back by itself; the batch is then lost as a whole.
      if (!db.inTransaction || failureCode(error) === 'SQLITE_FULL') throw error
      db.exec('ROLLBACK TO request')
      db.exec('RELEASE request')
      return { ok: false, failure: encodeFailure(explain(error, directory)) }
    }
  }

  const runBatch = (requests: readonly ThreadRequest[], flush: boolean): Outcome[] => {
    if (broken !== undefined) throw broken
    setFlushing(flush)
    wantsFlush = false
    db.exec('BEGIN IMMEDIATE')
    try {
      const outcomes = requests.map(runOne)
      if (wantsFlush && !flush) {
        // How a commit is flushed cannot be changed on the way to it.
        db.exec('ROLLBACK')
        return runBatch(requests, true)
      }
      db.exec('COMMIT')
      if (flush) backups.committed()
      return outcomes
    } catch (error) {
      if (db.inTransaction) db.exec('ROLLBACK')
      if (failureCode(error) === 'SQLITE_IOERR_FSYNC') settleLog(error)
      throw explain(error, directory)
    }
  }

  /**
   * After a failed fsync the kernel forgets which pages of the log it lost, and a later fsync succeeds
   * without them. Copying the log, still whole in memory, into the database makes both sound again.
   */
  const settleLog = (cause: unknown) => {
    try {
      db.pragma('wal_checkpoint(TRUNCATE)')
    } catch {
      broken = explain(cause, directory)
    }
  }

  const durabilityOf = (request: ThreadRequest): Durability =>
    Object.hasOwn(writes, request.name) ? findWrite(request.name).durability : 'ordered'

  /** A batch that finds no space is retried request by request: one that frees space may succeed alone. */
  const runAlone = (request: ThreadRequest): Outcome => {
    const durability = durabilityOf(request)
    try {
      return runBatch([request], durability !== 'ordered')[0] as Outcome
    } catch (error) {
      if (durability !== 'reclaiming' || failureCode(error) !== 'ISB_NO_SPACE' || !spendReserve(directory)) {
        return { ok: false, failure: encodeFailure(error) }
      }
      try {
        return runBatch([request], true)[0] as Outcome
      } catch (again) {
        return { ok: false, failure: encodeFailure(again) }
      }
    }
  }

  const serve = (requests: readonly ThreadRequest[], reply: (reply: ThreadReply) => void): void => {
    const special = requests.filter((request) => request.name === 'backup' || request.name === 'quickCheck')
    const changes = requests.filter((request) => !special.includes(request))
    const flush = changes.some((request) => durabilityOf(request) !== 'ordered')
    let outcomes: Outcome[] = []
    if (changes.length > 0) {
      try {
        outcomes = runBatch(changes, flush)
      } catch (error) {
        outcomes =
          failureCode(error) === 'ISB_NO_SPACE'
            ? changes.map(runAlone)
            : changes.map(() => ({ ok: false, failure: encodeFailure(error) }))
      }
    }
    changes.forEach((request, index) => {
      reply({ id: request.id, ...(outcomes[index] as Outcome) })
    })
    for (const request of special) {
      try {
        reply({
          id: request.id,
          ok: true,
          result: request.name === 'backup' ? backups.take() : quickCheck(db),
        })
      } catch (error) {
        reply({ id: request.id, ok: false, failure: encodeFailure(explain(error, directory)) })
      }
    }
  }

  const close = () => {
    backups.stop()
    // Closing the last connection copies the log into the database and removes it.
    db.close()
  }

  return { serve, close }
}

/**
 * Problems SQLite finds, empty when it is sound. What makes the check itself impossible is one of them. `goOn` is called
 * between its parts; what it throws ends it.
 */
export function quickCheck(db: Database.Database, goOn: () => void = () => undefined): readonly string[] {
  try {
    const rows = db.pragma('quick_check') as { quick_check: string }[]
    const problems = rows.map((row) => row.quick_check).filter((text) => text !== 'ok')
    // On damaged pages the other check fails, and with it what this one found would be lost.
    return problems.length > 0 ? problems : danglingRows(db, goOn)
  } catch (error) {
    if (!tellsDamagedDatabase(error)) throw error
    return [asError(error).message]
  }
}

function danglingRows(db: Database.Database, goOn: () => void): readonly string[] {
  const tables = db.prepare<[], string>("SELECT name FROM sqlite_schema WHERE type = 'table'").pluck().all()
  const lost = db.prepare<[string], string>('SELECT parent FROM pragma_foreign_key_check(?)').pluck()
  return tables.flatMap((table) => {
    goOn()
    const parents = lost.all(table)
    return parents.map((parent) => `${table} points to a missing row of ${parent}`)
  })
}
