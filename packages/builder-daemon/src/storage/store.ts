import { closeSync, openSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import type { BuildCache } from '../ports/build-cache.js'
import type { CacheMounts } from '../ports/cache-mounts.js'
import type { Clock } from '../ports/clock.js'
import type { LayerStore } from '../ports/layer-store.js'
import type { Logger } from '../ports/logger.js'
import type { ManifestListStore } from '../ports/manifest-lists.js'
import type { TransferMemory } from '../ports/transfer-memory.js'
import {
  type BlobFileLimits,
  createBlobFiles,
  type DigestFile,
  defaultBlobFileLimits,
  type LocalBlobFiles,
} from './blob-files.js'
import { createBuildCache } from './build-cache.js'
import { createCacheIndex, type LocalCacheIndex } from './cache.js'
import { openCacheMounts } from './cache-mounts.js'
import { checkStore, type Violation } from './check.js'
import { leaveCleanMark } from './clean-mark.js'
import { type BackupOptions, type Database, defaultBackups, openDatabase } from './database.js'
import { createFlusher, type Flusher } from './flusher.js'
import { type Collection, type CollectLimits, createCollector, defaultLimits } from './gc.js'
import { createImageStore, type LocalImageStore } from './images.js'
import { createLayerStore } from './layers.js'
import { type Layout, layoutOf, prepareLayout } from './layout.js'
import { createManifestListStore } from './manifest-lists.js'
import { createPresence } from './presence.js'
import { type RecoveryReport, recover, sweepTemporaries } from './recovery.js'
import { createSuspects, type VerifyLayer } from './suspects.js'
import { openThread, type StoreThread } from './thread.js'
import { createTransferMemory } from './transfer-memory.js'
import { createTrash, type Trash } from './trash.js'
import { createUpkeep, type UpkeepReport } from './upkeep.js'

export interface StoreOptions {
  readonly dataRoot: string
  /**
   * `verified`: a layer is acknowledged before its files are flushed, and verified before its next use
   * if the machine stops in between. `strict`: it is acknowledged when everything is flushed.
   */
  readonly durability: 'verified' | 'strict'
  readonly verify: VerifyLayer
  readonly digestFile: DigestFile
  readonly log: Logger
  readonly clock: Clock
  /** Module that runs a store thread (`workers/database-worker`). */
  readonly databaseWorker: URL
  /** Look-ups in the build cache also find what other users made. */
  readonly sharedCache?: boolean
  readonly limits?: CollectLimits
  readonly blobFileLimits?: BlobFileLimits
  readonly backups?: BackupOptions
  /** How long published layers wait to be flushed together, ms. */
  readonly flushDelayMs?: number
  /** Time between two collections, ms; 0 for none. */
  readonly collectEveryMs?: number
  /** Time after which the whole store is looked through, ms. */
  readonly upkeepAfterMs?: number
}

export interface Usage {
  readonly images: number
  readonly layers: number
  /** Sum of the layer tars, as far as known, bytes. */
  readonly layerBytes: number
  /** Of these, what neither an image nor a lease uses, bytes. */
  readonly reclaimableBytes: number
  readonly cacheRecords: number
  /** Removals that have not finished. */
  readonly trash: number
  /** Of the file system, for root, bytes. */
  readonly freeBytes: number
  readonly totalBytes: number
}

export interface Store extends AsyncDisposable {
  readonly layers: LayerStore
  readonly images: LocalImageStore
  readonly cache: LocalCacheIndex
  readonly cacheMounts: CacheMounts
  readonly buildCache: BuildCache
  readonly lists: ManifestListStore
  readonly memory: TransferMemory
  readonly blobFiles: LocalBlobFiles
  /** What the start found. */
  readonly recovery: RecoveryReport
  check(): Promise<Violation[]>
  /** Removes what the limits allow; runs by itself every now and then. */
  collect(): Promise<Collection>
  usage(): Promise<Usage>
  backup(): Promise<number>
  /** Looks the whole store through, if that was not done yet (see upkeep.ts). */
  upkeep(): Promise<UpkeepReport>
  /** Waits for upkeep, and for flushes and removals that are under way. */
  settle(): Promise<void>
  /** Flushes and closes the database. */
  close(): Promise<void>
}

/**
 * Opens the store of a daemon, whose locks (lock.ts) are held until it is closed: puts right what the last daemon left,
 * and starts its threads. Fails with ISB_CONFIG_INVALID when overlayfs could not work on the data root, ISB_UNSUPPORTED
 * when a newer daemon wrote it.
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  const layout = layoutOf(options.dataRoot)
  const began = performance.now()
  prepareLayout(layout)
  sweepTemporaries(layout)
  const recovery = recover(layout, options.log, () => Math.round(performance.now() - began))
  options.log.info('store.recovered', { ...recovery })
  return await startStore(layout, options, recovery)
}

function createStoreFlusher(thread: StoreThread, database: Database, options: StoreOptions): Flusher {
  const { log } = options
  return createFlusher({
    thread,
    delayMs: options.flushDelayMs ?? 1000,
    onFlushed: (ids) =>
      database
        .write('markSynced', { ids })
        .catch((error) => log.warn('store.not-marked', { layers: ids, error: String(error) })),
    onLost: async (ids, cause) => {
      log.error('store.flush-failed', { layers: ids, error: String(cause) })
      if (ids.length === 0) return
      // Unmarked, they are still verified after the next start.
      await database
        .write('markDamaged', { ids })
        .catch((error) => log.error('store.not-marked', { layers: ids, error: String(error) }))
    },
  })
}

async function startStore(layout: Layout, options: StoreOptions, recovery: RecoveryReport): Promise<Store> {
  const { log, clock, databaseWorker: entry } = options
  const notice = (error: Error) => log.warn('store.thread', { error: error.message })
  // Open before the first write, to hear of every write error.
  const flushed = openSync(layout.dataRoot, 'r')
  const flushThread = openThread(entry, { role: 'flush', fd: flushed }, notice)
  const stop = new Int32Array(new SharedArrayBuffer(4))
  const removeThread = openThread(entry, { role: 'remove', trash: layout.trash, stop }, notice)
  const backups = options.backups ?? defaultBackups
  const database = await openDatabase(layout, { entry, backups, log })

  const flusher = createStoreFlusher(flushThread, database, options)
  const trash = createTrash({ layout, thread: removeThread, stop, database, log })
  const presence = createPresence(layout, trash)
  const trusted = createSuspects({ layout, database, flusher, presence, verify: options.verify, log })
  const { durability } = options
  const layers = createLayerStore({ layout, database, flusher, trash, durability, clock, log, trusted })
  const images = createImageStore({ layout, database, trash, clock, log })
  const cache = createCacheIndex({ database, clock, log, shared: options.sharedCache ?? false })
  const cacheMounts = await openCacheMounts(layout.dataRoot, trash.discard, (uid, mounts) => {
    database
      .write('useCacheMounts', { uid, mounts, now: clock.now() })
      .catch((error) => log.warn('cache.use-not-recorded', { error: String(error) }))
  })
  const lists = createManifestListStore({ database, log })
  const memory = createTransferMemory({ database, clock, log })
  const blobFiles = createBlobFiles({
    ...{ layout, trash, clock, log, digestFile: options.digestFile },
    limits: options.blobFileLimits ?? defaultBlobFileLimits,
  })
  const buildCache = createBuildCache({
    ...{ layout, database, trash, blobFiles, clock },
    thread: removeThread,
    mounts: cacheMounts,
  })
  const limits = options.limits ?? defaultLimits
  const collector = createCollector({ database, trash, clock, log, limits })
  const inMotion = { ...layers.inMotion, images: images.inMotion }
  const upkeep = createUpkeep({
    ...{ layout, database, trash, presence, inMotion, log },
    restoreImageFile: images.restoreFile,
    openThread: (stop) => openThread(entry, { role: 'look', dataRoot: layout.dataRoot, stop }, notice),
    delayMs: options.upkeepAfterMs ?? 1000,
  })

  trash.sweep()
  const sweepDownloads = () =>
    blobFiles.sweep().catch((error) => log.warn('downloads.not-swept', { error: String(error) }))
  let sweeping = sweepDownloads()
  const collectQuietly = () => {
    sweeping = sweepDownloads()
    return collector.collect().catch((error) => log.warn('store.not-collected', { error: String(error) }))
  }
  const everyMs = options.collectEveryMs ?? 600_000
  const timer = everyMs > 0 ? setInterval(collectQuietly, everyMs).unref() : undefined

  const settle = async () => {
    await upkeep.done()
    await flusher.idle()
    await sweeping
    await blobFiles.idle()
    await trash.idle()
  }

  let closing: Promise<void> | undefined
  const close = async () => {
    clearInterval(timer)
    await upkeep.stop()
    await flusher.idle()
    await sweeping
    await blobFiles.idle()
    const ended = await Promise.allSettled([trash.stop(), database.close(), flushThread.close()])
    closeSync(flushed)
    const failed = ended.find((end) => end.status === 'rejected')
    if (failed === undefined && !upkeep.hasFailed() && database.isSound()) markClean(layout, log)
    if (failed !== undefined) throw failed.reason
  }
  const closeOnce = () => {
    closing ??= close()
    return closing
  }

  return {
    layers,
    images,
    lists,
    cache,
    cacheMounts,
    buildCache,
    memory,
    blobFiles,
    recovery,
    check: () => checkStore({ layout, database, inMotion }),
    collect: collector.collect,
    usage: () => usage(layout, database, trash),
    backup: database.backup,
    upkeep: upkeep.done,
    settle,
    close: closeOnce,
    [Symbol.asyncDispose]: closeOnce,
  }
}

/** Without the mark, as on a full disk, the next start checks the database. */
function markClean(layout: Layout, log: Logger): void {
  try {
    leaveCleanMark(layout)
  } catch (error) {
    log.warn('store.not-marked-clean', { error: String(error) })
  }
}

async function usage(layout: Layout, database: Database, trash: Trash): Promise<Usage> {
  const count = (table: 'images' | 'cache_records') =>
    database.read.get<{ n: number }>(`SELECT count(*) AS n FROM ${table}`)?.n ?? 0
  const sums = database.read.get<{ n: number; bytes: number; unused: number }>(
    `SELECT count(*) AS n, coalesce(sum(tar_size), 0) AS bytes,
       coalesce(sum(tar_size) FILTER (
         WHERE NOT EXISTS (SELECT 1 FROM image_layers WHERE layer_id = id)
           AND NOT EXISTS (SELECT 1 FROM lease_layers WHERE layer_id = id)), 0) AS unused
     FROM layers WHERE state <> 'deleting'`,
  )
  const disk = await statfs(layout.dataRoot)
  return {
    images: count('images'),
    layers: sums?.n ?? 0,
    layerBytes: sums?.bytes ?? 0,
    reclaimableBytes: sums?.unused ?? 0,
    cacheRecords: count('cache_records'),
    trash: trash.pending(),
    freeBytes: disk.bfree * disk.bsize,
    totalBytes: disk.blocks * disk.bsize,
  }
}
