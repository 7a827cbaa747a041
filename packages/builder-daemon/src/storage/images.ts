import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Clock } from '../ports/clock.js'
import type { ImageRecord, ImageStore, ImageSummary, NewImage, RemovedName } from '../ports/image-store.js'
import type { Lease } from '../ports/layer-store.js'
import type { Logger } from '../ports/logger.js'
import type { Database, Statements } from './database.js'
import { attempt } from './failure.js'
import { encodeImageFile, type ImageFile, imageIdOf } from './image-file.js'
import { layerRecord } from './layer-record.js'
import type { Layout } from './layout.js'
import { hasImageFile } from './look-through.js'
import { createSerial, type Serial } from './serial.js'
import { createdAt, decodeStoredConfig } from './stored-config.js'
import type { Trash } from './trash.js'
import { exactImage, mayGiveName, meantImage, type PutParams } from './writes/images.js'
import { layersOfImage } from './writes/layers.js'

export interface LocalImageStore extends ImageStore {
  /**
   * Removes images without a name (`rm -p`), of one owner or of all. Those in use by a running
   * operation stay.
   */
  removeUnnamed(owner?: number): Promise<readonly RemovedName[]>
  /** Writes the file of an image again from its row; false when it is there, or there is no such image. */
  restoreFile(id: string): Promise<boolean>
}

/** Listing rows per turn of the event loop; about a millisecond. */
const pageRows = 500

/** `repo:tag` without white space or control characters; the grammar of references is the caller's. */
const localName = /^[^\s\p{Cc}]{1,512}:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/u

function checkName(name: string): void {
  if (!localName.test(name)) {
    throw new BuilderError('ISB_REFERENCE_INVALID', `invalid image name ${JSON.stringify(name)}`)
  }
}

interface ImageRow {
  readonly id: string
  readonly created_at: number
  readonly size: number
  readonly owner: number
  readonly config: Uint8Array
}

function readImage(statements: Statements, id: string): ImageRecord | undefined {
  const row = statements.get<ImageRow>(
    'SELECT id, created_at, size, owner, config FROM images WHERE id = ?',
    id,
  )
  if (row === undefined) return undefined
  const layers = layersOfImage(statements, id)
  return {
    id,
    configBytes: row.config,
    config: decodeStoredConfig(row.config),
    layers: layers.map(layerRecord),
    names: statements
      .all<{ name: string }>('SELECT name FROM names WHERE image_id = ? ORDER BY name', id)
      .map(({ name }) => name),
    createdAt: row.created_at,
    size: row.size,
    owner: row.owner,
    damaged: layers.some((layer) => layer.state !== 'ready'),
  }
}

interface ListedRow {
  readonly id: string
  readonly created_at: number
  readonly size: number
  readonly owner: number
  readonly name: string | null
}

/** Newest first. Both tables are read from covering indexes, so configs stay on the disk. */
const listPage = `
  SELECT i.id, i.created_at, i.size, i.owner, n.name
  FROM (SELECT id, created_at, size, owner FROM images
        WHERE (created_at, id) < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ${pageRows}) AS i
  LEFT JOIN names AS n ON n.image_id = i.id
  ORDER BY i.created_at DESC, i.id DESC, n.name`

function appendRows(summaries: ImageSummary[], rows: readonly ListedRow[]): void {
  let names: string[] = []
  let last: string | undefined
  for (const row of rows) {
    if (row.id !== last) {
      names = []
      summaries.push({
        id: row.id,
        names,
        createdAt: row.created_at,
        size: row.size,
        owner: row.owner,
      })
      last = row.id
    }
    if (row.name !== null) names.push(row.name)
  }
}

type DescribedImage = NewImage & Omit<PutParams, 'layers' | 'names'>

/** Files of images being written at the same time. */
const filesAtOnce = 32

export function createImageStore(deps: {
  readonly layout: Layout
  readonly database: Database
  readonly trash: Trash
  readonly clock: Clock
  readonly log: Logger
}): LocalImageStore & { readonly inMotion: Pick<Serial, 'has'> } {
  const { layout, database, trash, clock, log } = deps
  /** Keeps the file of an image in step with its row. */
  const perImage = createSerial()

  const get = async (idOrName: string): Promise<ImageRecord | undefined> => {
    const id = exactImage(database.read, idOrName)
    return id === undefined ? undefined : readImage(database.read, id)
  }

  const describe = (image: NewImage): DescribedImage => {
    image.names.forEach(checkName)
    const config = decodeStoredConfig(image.configBytes)
    const id = imageIdOf(image.configBytes)
    const now = clock.now()
    return { ...image, id, diffIds: config.rootfs.diff_ids, createdAt: createdAt(config) ?? now, now }
  }

  const isStored = (id: string): boolean => exactImage(database.read, id) !== undefined

  const writeFileOf = async (id: string, image: ImageFile): Promise<void> => {
    const path = join(layout.blobs, id)
    await writeFile(`${path}.tmp`, encodeImageFile(image), { mode: 0o600 })
    await rename(`${path}.tmp`, path)
  }

  const restoreFile = (id: string): Promise<boolean> =>
    perImage.run(id, async () => {
      const stored = database.read.get<{ stored_at: number }>('SELECT stored_at FROM images WHERE id = ?', id)
      const image = readImage(database.read, id)
      if (image === undefined || stored === undefined || hasImageFile(layout, id)) return false
      const layers = image.layers.map((layer) => layer.id)
      await attempt('writing the file of an image', () =>
        writeFileOf(id, { ...image, layers, storedAt: stored.stored_at }),
      )
      return true
    })

  const store = async (images: readonly DescribedImage[], lease: Lease): Promise<readonly ImageRecord[]> => {
    // The file of an image that is there says whose it is, which storing it again does not change.
    const fresh = [...new Map(images.map((image) => [image.id, image])).values()].filter(
      ({ id }) => !isStored(id),
    )
    try {
      await attempt('storing an image', async () => {
        for (let at = 0; at < fresh.length; at += filesAtOnce) {
          const some = fresh.slice(at, at + filesAtOnce)
          await Promise.all(some.map((image) => writeFileOf(image.id, { ...image, storedAt: image.now })))
        }
      })
      const params = { images, leaseId: lease.id }
      const isThere = fresh.length === 0 && (await database.write('keepImages', params))
      if (!isThere) await database.write('putImages', params)
    } catch (error) {
      for (const { id } of fresh) if (!isStored(id)) await rm(join(layout.blobs, id), { force: true })
      throw error
    }
    return images.map(({ id }) => {
      const record = readImage(database.read, id)
      if (record === undefined) throw new Error(`image ${id} vanished while it was leased`)
      return record
    })
  }

  const putAll = async (images: readonly NewImage[], lease: Lease): Promise<readonly ImageRecord[]> => {
    const described = images.map(describe)
    // In the same order for everybody, so that nobody waits in a circle.
    const ids = [...new Set(described.map(({ id }) => id))].sort()
    const work = ids.reduce(
      (inner, id) => () => perImage.run(id, inner),
      () => store(described, lease),
    )
    return await work()
  }

  const put = async (image: NewImage, lease: Lease): Promise<ImageRecord> => {
    const [record] = await putAll([image], lease)
    if (record === undefined) throw new Error('an image was stored without a record')
    return record
  }

  const resolve = async (reference: string, lease?: Lease): Promise<ImageRecord | undefined> => {
    const id =
      lease === undefined
        ? meantImage(database.read, reference)
        : await database.write('resolveImage', { reference, leaseId: lease.id })
    return id === undefined ? undefined : readImage(database.read, id)
  }

  const readList = (): Promise<readonly ImageSummary[]> => {
    const summaries: ImageSummary[] = []
    return database.walk((statements) => {
      const last = summaries.at(-1)
      const rows = statements.all<ListedRow>(
        listPage,
        last?.createdAt ?? Number.MAX_SAFE_INTEGER,
        last?.id ?? '',
      )
      appendRows(summaries, rows)
      return rows.length === 0 ? summaries : undefined
    })
  }

  let listed: { readonly version: number; readonly images: Promise<readonly ImageSummary[]> } | undefined
  const list = (): Promise<readonly ImageSummary[]> => {
    // From before it is read, so that a change meanwhile has it read again.
    const version = database.version()
    if (listed?.version === version) return listed.images
    const current = { version, images: readList() }
    listed = current
    current.images.catch(() => {
      if (listed === current) listed = undefined
    })
    return current.images
  }

  const tag = async (imageId: string, name: string, by = 0): Promise<void> => {
    checkName(name)
    await database.write('tagImage', { imageId, name, by })
  }

  const untag = (name: string, by = 0): Promise<void> => database.write('untagName', { name, by })

  const checkOwner = async (imageId: string, name: string, by = 0): Promise<void> => {
    checkName(name)
    mayGiveName(database.read, name, imageId, by)
  }

  const removeNow = async (imageId: string, by = 0, name?: string): Promise<RemovedName> => {
    const { removed, retired } = await database.write('removeImage', { imageId, by, name, now: clock.now() })
    if (!removed.removedImage) return removed
    try {
      await rm(join(layout.blobs, imageId), { force: true })
    } catch (error) {
      // The row is gone, so the next start takes the file for garbage.
      log.warn('image.file-not-removed', { image: imageId, error: String(error) })
    }
    await trash.retire(retired)
    return removed
  }

  const remove = (imageId: string, by?: number, name?: string): Promise<RemovedName> =>
    perImage.run(imageId, () => removeNow(imageId, by, name))

  const removeUnnamed = async (owner?: number): Promise<readonly RemovedName[]> => {
    const rows = database.read.all<{ id: string }>(
      `SELECT id FROM images
       WHERE id NOT IN (SELECT image_id FROM names) AND (? IS NULL OR owner = ?) ORDER BY created_at, id`,
      owner ?? null,
      owner ?? null,
    )
    const removed: RemovedName[] = []
    for (const { id } of rows) {
      const outcome = await perImage.run(id, async () => {
        const named = database.read.get('SELECT 1 FROM names WHERE image_id = ?', id)
        return named === undefined ? removeIdle(id) : undefined
      })
      if (outcome !== undefined) removed.push(outcome)
    }
    return removed
  }

  /** undefined when the image is in use, or already gone. */
  const removeIdle = async (id: string): Promise<RemovedName | undefined> => {
    try {
      return await removeNow(id)
    } catch (error) {
      const spared = ['ISB_IMAGE_IN_USE', 'ISB_IMAGE_NOT_FOUND']
      if (error instanceof BuilderError && spared.includes(error.code)) return undefined
      throw error
    }
  }

  return {
    ...{ put, putAll, get, resolve, list, tag, untag, remove, removeUnnamed, restoreFile },
    ...{ checkName: checkOwner, inMotion: perImage },
  }
}
