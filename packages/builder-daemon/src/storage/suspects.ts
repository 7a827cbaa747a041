import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import type { LayerId } from '../ports/layer-store.js'
import type { Logger } from '../ports/logger.js'
import type { Database } from './database.js'
import { failureCode } from './failure.js'
import type { Flusher } from './flusher.js'
import { readMeta, writeMeta } from './layer-meta.js'
import { layerMeta } from './layer-record.js'
import { type Layout, layerDirectory } from './layout.js'
import type { Presence } from './presence.js'
import type { LayerRow } from './writes/layers.js'

/**
 * Recomputes the diff ID of a layer directory (`diff/`, with kept headers `headers.gz`) and compares.
 * False when the content is not what it should be; a rejection means that it could not be found out.
 */
export type VerifyLayer = (
  layerDirectory: string,
  keepsHeaders: boolean,
  expectedDiffId: DiffId,
) => Promise<boolean>

const damageCodes = [
  'ISB_DIGEST_MISMATCH',
  'ISB_ARCHIVE_INVALID',
  'ISB_IMAGE_DAMAGED',
  'ISB_PATH_NOT_FOUND',
] as const

function tellsDamage(error: unknown): boolean {
  return failureCode(error) === 'ENOENT' || damageCodes.some((code) => isBuilderError(error, code))
}

/**
 * Clears layers of earlier daemons, each before its first use: those left unflushed are verified, the others have to
 * be there. The caller holds the layer. False when it is damaged, and is now marked so.
 */
export function createSuspects(deps: {
  readonly layout: Layout
  readonly database: Database
  readonly flusher: Flusher
  readonly presence: Presence
  readonly verify: VerifyLayer
  readonly log: Logger
}): (row: LayerRow) => Promise<boolean> {
  const { layout, database, flusher, presence, verify, log } = deps
  const underWay = new Map<string, Promise<boolean>>()

  const isIntact = async (row: LayerRow): Promise<boolean> => {
    if (!presence.isThere(row.id as LayerId)) return false
    if (row.suspect === 0) return true
    // Without a diff ID nothing says what the layer should hold.
    if (row.diff_id === null) return false
    try {
      return await verify(
        layerDirectory(layout, row.id as LayerId),
        row.keeps_headers === 1,
        row.diff_id as DiffId,
      )
    } catch (error) {
      if (tellsDamage(error)) return false
      throw error
    }
  }

  const restoreMeta = async (row: LayerRow): Promise<void> => {
    const directory = layerDirectory(layout, row.id as LayerId)
    if ((await readMeta(directory)) !== undefined) return
    const known = database.read.get<{ at: number }>(
      'SELECT published_at AS at FROM layers WHERE id = ?',
      row.id,
    )
    if (known !== undefined) await writeMeta(directory, layerMeta(row, known.at))
  }

  const settle = async (row: LayerRow): Promise<boolean> => {
    const intact = await isIntact(row)
    if (intact && row.suspect === 0) return true
    if (intact) {
      // Right as read, which may be from memory: only a flush makes it durable.
      await database.write('markVerified', { id: row.id })
      await restoreMeta(row)
      flusher.later(row.id)
    } else {
      log.warn('layer.damaged', { layer: row.id, diffId: row.diff_id })
      await database.write('markDamaged', { ids: [row.id] })
    }
    return intact
  }

  return (row) => {
    if (row.suspect === 0 && presence.isThere(row.id as LayerId)) return Promise.resolve(true)
    const known = underWay.get(row.id)
    if (known !== undefined) return known
    const settling = settle(row).finally(() => underWay.delete(row.id))
    underWay.set(row.id, settling)
    return settling
  }
}
