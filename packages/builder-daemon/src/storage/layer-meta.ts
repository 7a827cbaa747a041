import type { FileHandle } from 'node:fs/promises'
import { open, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type DiffId, parseDigest } from '@isula-build/shared/oci/digest.js'
import type { SealedLayer } from '../ports/layer-store.js'
import { failureCode } from './failure.js'

/**
 * `meta.json` in a layer directory: a copy of the layer's row, so that layers can be found again when
 * the database is lost.
 */
export const metaName = 'meta.json'

export interface LayerMeta extends SealedLayer {
  /** Milliseconds since the epoch. */
  readonly publishedAt: number
  /** Of the layer it shares files with; null when it shares none. */
  readonly family: string | null
}

export function encodeMeta(meta: LayerMeta): string {
  return `${JSON.stringify({
    version: 1,
    diffId: meta.diffId,
    tarSize: meta.tarSize,
    keepsHeaders: meta.keepsHeaders,
    parentKey: meta.parentKey,
    publishedAt: meta.publishedAt,
    ...(meta.family === null ? {} : { family: meta.family }),
  })}\n`
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

/** undefined when the text is not a complete record of a known version. */
export function decodeMeta(text: string): LayerMeta | undefined {
  let fields: Record<string, unknown>
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed !== 'object' || parsed === null) return undefined
    fields = parsed as Record<string, unknown>
  } catch {
    return undefined
  }
  const { version, diffId, tarSize, keepsHeaders, parentKey, publishedAt, family } = fields
  const digest = diffId === null ? null : parseDigest(diffId)
  if (version !== 1 || digest === undefined) return undefined
  if (digest === null ? tarSize !== null : !isSize(tarSize)) return undefined
  if (typeof keepsHeaders !== 'boolean' || !isSize(publishedAt)) return undefined
  if (parentKey !== null && typeof parentKey !== 'string') return undefined
  return {
    diffId: digest as DiffId | null,
    tarSize: tarSize as number | null,
    keepsHeaders,
    parentKey,
    publishedAt,
    family: typeof family === 'string' ? family : null,
  }
}

/**
 * Writes the record into a directory that has none, or replaces it as a whole. Not flushed: until the layer's files
 * are, its row says that they are not to be trusted.
 */
export async function writeMeta(directory: string, meta: LayerMeta): Promise<void> {
  const temporary = join(directory, `.${metaName}`)
  await writeFile(temporary, encodeMeta(meta), { mode: 0o600 })
  await rename(temporary, join(directory, metaName))
}

/** The record in a layer directory; undefined when there is none that is whole. */
export async function readMeta(directory: string): Promise<LayerMeta | undefined> {
  try {
    return decodeMeta(await readFile(join(directory, metaName), 'utf8'))
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EISDIR'].includes(failureCode(error))) return undefined
    throw error
  }
}

/** Flushes a file, whoever wrote it. */
export async function flushFile(path: string): Promise<void> {
  await using file: FileHandle = await open(path, 'r')
  await file.sync()
}
