import { createHash } from 'node:crypto'

/**
 * A file in `blobs/` per image: one line of JSON, then the config bytes. It lets an image be found again
 * when the database is lost; names are those the image was stored with.
 */
export interface ImageFile {
  readonly layers: readonly string[]
  readonly names: readonly string[]
  readonly owner: number
  readonly createdAt: number
  /** Milliseconds since the epoch. */
  readonly storedAt: number
  readonly configBytes: Uint8Array
}

export function imageIdOf(configBytes: Uint8Array): string {
  return createHash('sha256').update(configBytes).digest('hex')
}

export function encodeImageFile(image: ImageFile): Buffer {
  const { configBytes, layers, names, owner, createdAt, storedAt } = image
  const line = JSON.stringify({ version: 1, layers, names, owner, createdAt, storedAt })
  return Buffer.concat([Buffer.from(`${line}\n`), configBytes])
}

function areTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string')
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value)
}

/** undefined unless the file is whole and its config has this ID. */
export function decodeImageFile(id: string, bytes: Uint8Array): ImageFile | undefined {
  const end = bytes.indexOf(0x0a)
  if (end < 0) return undefined
  const configBytes = bytes.subarray(end + 1)
  if (imageIdOf(configBytes) !== id) return undefined
  try {
    const fields: unknown = JSON.parse(Buffer.from(bytes.subarray(0, end)).toString('utf8'))
    if (typeof fields !== 'object' || fields === null) return undefined
    const { version, layers, names, owner, createdAt, storedAt } = fields as Record<string, unknown>
    if (version !== 1 || !areTexts(layers) || !areTexts(names)) return undefined
    if (!isCount(owner) || !isCount(createdAt) || !isCount(storedAt)) return undefined
    return { layers, names, owner, createdAt, storedAt, configBytes }
  } catch {
    return undefined
  }
}
