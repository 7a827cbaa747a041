import { readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { hasErrno } from '../../system/system-error.js'
import { unfinished } from './row-file.js'

/** Bytes that the tables of one user may take. */
const sizeLimit = 256 * 1024 * 1024
/** Milliseconds for which a table that nobody uses is kept. */
const ageLimit = 30 * 86_400_000
/** Milliseconds after which a table that is being written belongs to a thread that is gone. */
const writingLimit = 86_400_000

/** Removes the tables of a user that were not used for long, and the least recently used ones beyond the limit. */
export function trimStatTables(directory: string, now: number, limit = sizeLimit): void {
  const tables = readdirSync(directory)
    .flatMap((name) => {
      const path = join(directory, name)
      const stat = statIfExists(path)
      return stat === undefined
        ? []
        : [{ path, size: stat.size, usedMs: stat.mtimeMs, isNew: name.endsWith(unfinished) }]
    })
    .sort((a, b) => b.usedMs - a.usedMs)
  let total = 0
  for (const { path, size, usedMs, isNew } of tables) {
    total += size
    const age = now - usedMs
    if (isNew ? age > writingLimit : total > limit || age > ageLimit) rmSync(path, { force: true })
  }
}

function statIfExists(path: string): { readonly size: number; readonly mtimeMs: number } | undefined {
  try {
    return statSync(path)
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined
    throw error
  }
}
