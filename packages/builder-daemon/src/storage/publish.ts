import { randomBytes } from 'node:crypto'
import { open, readdir, readlink, rename, rm, rmdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { LayerId, LayerRecord, Lease, SealedLayer, StagingLayer } from '../ports/layer-store.js'
import { attempt, failureCode } from './failure.js'
import { flushFile, metaName, writeMeta } from './layer-meta.js'
import type { LayerStoreDeps } from './layers.js'
import { layerDirectory, linkName, linkTarget } from './layout.js'
import { layerRow } from './writes/layers.js'

export interface Publisher {
  publish(
    staging: StagingLayer,
    sealed: SealedLayer,
    options: { readonly lease: Lease; readonly lossesBefore: number },
  ): Promise<LayerRecord>
  busy(stagingId: string): boolean
  /** Directories in `layers/` whose row is not committed yet. */
  readonly inMotion: ReadonlySet<string>
}

async function flushDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r')
  await directory.sync()
}

/** What a COPY remembers beside its layer saves time when it is there, and tells itself when it is torn. */
const unflushed: ReadonlySet<string> = new Set(['sources', 'marks'])

/**
 * Turns staging directories into layers. The order makes every crash harmless: until the row is
 * committed the directory is garbage that recovery sweeps, and the row is committed only when the
 * directory is in place.
 */
export function createPublisher(deps: LayerStoreDeps): Publisher {
  const { layout, database, flusher, trash } = deps
  const strict = deps.durability === 'strict'
  const busy = new Set<string>()
  const inMotion = new Set<string>()

  /** Leaves `diff`, the files beside it, and their record. */
  const arrange = async (
    staging: StagingLayer,
    sealed: SealedLayer,
    family: string | null,
  ): Promise<void> => {
    await rename(staging.upper, join(staging.root, 'diff'))
    for (const entry of await readdir(staging.root, { withFileTypes: true })) {
      const path = join(staging.root, entry.name)
      if (entry.name === 'diff') {
        if (!entry.isDirectory()) throw new Error(`${staging.upper} is not a directory`)
        continue
      }
      if (unflushed.has(entry.name)) continue
      if (!entry.isFile()) await removeOrDiscard(path)
      // Else all of it is flushed before it is recorded.
      else if (!strict) await flushFile(path)
    }
    await writeMeta(staging.root, { ...sealed, family, publishedAt: deps.clock.now() })
  }

  /** Most often it is a work directory with nothing in it. */
  const removeOrDiscard = async (path: string): Promise<void> => {
    try {
      await rmdir(path)
    } catch (error) {
      if (!['ENOTEMPTY', 'EEXIST', 'ENOTDIR'].includes(failureCode(error))) throw error
      await trash.discard(path)
    }
  }

  /** Gives the layer its short link, under an ID whose link is still free. */
  const link = async (preferred: LayerId): Promise<LayerId> => {
    for (let id = preferred; ; id = randomBytes(16).toString('hex') as LayerId) {
      const path = join(layout.links, linkName(id))
      inMotion.add(id)
      try {
        await symlink(linkTarget(id), path)
        return id
      } catch (error) {
        if (failureCode(error) === 'EEXIST' && (await readlink(path)) === linkTarget(id)) return id
        inMotion.delete(id)
        if (failureCode(error) !== 'EEXIST') throw error
      }
    }
  }

  /** Makes the staging directory what it was before, so that the caller may give it up or try again. */
  const takeBack = async (id: LayerId, staging: StagingLayer): Promise<void> => {
    await rm(join(layout.links, linkName(id)), { force: true })
    await rename(layerDirectory(layout, id), staging.root).catch(ignoreMissing)
    await rename(join(staging.root, 'diff'), staging.upper).catch(ignoreMissing)
    await rm(join(staging.root, metaName), { force: true })
    const op = database.read.get('SELECT 1 FROM ops WHERE id = ?', staging.id)
    if (op === undefined) await trash.discard(staging.root)
  }

  const move = async (
    staging: StagingLayer,
    sealed: SealedLayer,
    { id, family }: { readonly id: LayerId; readonly family: string | null },
  ): Promise<void> => {
    await arrange(staging, sealed, family)
    if (strict) await flusher.flush()
    await rename(staging.root, layerDirectory(layout, id))
    if (strict) await Promise.all([flushDirectory(layout.layers), flushDirectory(layout.staging)])
  }

  const publish: Publisher['publish'] = async (staging, sealed, { lease, lossesBefore }) => {
    busy.add(staging.id)
    let id = staging.id as LayerId
    const { sharesWith } = sealed
    const family =
      sharesWith === undefined ? null : (layerRow(database.read, sharesWith)?.family ?? sharesWith)
    try {
      id = await attempt('publishing a layer', () => link(id))
      await attempt('publishing a layer', () => move(staging, sealed, { id, family }))
      if (flusher.losses() !== lossesBefore) {
        throw new Error('publishing a layer: the disk failed while its files were written')
      }
      const replaced = await database.write('publishLayer', {
        ...sealed,
        id,
        contentId: sealed.contentId ?? null,
        sharesWith: sharesWith ?? null,
        family,
        op: staging.id,
        leaseId: lease.id,
        synced: strict,
        now: deps.clock.now(),
      })
      if (!strict) flusher.later(id)
      await trash.retire(replaced)
      return { id, ...sealed }
    } catch (error) {
      if (database.read.get('SELECT 1 FROM layers WHERE id = ?', id) === undefined)
        await takeBack(id, staging)
      throw error
    } finally {
      inMotion.delete(id)
      busy.delete(staging.id)
    }
  }

  return { publish, busy: (id) => busy.has(id), inMotion }
}

function ignoreMissing(error: unknown): void {
  if (failureCode(error) !== 'ENOENT') throw error
}
