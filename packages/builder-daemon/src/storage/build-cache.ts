import { statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { BuildCache, CacheEntry, Remover } from '../ports/build-cache.js'
import type { Clock } from '../ports/clock.js'
import type { LayerId } from '../ports/layer-store.js'
import type { LocalBlobFiles } from './blob-files.js'
import type { LocalCacheMounts } from './cache-mounts.js'
import type { Database } from './database.js'
import { type Layout, layerDirectory } from './layout.js'
import type { StoreThread } from './thread.js'
import type { Trash } from './trash.js'
import { countForgettable, type UnusedLayerRow, unusedLayers } from './writes/build-cache.js'

/** Layers that one look at the database takes. */
const pieceSize = 500

export function createBuildCache(deps: {
  readonly layout: Layout
  readonly database: Database
  /** Measures trees, away from the main thread. */
  readonly thread: StoreThread
  readonly trash: Trash
  readonly mounts: LocalCacheMounts
  readonly blobFiles: LocalBlobFiles
  readonly clock: Clock
}): BuildCache {
  const { layout, database, trash, mounts, clock } = deps

  const measured = async (path: string): Promise<number> => Number(await deps.thread.call('measure', path))

  const layerRows = (): Promise<UnusedLayerRow[]> => {
    const rows: UnusedLayerRow[] = []
    return database.walk((statements) => {
      const piece = unusedLayers(statements, rows.at(-1)?.id ?? '', pieceSize)
      rows.push(...piece)
      return piece.length < pieceSize ? rows : undefined
    })
  }

  const layerEntries = async (): Promise<readonly CacheEntry[]> => {
    const rows = await layerRows()
    const found = new Map<string, number>()
    for (const { id, disk_bytes } of rows) {
      // Layers do not change, so one look is enough for each.
      if (disk_bytes === null) found.set(id, await measured(layerDirectory(layout, id as LayerId)))
    }
    if (found.size > 0) {
      await database.write('setDiskUse', { layers: [...found].map(([id, bytes]) => ({ id, bytes })) })
    }
    return rows.map(
      (row): CacheEntry => ({
        ...{ kind: 'layer', key: row.id, name: row.id, usedAt: row.used_at },
        owners: JSON.parse(row.owners) as number[],
        bytes: row.disk_bytes ?? found.get(row.id) ?? 0,
      }),
    )
  }

  const mountEntries = async (): Promise<readonly CacheEntry[]> => {
    const rows = await database.write('listCacheMounts', undefined)
    const known = new Map(rows.map((row) => [keyOf(row), row]))
    const entries: CacheEntry[] = []
    for (const unused of await mounts.unused()) {
      const { uid, name } = unused
      const key = keyOf(unused)
      const row = known.get(key)
      const usedAt = row?.used_at ?? unused.changedAt
      let bytes = row?.bytes ?? 0
      if (row?.measured !== 1) {
        const at = clock.now()
        bytes = await measured(join(mounts.root, key))
        await database.write('measureCacheMount', { uid, name, usedAt, bytes, at })
      }
      entries.push({ kind: 'mount', key, name: row?.id ?? name, owners: [uid], bytes, usedAt })
    }
    return entries
  }

  const removeLayers = async (ids: readonly string[], by: Remover): Promise<readonly string[]> => {
    if (ids.length === 0) return []
    const gone = await database.write('evictLayers', { ids, uid: uidOf(by), now: clock.now() })
    await trash.retire(gone)
    return gone
  }

  const removeMounts = async (keys: readonly string[], by: Remover): Promise<readonly string[]> => {
    const gone: string[] = []
    for (const key of keys) {
      const { uid } = placeOf(key)
      if (by.kind === 'user' && by.uid !== uid) continue
      if (await mounts.remove(key)) gone.push(key)
    }
    if (gone.length > 0) await database.write('forgetCacheMounts', { mounts: gone.map(placeOf) })
    return gone
  }

  return {
    async entries() {
      return [...(await layerEntries()), ...(await mountEntries())]
    },

    async remove(entries, by) {
      const keys = (wanted: CacheEntry['kind']): readonly string[] =>
        entries.filter(({ kind }) => kind === wanted).map(({ key }) => key)
      const gone = {
        layer: new Set(await removeLayers(keys('layer'), by)),
        mount: new Set(await removeMounts(keys('mount'), by)),
      }
      return entries.filter(({ kind, key }) => gone[kind].has(key))
    },

    async forget(by, usedBefore, dryRun) {
      const params = { uid: uidOf(by), usedBefore }
      if (dryRun) return countForgettable(database.read, params)
      return await database.write('forgetRecords', { ...params, now: clock.now() })
    },

    downloads: (dryRun) => (dryRun ? deps.blobFiles.unusedBytes() : deps.blobFiles.sweep(true)),

    async disk() {
      await trash.idle()
      const disk = await statfs(layout.dataRoot)
      return { freeBytes: disk.bfree * disk.bsize, totalBytes: disk.blocks * disk.bsize }
    },
  }
}

function uidOf(by: Remover): number | null {
  return by.kind === 'user' ? by.uid : null
}

interface MountPlace {
  readonly uid: number
  readonly name: string
}

/** Also its path below the directory of all cache mounts. */
function keyOf({ uid, name }: MountPlace): string {
  return `${uid}/${name}`
}

function placeOf(key: string): MountPlace {
  const [uid = '', name = ''] = key.split('/')
  return { uid: Number(uid), name }
}
