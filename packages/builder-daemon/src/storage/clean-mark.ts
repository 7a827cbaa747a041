import { lstatSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { failureCode } from './failure.js'
import type { Layout } from './layout.js'

/**
 * `clean` beside the database: which file the last daemon left there when it closed it in order. Nobody has touched
 * a file that still is the same in all of this since (stat(2): ctime cannot be set), and there is no log to replay,
 * so it need not be checked before it is used. Whatever is wrong with the mark itself costs that check only.
 */
function markPath(layout: Layout): string {
  return join(layout.databaseDirectory, 'clean')
}

/**
 * undefined for what is no regular file, or has a log beside it that may hold something. An empty one stays where the last
 * daemon wrote nothing: only a connection that could write removes it.
 */
function identity(path: string): string | undefined {
  const log = lstatSync(`${path}-wal`, { throwIfNoEntry: false })
  if (log !== undefined && (!log.isFile() || log.size > 0)) return undefined
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false })
  if (stat?.isFile() !== true) return undefined
  const { dev, ino, size, mtimeNs, ctimeNs } = stat
  return `1 ${[dev, ino, size, mtimeNs, ctimeNs].join(' ')}\n`
}

/** Marks a database that was just closed without a failure. */
export function leaveCleanMark(layout: Layout): void {
  const wanted = identity(layout.database)
  if (wanted === undefined) return
  const path = markPath(layout)
  writeFileSync(`${path}.tmp`, wanted, { mode: 0o600 })
  renameSync(`${path}.tmp`, path)
}

/** Whether the database is the one that was marked; the mark itself goes, as it holds only until the next change. */
export function takeCleanMark(layout: Layout): boolean {
  const path = markPath(layout)
  try {
    const found = readFileSync(path, 'utf8')
    rmSync(path)
    return found === identity(layout.database)
  } catch (error) {
    if (failureCode(error) === 'ENOENT') return false
    rmSync(path, { recursive: true, force: true })
    return false
  }
}
