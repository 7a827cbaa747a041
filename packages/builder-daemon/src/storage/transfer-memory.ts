import { type Digest, parseDigest } from '@isula-build/shared/oci/digest.js'
import type { LayerCompression } from '@isula-build/shared/oci/media-types.js'
import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import type { TransferMemory } from '../ports/transfer-memory.js'
import type { Database } from './database.js'

export interface TransferMemoryLimits {
  /** Of each kind. */
  readonly rows: number
  readonly maxAgeMs: number
  /** Writes between two trims. */
  readonly trimEvery: number
}

export const defaultTransferLimits: TransferMemoryLimits = {
  rows: 100_000,
  maxAgeMs: 180 * 24 * 3_600_000,
  trimEvery: 1000,
}

/** More forms of a layer, or places of a blob, than anybody wants to try. */
const maxAnswers = 16

interface BlobRow {
  readonly digest: string
  readonly size: number
  readonly compression: LayerCompression
  readonly recipe: string | null
}

/** Writing fails with a warning only: what cannot be remembered is found out again. */
export function createTransferMemory(deps: {
  readonly database: Database
  readonly clock: Clock
  readonly log: Logger
  readonly limits?: TransferMemoryLimits
}): TransferMemory {
  const { database, clock, log } = deps
  const limits = deps.limits ?? defaultTransferLimits
  let sinceTrim = limits.trimEvery

  const attempt = async (write: () => Promise<unknown>): Promise<void> => {
    try {
      await write()
      sinceTrim += 1
      if (sinceTrim < limits.trimEvery) return
      sinceTrim = 0
      const now = clock.now()
      await database.write('trimTransfers', { now, before: now - limits.maxAgeMs, rows: limits.rows })
    } catch (error) {
      log.warn('transfers.not-remembered', { error: String(error) })
    }
  }

  return {
    async blobsOf(diffId) {
      const rows = database.read.all<BlobRow>(
        `SELECT digest, size, compression, recipe FROM layer_blobs WHERE diff_id = ?
         ORDER BY used_at DESC, digest LIMIT ${maxAnswers}`,
        diffId,
      )
      return rows.flatMap(({ digest, ...rest }) =>
        digests(digest).map((known) => ({ digest: known, ...rest })),
      )
    },

    rememberBlob: (diffId, blob) =>
      attempt(() => database.write('rememberBlob', { diffId, blob, now: clock.now() })),

    async placesOf(uid, host, digest) {
      return database.read
        .all<{ repository: string }>(
          `SELECT repository FROM blob_places WHERE uid = ? AND host = ? AND digest = ?
           ORDER BY seen_at DESC, repository LIMIT ${maxAnswers}`,
          uid,
          host,
          digest,
        )
        .map(({ repository }) => repository)
    },

    async rememberPlace(uid, host, repository, found) {
      if (found.length === 0) return
      await attempt(() =>
        database.write('rememberPlace', { uid, host, repository, digests: found, now: clock.now() }),
      )
    },

    rememberDigest: (name, digest, imageId) =>
      attempt(() => database.write('rememberDigest', { name, digest, imageId })),

    async imagesOf(name, digest) {
      return database.read
        .all<{ image_id: string }>(
          'SELECT image_id FROM image_digests WHERE name = ? AND digest = ? ORDER BY image_id',
          name,
          digest,
        )
        .map((row) => row.image_id)
    },

    async digestsOf(imageId, name) {
      return database.read
        .all<{ digest: string }>(
          'SELECT digest FROM image_digests WHERE image_id = ? AND name = ? ORDER BY digest',
          imageId,
          name,
        )
        .flatMap(({ digest }) => digests(digest))
    },
  }
}

/** A database that was tampered with gives no digest that would be sent anywhere. */
function digests(text: string): readonly Digest[] {
  const digest = parseDigest(text)
  return digest === undefined ? [] : [digest]
}
