import { symlinkSync } from 'node:fs'
import { join } from 'node:path'
import type { LayerId } from '../ports/layer-store.js'
import { storeFailure } from './failure.js'
import { type Layout, linkName, linkTarget } from './layout.js'
import { hasContent, isLinked } from './look-through.js'
import type { Trash } from './trash.js'

/**
 * Whether layers of earlier daemons are where their rows say. Each is looked for before its first use, until all have
 * been; those of this daemon are not looked for again once they were found.
 */
export interface Presence {
  /** False when the directory is missing. A short link that is missing or wrong is made again. */
  isThere(id: LayerId): boolean
  /** All layers have been looked for. */
  settled(): void
}

/** A short link follows from the layer's row. */
export function mendLink(layout: Layout, trash: Trash, id: LayerId): void {
  const path = join(layout.links, linkName(id))
  trash.discardNow(path)
  symlinkSync(linkTarget(id), path)
}

export function createPresence(layout: Layout, trash: Trash): Presence {
  const found = new Set<LayerId>()
  let isSettled = false

  const look = (id: LayerId): boolean => {
    if (!hasContent(layout, id)) return false
    if (!isLinked(layout, id)) mendLink(layout, trash, id)
    found.add(id)
    return true
  }

  return {
    isThere(id) {
      if (isSettled || found.has(id)) return true
      try {
        return look(id)
      } catch (error) {
        throw storeFailure(error, 'looking for a layer')
      }
    },
    settled() {
      isSettled = true
      found.clear()
    },
  }
}
