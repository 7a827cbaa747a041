import { randomBytes } from 'node:crypto'
import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { LayerId } from '../ports/layer-store.js'
import type { Logger } from '../ports/logger.js'
import type { Database } from './database.js'
import { discardNow } from './discard.js'
import { failureCode } from './failure.js'
import { type Layout, layerDirectory, linkName, namesIn } from './layout.js'
import type { StoreThread } from './thread.js'

/** Where everything goes that is not wanted any more: one rename, then removal in the background. */
export interface Trash {
  /** Moves the path away; nothing happens when it is not there. */
  discard(path: string): Promise<void>
  /** As `discard`, before it returns; false when nothing was moved (see discard.ts). */
  discardNow(path: string): boolean
  /**
   * Moves the directories of layers in state `deleting` away and forgets them. What fails here is logged
   * and left in that state; the next collection or start finishes it.
   */
  retire(ids: readonly string[]): Promise<void>
  /** Starts the removal of what an earlier daemon left. */
  sweep(): void
  /** Ends the removal where it stands; the next start goes on with it. */
  stop(): Promise<void>
  /** Entries whose removal has not finished. */
  pending(): number
  /** Waits until the trash is empty, but for entries that cannot be removed. */
  idle(): Promise<void>
}

export function createTrash(deps: {
  readonly layout: Layout
  readonly thread: StoreThread
  /** Shared with the thread. */
  readonly stop: Int32Array
  readonly database: Database
  readonly log: Logger
}): Trash {
  const { layout, thread, database, log } = deps
  const removals = new Set<Promise<void>>()
  let stopped = false

  const remove = (name: string): void => {
    const removal = thread
      .call('remove', name)
      .then(
        () => undefined,
        (error) => {
          if (!stopped)
            log.warn('trash.not-removed', { entry: join(layout.trash, name), error: String(error) })
        },
      )
      .finally(() => removals.delete(removal))
    removals.add(removal)
  }

  const discard = async (path: string): Promise<void> => {
    const name = randomBytes(16).toString('hex')
    try {
      await rename(path, join(layout.trash, name))
    } catch (error) {
      if (failureCode(error) === 'ENOENT') return
      throw error
    }
    if (!stopped) remove(name)
  }

  const retire = async (ids: readonly string[]): Promise<void> => {
    if (ids.length === 0) return
    try {
      for (const id of ids as readonly LayerId[]) {
        await rm(join(layout.links, linkName(id)), { force: true })
        await discard(layerDirectory(layout, id))
      }
      await database.write('forgetLayers', { ids })
    } catch (error) {
      log.warn('layers.not-removed', { layers: ids, error: String(error) })
    }
  }

  return {
    discard,
    discardNow(path) {
      const name = discardNow(layout, path)
      if (name !== undefined && !stopped) remove(name)
      return name !== undefined
    },
    retire,
    sweep() {
      for (const name of namesIn(layout.trash)) remove(name)
    },
    async stop() {
      stopped = true
      Atomics.store(deps.stop, 0, 1)
      await thread.close()
    },
    pending: () => removals.size,
    async idle() {
      while (removals.size > 0) await Promise.all(removals)
    },
  }
}
