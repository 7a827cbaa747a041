import { readlinkSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { LayerId } from '../ports/layer-store.js'
import type { Logger } from '../ports/logger.js'
import type { Database } from './database.js'
import { failureCode } from './failure.js'
import type { LayersInMotion } from './layers.js'
import { isLayerId, type Layout, linkName } from './layout.js'
import { type Findings, hasContent, isLinked } from './look-through.js'
import { mendLink, type Presence } from './presence.js'
import type { StoreThread } from './thread.js'
import type { Trash } from './trash.js'

/** What one look through the whole store found, and put right. */
export interface UpkeepReport {
  /** Layers whose directory is missing, newly found. */
  readonly damaged: number
  /** Entries that no row knew, now in the trash. */
  readonly swept: number
  /** Short links and image files that were made again. */
  readonly mended: number
}

/**
 * Compares the whole store with its rows, once for each start and after it: nothing that is served depends on it, as
 * rows are all that is read and every layer is looked for before its first use. So a start costs the same however much
 * the store holds.
 */
export interface Upkeep {
  /** Begins without waiting any longer; what it found. Rejects when it could not be found out. */
  done(): Promise<UpkeepReport>
  /** Begins no more, and ends what is under way. */
  stop(): Promise<void>
  /** It could not be found out, other than for a stop: nobody knows what is wrong. */
  hasFailed(): boolean
}

interface UpkeepDeps {
  readonly layout: Layout
  readonly database: Database
  readonly trash: Trash
  readonly presence: Presence
  readonly inMotion: LayersInMotion & { readonly images: { has(id: string): boolean } }
  /** Writes the file of an image from its row, when there is one; true when it did. */
  readonly restoreImageFile: (id: string) => Promise<boolean>
  /** The thread ends its look early once number 0 of `stop` is set. */
  readonly openThread: (stop: Int32Array) => StoreThread
  readonly delayMs: number
  readonly log: Logger
}

export function createUpkeep(deps: UpkeepDeps): Upkeep {
  const { log } = deps
  let running: Promise<UpkeepReport> | undefined
  let hasFailed = false
  const stop = new Int32Array(new SharedArrayBuffer(4))
  const look = async (): Promise<UpkeepReport> => {
    const thread = deps.openThread(stop)
    let findings: Findings
    try {
      findings = (await thread.call('look', undefined)) as Findings
    } finally {
      await thread.close()
    }
    if (findings.database.length > 0) {
      deps.database.condemn(findings.database)
      throw new Error('the image database is damaged')
    }
    const report = await settleFindings(deps, findings, stop)
    log.info('store.looked-through', { ...report })
    return report
  }
  const run = async (): Promise<UpkeepReport> => {
    try {
      return await look()
    } catch (error) {
      if (!isBuilderError(error, 'ISB_CANCELLED')) hasFailed = true
      throw error
    }
  }
  const done = (): Promise<UpkeepReport> => {
    clearTimeout(timer)
    running ??= run()
    return running
  }
  const quietly = () =>
    done().catch((error) => log.warn('store.not-looked-through', { error: String(error) }))
  const timer = setTimeout(quietly, deps.delayMs).unref()
  return {
    done,
    async stop() {
      clearTimeout(timer)
      Atomics.store(stop, 0, 1)
      await running?.catch(() => undefined)
    },
    hasFailed: () => hasFailed,
  }
}

/** The look was taken from beside the store: only what holds now, with nothing under way, is acted on. */
async function settleFindings(deps: UpkeepDeps, findings: Findings, stop: Int32Array): Promise<UpkeepReport> {
  const { database, log, presence } = deps
  const lost = findings.lostLayers.filter((id) => isReady(database, id) && !hasContent(deps.layout, id))
  for (const id of lost) log.warn('layer.damaged', { layer: id })
  if (lost.length > 0) await database.write('markDamaged', { ids: lost })
  const mendedLinks = findings.lostLinks.filter((id) => mendsLink(deps, id)).length
  const swept = strays(deps, findings).filter((path) => deps.trash.discardNow(path)).length
  let mendedFiles = 0
  for (const id of findings.lostFiles) {
    if (Atomics.load(stop, 0) !== 0) throw new BuilderError('ISB_CANCELLED', 'the daemon stops')
    if (await deps.restoreImageFile(id)) mendedFiles++
  }
  presence.settled()
  return { damaged: lost.length, swept, mended: mendedLinks + mendedFiles }
}

function isReady({ read }: Database, id: string): boolean {
  return read.get("SELECT 1 FROM layers WHERE id = ? AND state = 'ready'", id) !== undefined
}

function isKnown({ read }: Database, id: string): boolean {
  return read.get("SELECT 1 FROM layers WHERE id = ? AND state <> 'deleting'", id) !== undefined
}

function mendsLink({ layout, database, trash }: UpkeepDeps, id: string): boolean {
  if (!isLayerId(id) || !isKnown(database, id) || isLinked(layout, id)) return false
  mendLink(layout, trash, id)
  return true
}

/** Paths of entries that nobody knows, and nobody is about to make known. */
function strays({ layout, database, inMotion }: UpkeepDeps, findings: Findings): string[] {
  // What is being removed has a row until it is gone.
  const isLayer = (id: string) => database.read.get('SELECT 1 FROM layers WHERE id = ?', id) !== undefined
  const isImage = (id: string) => database.read.get('SELECT 1 FROM images WHERE id = ?', id) !== undefined
  return [
    ...findings.strayLayers
      .filter((name) => !inMotion.layers.has(name) && !isLayer(name))
      .map((name) => join(layout.layers, name)),
    ...findings.strayLinks
      .filter((name) => {
        const id = linkedLayer(join(layout.links, name))
        if (id === undefined || linkName(id) !== name) return true
        return !inMotion.layers.has(id) && !isLayer(id)
      })
      .map((name) => join(layout.links, name)),
    ...findings.strayFiles
      .filter((name) => !inMotion.images.has(name.replace(/\.tmp$/, '')) && !isImage(name))
      .map((name) => join(layout.blobs, name)),
  ]
}

/** Of a short link that is one; undefined for anything else. */
function linkedLayer(path: string): LayerId | undefined {
  try {
    const id = basename(dirname(readlinkSync(path)))
    return isLayerId(id) ? id : undefined
  } catch (error) {
    if (['ENOENT', 'EINVAL'].includes(failureCode(error))) return undefined
    throw error
  }
}
