import type { FileHandle } from 'node:fs/promises'
import { open, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { type DiffId, parseDigest } from '@isula-build/shared/oci/digest.js'
import type { SealedLayer } from '../ports/layer-store.js'

/**
 * `meta.json` in a layer directory: a copy of the layer's row, so that layers can be found again when
 * the database is lost.
 */
export const metaName = 'meta.json'

export interface LayerMeta extends SealedLayer {
  /** Milliseconds since the epoch. */
  readonly publishedAt: number
}

export function encodeMeta(meta: LayerMeta): string {
  return `${JSON.stringify({
    version: 1,
    diffId: meta.diffId,
    tarSize: meta.tarSize,
    keepsHeaders: meta.keepsHeaders,
    parentKey: meta.parentKey,
    publishedAt: meta.publishedAt,
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
  const { version, diffId, tarSize, keepsHeaders, parentKey, publishedAt } = fields
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
  }
}

async function writeFlushed(path: string, text: string): Promise<void> {
  await using file: FileHandle = await open(path, 'w', 0o600)
  await file.writeFile(text)
  await file.sync()
}

/** Replaces the record as a whole, flushed. */
export async function writeMeta(directory: string, meta: LayerMeta): Promise<void> {
  const temporary = join(directory, `.${metaName}`)
  await writeFlushed(temporary, encodeMeta(meta))
  await rename(temporary, join(directory, metaName))
}

/** Flushes a file that was written by somebody else. */
export async function flushFile(path: string): Promise<void> {
  await using file: FileHandle = await open(path, 'r')
  await file.sync()
}
