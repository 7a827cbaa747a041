import { createHash } from 'node:crypto'
import type { CacheIndex, CacheOrigin, StoredRecord } from '../ports/cache-index.js'
import type { Clock } from '../ports/clock.js'
import type { LayerId } from '../ports/layer-store.js'
import type { Logger } from '../ports/logger.js'
import type { Database } from './database.js'

export interface LocalCacheIndex extends CacheIndex {
  /** Forgets the records of one user, or of all; gives how many there were. */
  drop(uid?: number): Promise<number>
}

/** How old a time of use may get before a hit renews it; keeps hits free of writes. */
const renewAfterMs = 3_600_000

/** Records one look-up gives: an older one than that many others of its shape is as good as lost. */
const lookupLimit = 200

interface RecordRow {
  readonly record: number
  readonly uid: number
  readonly origin: string
  readonly content_key: string
  readonly state: string | null
  readonly inputs_key: string | null
  readonly tainted: number
  readonly has_layer: number
  readonly layer_id: string | null
  readonly layer_state: string | null
  readonly used_at: number
  readonly evicted_at: number | null
}

/** `shared`: look-ups find what other users made, too. */
export function createCacheIndex(deps: {
  readonly database: Database
  readonly clock: Clock
  readonly log: Logger
  readonly shared: boolean
}): LocalCacheIndex {
  const { database, clock, log } = deps

  const renew = (rows: readonly RecordRow[]): void => {
    const now = clock.now()
    const records = rows.filter((row) => now - row.used_at > renewAfterMs).map((row) => row.record)
    if (records.length === 0) return
    database.write('touchCacheRecords', { records, now }).catch((error) => {
      log.warn('cache.not-renewed', { error: String(error) })
    })
  }

  return {
    async lookup(uid, shape, parent) {
      const rows = database.read.all<RecordRow>(
        `SELECT record, uid, origin, content_key, cache_records.state AS state, inputs_key, tainted, has_layer,
           layer_id, layers.state AS layer_state, used_at, evicted_at
         FROM cache_records LEFT JOIN layers ON id = layer_id
         WHERE shape = ? AND (uid = ? OR (? AND tainted = 0))
         ORDER BY parent = ? DESC, stored_at DESC, record DESC LIMIT ?`,
        ...[shape, uid, deps.shared ? 1 : 0, stackDigest([parent]), lookupLimit],
      )
      renew(rows.filter((row) => row.uid === uid && isUsable(row)))
      return rows.map((row) => storedRecord(row, uid, shape))
    },

    async store(uid, record) {
      const { shape, origin, contentKey, layer, tainted } = record
      const stored = await database.write('storeCacheRecord', {
        ...{ uid, shape, contentKey, tainted, layerId: layer, now: clock.now() },
        parent: stackDigest([origin.parent]),
        inputs: stackDigest(origin.inputs),
        origin: JSON.stringify([origin.parent, ...origin.inputs]),
        state: record.state ?? null,
        inputsKey: record.inputsKey ?? null,
      })
      if (stored === null) log.debug('cache.not-stored', { layer })
      return stored ?? undefined
    },

    async learn(facts) {
      if (facts.length === 0) return
      await database.write('learnCacheFacts', {
        facts: facts.map(({ id, state, inputsKey }) => ({
          id,
          state: state ?? null,
          inputsKey: inputsKey ?? null,
        })),
      })
    },

    async evictions(ids) {
      const found = new Map<number, number>()
      for (const id of ids) {
        const row = database.read.get<{ evicted_at: number | null }>(
          'SELECT evicted_at FROM cache_records WHERE record = ?',
          id,
        )
        if (row !== undefined && row.evicted_at !== null) found.set(id, row.evicted_at)
      }
      return found
    },

    async layersOf(uid, ids) {
      return ids.flatMap((id) => {
        const row = database.read.get<{ layer_id: LayerId }>(
          'SELECT layer_id FROM cache_records WHERE record = ? AND uid = ? AND layer_id IS NOT NULL',
          ...[id, uid],
        )
        return row === undefined ? [] : [row.layer_id]
      })
    },

    async recall(uid, project) {
      return database.read.get<{ document: string }>(
        'SELECT document FROM cache_projects WHERE uid = ? AND project = ?',
        ...[uid, project],
      )?.document
    },

    async remember(uid, project, document) {
      const now = clock.now()
      const known = database.read.get<{ document: string; used_at: number }>(
        'SELECT document, used_at FROM cache_projects WHERE uid = ? AND project = ?',
        ...[uid, project],
      )
      if (known?.document === document && now - known.used_at < renewAfterMs) return
      await database.write('rememberProject', { uid, project, document, now })
    },

    drop: (uid) => database.write('dropCacheRecords', { uid: uid ?? null }),
  }
}

function isUsable(row: RecordRow): boolean {
  return row.has_layer === 0 || (row.layer_id !== null && row.layer_state === 'ready')
}

function storedRecord(row: RecordRow, uid: number, shape: string): StoredRecord {
  const [parent = [], ...inputs] = JSON.parse(row.origin) as readonly (readonly LayerId[])[]
  const origin: CacheOrigin = { parent, inputs }
  return {
    ...{ id: row.record, shape, origin, contentKey: row.content_key },
    state: row.state ?? undefined,
    inputsKey: row.inputs_key ?? undefined,
    tainted: row.tainted === 1,
    layer: row.layer_id as LayerId | null,
    foreign: row.uid !== uid,
    usable: isUsable(row),
    evictedAt: row.evicted_at ?? undefined,
  }
}

/** Layer IDs are random and of one length, so joining them keeps stacks apart. */
function stackDigest(stacks: readonly (readonly LayerId[])[]): string {
  return createHash('sha256').update(JSON.stringify(stacks)).digest('hex')
}
