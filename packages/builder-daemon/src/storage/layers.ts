import { randomBytes } from 'node:crypto'
import { chmod, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import type { Clock } from '../ports/clock.js'
import type { LayerId, LayerRecord, LayerStore, Lease, StagingLayer } from '../ports/layer-store.js'
import type { Logger } from '../ports/logger.js'
import type { Database } from './database.js'
import { attempt } from './failure.js'
import type { Flusher } from './flusher.js'
import { flushFile, metaName, writeMeta } from './layer-meta.js'
import { layerMeta, layerRecord } from './layer-record.js'
import { type Layout, layerDirectory, linkName } from './layout.js'
import { createPublisher } from './publish.js'
import type { Trash } from './trash.js'
import { heldLayers, type LayerRow, layerContents, layerRow, layersByDiffId } from './writes/layers.js'

export interface LayerStoreDeps {
  readonly layout: Layout
  readonly database: Database
  readonly flusher: Flusher
  readonly trash: Trash
  readonly durability: 'verified' | 'strict'
  readonly clock: Clock
  readonly log: Logger
  /** True when the layer may be used; see suspects.ts. */
  readonly trusted: (row: LayerRow) => Promise<boolean>
}

/** What a look at the disk must not take for garbage, because its row is not committed yet; both change. */
export interface LayersInMotion {
  readonly layers: ReadonlySet<string>
  readonly staging: { has(id: string): boolean }
}

interface Staged {
  /** Failed flushes when it was made. */
  readonly lossesBefore: number
  givenUp: boolean
}

/** The upper's mode is the mode of `/` in the container, whatever the umask. */
async function makeUpper(path: string): Promise<void> {
  await mkdir(path)
  await chmod(path, 0o755)
}

function failures(results: readonly PromiseSettledResult<unknown>[]): readonly PromiseRejectedResult[] {
  return results.filter((result) => result.status === 'rejected')
}

function randomId(): string {
  return randomBytes(16).toString('hex')
}

export function createLayerStore(deps: LayerStoreDeps): LayerStore & { readonly inMotion: LayersInMotion } {
  const { layout, database, trash, trusted } = deps
  const publisher = createPublisher(deps)
  /** Until nothing of them is left in `staging/`. */
  const staged = new Map<string, Staged>()

  const acquireLease = async (owner: { uid: number; purpose: string }): Promise<Lease> => {
    const id = randomId()
    await database.write('acquireLease', { id, ...owner, now: deps.clock.now() })
    return { id }
  }

  const releaseLease = async (lease: Lease): Promise<void> => {
    const left = await database.write('releaseLease', { id: lease.id })
    for (const id of left) {
      const entry = staged.get(id)
      if (entry !== undefined) entry.givenUp = true
      // One that is being published is thrown away by its publisher.
      if (!publisher.busy(id)) await discardStaging(id)
    }
  }

  const discardStaging = async (id: string): Promise<void> => {
    await attempt('removing a staging directory', () => trash.discard(join(layout.staging, id)))
    staged.delete(id)
  }

  const stage = async (lease: Lease): Promise<StagingLayer> => {
    const id = randomId()
    const root = join(layout.staging, id)
    const staging = { id, root, upper: join(root, 'upper'), work: join(root, 'work') }
    staged.set(id, { lossesBefore: deps.flusher.losses(), givenUp: false })
    try {
      const recorded = database.write('addOp', { id, leaseId: lease.id })
      const made = attempt('creating a staging directory', async () => {
        await mkdir(root, { mode: 0o700 })
        await Promise.all([makeUpper(staging.upper), mkdir(staging.work, { mode: 0o700 })])
      })
      // Neither may still be under way when it is given up; the next start sweeps what has no row.
      for (const { reason } of failures(await Promise.allSettled([recorded, made]))) throw reason
    } catch (error) {
      await abandon(staging)
      throw error
    }
    return staging
  }

  const abandon = async (staging: StagingLayer): Promise<void> => {
    const entry = staged.get(staging.id)
    if (entry === undefined || entry.givenUp) return
    entry.givenUp = true
    await discardStaging(staging.id)
    await database.write('dropOp', { id: staging.id })
  }

  const publish: LayerStore['publish'] = async (staging, sealed, lease) => {
    const entry = staged.get(staging.id)
    if (entry === undefined || entry.givenUp) {
      throw new BuilderError('ISB_CANCELLED', 'the staged layer was already given up')
    }
    try {
      const record = await publisher.publish(staging, sealed, { lease, lossesBefore: entry.lossesBefore })
      staged.delete(staging.id)
      return record
    } catch (error) {
      if (entry.givenUp) staged.delete(staging.id)
      throw error
    }
  }

  const hold = async (ids: readonly LayerId[], lease: Lease): Promise<readonly LayerRecord[]> => {
    if (ids.length === 0) return []
    const rows =
      heldLayers(database.read, ids, lease.id) ??
      (await database.write('holdLayers', { ids, leaseId: lease.id }))
    for (const row of rows) {
      if (await trusted(row)) continue
      throw new BuilderError('ISB_IMAGE_DAMAGED', `layer ${row.diff_id ?? row.id} is damaged`)
    }
    return rows.map(layerRecord)
  }

  const holdReady: LayerStore['holdReady'] = async (ids, lease) => {
    if (ids.length > 0) await database.write('holdReadyLayers', { ids, leaseId: lease.id })
  }

  const findByDiffId = async (
    diffId: DiffId,
    parentKey: string,
    lease: Lease,
    caller: 'names' | 'has',
  ): Promise<LayerRecord | undefined> => {
    const wanted = { diffId, parentKey, leaseId: lease.id, isTheirs: caller === 'has' }
    // Most often there is none, and that needs no write.
    if (layersByDiffId(database.read, wanted).length === 0) return undefined
    const rows = await database.write('findByDiffId', wanted)
    for (const row of rows) {
      if (await trusted(row)) return layerRecord(row)
    }
    return undefined
  }

  const reportDamage = async (id: LayerId): Promise<void> => {
    deps.log.error('layer.damaged', { layer: id, diffId: layerRow(database.read, id)?.diff_id })
    await database.write('markDamaged', { ids: [id] })
  }

  const recording = new Map<LayerId, Promise<void>>()
  const setDiffId: LayerStore['setDiffId'] = async (id, diffId, tarSize, contentId) => {
    const now = deps.clock.now()
    const params = { id, diffId, tarSize, contentId: contentId ?? null, now }
    await trash.retire(await database.write('setDiffId', params))
    const row = layerRow(database.read, id)
    if (row === undefined) return
    const directory = layerDirectory(layout, id)
    await attempt('recording a diff ID', () =>
      inTurn(id, async () => {
        await writeMeta(directory, layerMeta(row, deps.clock.now()))
        if (deps.durability === 'strict') await flushFile(join(directory, metaName))
        else deps.flusher.later(id)
      }),
    )
  }

  /** Work on the directory of a layer, one after the other; several builds may hash it at the same time. */
  async function inTurn(id: LayerId, work: () => Promise<void>): Promise<void> {
    const before = recording.get(id)
    const own = before === undefined ? work() : before.then(work, work)
    recording.set(id, own)
    try {
      await own
    } finally {
      if (recording.get(id) === own) recording.delete(id)
    }
  }

  const contentIds: LayerStore['contentIds'] = async (ids) => layerContents(database.read, ids)

  return {
    acquireLease,
    releaseLease,
    stage,
    publish,
    abandon,
    findByDiffId,
    setDiffId,
    contentIds,
    hold,
    holdReady,
    reportDamage,
    directory: (id) => layerDirectory(layout, id),
    shortLink: (id) => `l/${linkName(id)}`,
    inMotion: { layers: publisher.inMotion, staging: staged },
  }
}
