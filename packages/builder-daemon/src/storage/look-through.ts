import { lstatSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import BetterSqlite from 'better-sqlite3'
import { giveWay } from '../system/priority.js'
import type { ThreadRole } from './database-worker.js'
import { failureCode } from './failure.js'
import { isLayerId, isRealDirectory, type Layout, layoutOf, linkName, linkTarget, namesIn } from './layout.js'
import { configureConnection } from './schema.js'
import { encodeFailure } from './thread-messages.js'
import { quickCheck } from './writer.js'

/**
 * Where files and rows disagree. The store is in use meanwhile, so each of these is a question, which the thread that
 * changes the store answers when it knows nothing of it either.
 */
export interface Findings {
  /** What is wrong with the database file itself. */
  readonly database: readonly string[]
  /** Names in `layers/`, `l/` and `blobs/` that no row knows. */
  readonly strayLayers: readonly string[]
  readonly strayLinks: readonly string[]
  readonly strayFiles: readonly string[]
  /** Ready layers without their directory, and ones without their short link. */
  readonly lostLayers: readonly string[]
  readonly lostLinks: readonly string[]
  /** Images without their file. */
  readonly lostFiles: readonly string[]
}

export function isLinked(layout: Layout, id: string): boolean {
  if (!isLayerId(id)) return false
  try {
    return readlinkSync(join(layout.links, linkName(id))) === linkTarget(id)
  } catch (error) {
    if (['ENOENT', 'EINVAL'].includes(failureCode(error))) return false
    throw error
  }
}

export function hasContent(layout: Layout, id: string): boolean {
  return isRealDirectory(join(layout.layers, id)) && isRealDirectory(join(layout.layers, id, 'diff'))
}

/** A file cut to nothing by a power cut counts as lost. */
export function hasImageFile(layout: Layout, id: string): boolean {
  const stat = lstatSync(join(layout.blobs, id), { throwIfNoEntry: false })
  return stat?.isFile() === true && stat.size > 0
}

const none: Findings = {
  database: [],
  strayLayers: [],
  strayLinks: [],
  strayFiles: [],
  lostLayers: [],
  lostLinks: [],
  lostFiles: [],
}

/**
 * Compares all files of the store with all rows; changes nothing. Fails with ISB_CANCELLED once number 0 of `stop` is
 * set.
 */
export function lookThrough(layout: Layout, stop: Int32Array): Findings {
  const goOn = (): true => {
    if (Atomics.load(stop, 0) !== 0) throw new BuilderError('ISB_CANCELLED', 'the daemon stops')
    return true
  }
  goOn()
  // Before the rows, so that a row is never missing only because it is younger than the look.
  const layers = namesIn(layout.layers)
  const links = namesIn(layout.links)
  const files = namesIn(layout.blobs)
  const db = new BetterSqlite(layout.database, { readonly: true, fileMustExist: true })
  try {
    configureConnection(db)
    goOn()
    const database = quickCheck(db, goOn)
    if (database.length > 0) return { ...none, database }
    const ids = (sql: string): string[] => db.prepare<[], string>(sql).pluck().all()
    const known = new Set(ids("SELECT id FROM layers WHERE state <> 'deleting'"))
    const linked = new Set([...known].filter(isLayerId).map(linkName))
    const images = new Set(ids('SELECT id FROM images'))
    const ready = ids("SELECT id FROM layers WHERE state = 'ready'")
    return {
      database,
      strayLayers: layers.filter((name) => !known.has(name)),
      strayLinks: links.filter((name) => !linked.has(name)),
      strayFiles: files.filter((name) => !images.has(name)),
      lostLayers: ready.filter((id) => goOn() && !hasContent(layout, id)),
      lostLinks: [...known].filter((id) => goOn() && !isLinked(layout, id)),
      lostFiles: [...images].filter((id) => goOn() && !hasImageFile(layout, id)),
    }
  } finally {
    db.close()
  }
}

/** Nice value: everything else goes first. */
const priority = 15

/** Answers every request with the findings of one look. */
export function createLookThread(dataRoot: string, stop: Int32Array): ThreadRole {
  giveWay(priority)
  const layout = layoutOf(dataRoot)
  return {
    serve(requests, reply) {
      for (const { id } of requests) {
        try {
          reply({ id, ok: true, result: lookThrough(layout, stop) })
        } catch (error) {
          reply({ id, ok: false, failure: encodeFailure(error) })
        }
      }
    },
    close() {},
  }
}
