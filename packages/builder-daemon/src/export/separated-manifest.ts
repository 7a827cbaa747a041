import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import {
  arrayOf,
  decodeJson,
  type JsonObject,
  objectOf,
  optional,
  stringOf,
  stringsOf,
} from '@isula-build/shared/oci/json-document.js'
import { checkFileName } from './archive-directory.js'

export const separatedManifestFile = 'manifest'

/** Bytes allowed for `manifest` and the rename file. */
export const separatedJsonLimit = 10 * 1024 * 1024

/**
 * What `manifest` says about one app. Hashes are sha256 as hex digits of the packed file; layers are the
 * directories in it. Without a lib its fields are absent.
 */
export interface SeparatedEntry {
  readonly app: string
  readonly appHash: string
  readonly appLayers: readonly string[]
  readonly lib?: string
  readonly libHash?: string
  readonly libImageName?: string
  readonly libLayers?: readonly string[]
  readonly base: string
  readonly baseHash: string
  readonly baseImageName: string
  readonly baseLayer: string
}

/** Keys sorted, so that the same images give the same bytes. */
export function encodeSeparatedManifest(entries: ReadonlyMap<string, SeparatedEntry>): Uint8Array {
  const sorted = [...entries].sort(([a], [b]) => (a < b ? -1 : 1))
  return Buffer.from(JSON.stringify(Object.fromEntries(sorted)))
}

/** The entry of `app`. Fails with ISB_ARCHIVE_INVALID, ISB_IMAGE_NOT_FOUND when there is none. */
export function decodeSeparatedEntry(bytes: Uint8Array, app: string): SeparatedEntry {
  const what = `file ${separatedManifestFile}`
  const manifest = objectOf(decodeJson(bytes, what), what)
  const value = optional(manifest, app, objectOf)
  if (value === undefined) throw new BuilderError('ISB_IMAGE_NOT_FOUND', `failed to find app image ${app}`)
  return {
    app: fileOf(value, 'app', `app image ${app} tarball can not be empty`),
    appHash: text(value, 'appHash'),
    appLayers: optional(value, 'appLayers', stringsOf) ?? [],
    ...libOf(value),
    base: fileOf(value, 'base', `base image ${text(value, 'baseImageName')} tarball can not be empty`),
    baseHash: text(value, 'baseHash'),
    baseImageName: text(value, 'baseImageName'),
    baseLayer: text(value, 'baseLayer'),
  }
}

function libOf(value: JsonObject): Partial<SeparatedEntry> {
  if (text(value, 'lib') === '') return {}
  return {
    lib: checkFileName(text(value, 'lib'), 'lib tarball'),
    libHash: text(value, 'libHash'),
    libImageName: text(value, 'libImageName'),
    libLayers: optional(value, 'libLayers', stringsOf) ?? [],
  }
}

function fileOf(value: JsonObject, key: string, whenEmpty: string): string {
  const name = text(value, key)
  if (name === '') throw new BuilderError('ISB_ARCHIVE_INVALID', whenEmpty)
  return checkFileName(name, `${key} tarball`)
}

function text(value: JsonObject, key: string): string {
  return optional(value, key, stringOf) ?? ''
}

/** rename.json: `[{"name": …, "rename": …}]`. Of equal names the first counts. */
export function decodeRenames(bytes: Uint8Array): ReadonlyMap<string, string> {
  const what = 'the rename file'
  const renames = new Map<string, string>()
  for (const item of arrayOf(decodeJson(bytes, what), what)) {
    const json = objectOf(item, `an item of ${what}`)
    const name = text(json, 'name')
    if (!renames.has(name)) renames.set(name, checkFileName(text(json, 'rename'), 'new name'))
  }
  return renames
}
