import { randomBytes } from 'node:crypto'
import { renameSync } from 'node:fs'
import { join } from 'node:path'
import { failureCode } from './failure.js'
import type { Layout } from './layout.js'

/**
 * Moves a path to the trash, without removing it there; gives its name there. undefined when there was nothing, and for
 * a mount point, which somebody still uses: it stays, and does not keep the store from opening.
 */
export function discardNow(layout: Layout, path: string): string | undefined {
  const name = randomBytes(16).toString('hex')
  try {
    renameSync(path, join(layout.trash, name))
    return name
  } catch (error) {
    if (['EBUSY', 'ENOENT'].includes(failureCode(error))) return undefined
    throw error
  }
}
