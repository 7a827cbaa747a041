import BetterSqlite from 'better-sqlite3'
import type { Logger } from '../ports/logger.js'
import { storeFailure, tellsDamagedDatabase } from './failure.js'
import type { Layout } from './layout.js'
import { configureConnection } from './schema.js'
import { openThread } from './thread.js'
import type { BackupPolicy } from './thread-messages.js'
import type { WriteName, WriteParams, WriteResult } from './writes/table.js'
import { prepareStatements, type SqlValue, type Statements } from './writes/transaction.js'

export type { Statements } from './writes/transaction.js'

/** The image database: one writer in a thread of its own, reads on the calling thread. */
export interface Database {
  /** Resolves after the commit. Concurrent writes share one; each fails alone. */
  write<N extends WriteName>(name: N, params: WriteParams<N>): Promise<WriteResult<N>>
  /** Quick look-ups; they see every write that was acknowledged. */
  readonly read: Statements
  /**
   * Reads in pieces over one unchanging view of the database: `piece` gives undefined to go on after
   * other work had a turn, anything else to end.
   */
  walk<T>(piece: (statements: Statements) => T | undefined): Promise<T>
  /** Another number after every commit; asking costs less than a look-up. */
  version(): number
  /** Problems of the file itself; empty when it is sound. */
  quickCheck(): Promise<readonly string[]>
  /** False once anything has met damage in the file. */
  isSound(): boolean
  /** Damage was found in the file: it is to be checked, and healed, by the next start. */
  condemn(problems: readonly string[]): void
  /** Writes a backup now; gives its number. */
  backup(): Promise<number>
  close(): Promise<void>
}

export type BackupOptions = Omit<BackupPolicy, 'directory'>

export const defaultBackups: BackupOptions = {
  commits: 50,
  maxAgeMs: 3_600_000,
  minGapMs: 60_000,
  keep: 3,
}

/** The same statements; `onFailure` hears of what they throw. */
function watched(statements: Statements, onFailure: (error: unknown) => void): Statements {
  const watch = <R>(work: () => R): R => {
    try {
      return work()
    } catch (error) {
      onFailure(error)
      throw error
    }
  }
  return {
    all: <Row>(sql: string, ...values: SqlValue[]) => watch(() => statements.all<Row>(sql, ...values)),
    get: <Row>(sql: string, ...values: SqlValue[]) => watch(() => statements.get<Row>(sql, ...values)),
    run: (sql, ...values) => watch(() => statements.run(sql, ...values)),
  }
}

/** Opens a database that recovery has made sound. `entry` is the module that runs a store thread. */
export async function openDatabase(
  layout: Layout,
  options: { readonly entry: URL; readonly backups: BackupOptions; readonly log: Logger },
): Promise<Database> {
  const { log } = options
  let isSound = true
  const condemn = (problems: readonly string[]): void => {
    if (!isSound) return
    isSound = false
    const hint = 'Restart isula-builder: it puts the database aside and finds images again.'
    log.error('store.database-damaged', { problems: problems.slice(0, 20), hint })
  }
  const noteDamage = (error: unknown): void => {
    if (tellsDamagedDatabase(error)) condemn([String(error)])
  }
  const thread = openThread(
    options.entry,
    { role: 'database', path: layout.database, backups: { ...options.backups, directory: layout.backups } },
    (error) => {
      noteDamage(error)
      log.warn('store.backup-failed', { error: error.message })
    },
  )
  const openReader = () => {
    const connection = new BetterSqlite(layout.database, { readonly: true, fileMustExist: true })
    configureConnection(connection)
    return connection
  }
  const reader = openReader()
  const walker = openReader()
  const read = watched(prepareStatements(reader), noteDamage)
  const walkerStatements = watched(prepareStatements(walker), noteDamage)
  let walks: Promise<unknown> = Promise.resolve()

  const walkNow = async <T>(piece: (statements: Statements) => T | undefined): Promise<T> => {
    walker.exec('BEGIN')
    try {
      for (;;) {
        const result = piece(walkerStatements)
        if (result !== undefined) return result
        await new Promise((resolve) => setImmediate(resolve))
      }
    } finally {
      walker.exec('COMMIT')
    }
  }

  const call = async (name: string, params: unknown): Promise<unknown> => {
    try {
      return await thread.call(name, params)
    } catch (error) {
      noteDamage(error)
      throw storeFailure(error, 'writing the image database')
    }
  }

  return {
    write: (name, params) => call(name, params) as Promise<WriteResult<typeof name>>,
    read,
    walk<T>(piece: (statements: Statements) => T | undefined): Promise<T> {
      const walk = walks.then(() => walkNow(piece))
      walks = walk.catch(() => undefined)
      return walk
    },
    // Of a connection that never writes, https://sqlite.org/pragma.html#pragma_data_version.
    version: () => Number(reader.pragma('data_version', { simple: true })),
    async quickCheck() {
      const problems = (await call('quickCheck', undefined)) as readonly string[]
      if (problems.length > 0) condemn(problems)
      return problems
    },
    isSound: () => isSound,
    condemn,
    backup: () => call('backup', undefined) as Promise<number>,
    async close() {
      await walks
      reader.close()
      walker.close()
      await thread.close()
    },
  }
}
