import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Database, Statement } from 'better-sqlite3'

/** Values SQLite stores; booleans are 0 and 1. */
export type SqlValue = string | number | Uint8Array | null

/** Prepared statements on one connection, each text prepared once. */
export interface Statements {
  all<Row>(sql: string, ...values: SqlValue[]): Row[]
  get<Row>(sql: string, ...values: SqlValue[]): Row | undefined
  /** Rows changed. */
  run(sql: string, ...values: SqlValue[]): number
}

/** What a write sees: the statements of the writing connection inside an open transaction. */
export interface Transaction extends Statements {
  /** The running daemon's. */
  readonly epoch: number
  /** Makes this transaction a durable one, whatever its writes are: it changes what is relied on as durable already. */
  flush(): void
}

/**
 * `ordered` writes are durable no later than the next `durable` one, which is enough for what a restart
 * drops or redoes. `reclaiming` ones are durable and may spend the reserve of a full disk.
 */
export type Durability = 'ordered' | 'durable' | 'reclaiming'

export interface Write<Params, Result> {
  readonly durability: Durability
  run(tx: Transaction, params: Params): Result
}

export function ordered<P, R>(run: (tx: Transaction, params: P) => R): Write<P, R> {
  return { durability: 'ordered', run }
}

export function durable<P, R>(run: (tx: Transaction, params: P) => R): Write<P, R> {
  return { durability: 'durable', run }
}

export function reclaiming<P, R>(run: (tx: Transaction, params: P) => R): Write<P, R> {
  return { durability: 'reclaiming', run }
}

export function prepareStatements(db: Database): Statements {
  const prepared = new Map<string, Statement<SqlValue[]>>()
  const statement = (sql: string) => {
    const known = prepared.get(sql)
    if (known !== undefined) return known
    const fresh = db.prepare<SqlValue[]>(sql)
    prepared.set(sql, fresh)
    return fresh
  }
  return {
    all: <Row>(sql: string, ...values: SqlValue[]) => statement(sql).all(...values) as Row[],
    get: <Row>(sql: string, ...values: SqlValue[]) => statement(sql).get(...values) as Row | undefined,
    run: (sql, ...values) => statement(sql).run(...values).changes,
  }
}

/** Fails when the lease was released: its operation has ended and may hold nothing new. */
export function requireLease(tx: Transaction, leaseId: string): void {
  if (tx.get('SELECT 1 FROM leases WHERE id = ?', leaseId) === undefined) {
    throw new BuilderError('ISB_CANCELLED', 'the operation has already ended')
  }
}
