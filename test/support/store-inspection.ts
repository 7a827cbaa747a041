import BetterSqlite from 'better-sqlite3'
import { checkStore, type Violation } from '../../packages/builder-daemon/src/storage/check.js'
import { layoutOf } from '../../packages/builder-daemon/src/storage/layout.js'
import { configureConnection } from '../../packages/builder-daemon/src/storage/schema.js'
import { prepareStatements } from '../../packages/builder-daemon/src/storage/writes/transaction.js'

const none: ReadonlySet<string> = new Set()

/**
 * Looks through the store of a daemon in which nothing is under way, over a connection of its own that
 * can only read, so that it sees what the daemon's own recovery made of it.
 */
export async function inspectStore(dataRoot: string): Promise<readonly Violation[]> {
  const layout = layoutOf(dataRoot)
  const connection = new BetterSqlite(layout.database, { readonly: true, fileMustExist: true })
  configureConnection(connection)
  const refuse = (): never => {
    throw new Error('an inspection only reads')
  }
  try {
    const database = {
      read: prepareStatements(connection),
      quickCheck: async () =>
        (connection.pragma('quick_check') as { quick_check: string }[])
          .map((row) => row.quick_check)
          .filter((line) => line !== 'ok'),
      write: refuse,
      walk: refuse,
      version: refuse,
      isSound: refuse,
      condemn: refuse,
      backup: refuse,
      close: refuse,
    }
    return await checkStore({ layout, database, inMotion: { layers: none, staging: none, images: none } })
  } finally {
    connection.close()
  }
}

/** Rows of the image database, for what no command tells. */
export function readStore<Row>(dataRoot: string, sql: string): readonly Row[] {
  const connection = new BetterSqlite(layoutOf(dataRoot).database, { readonly: true, fileMustExist: true })
  try {
    return connection.prepare<[], Row>(sql).all()
  } finally {
    connection.close()
  }
}
