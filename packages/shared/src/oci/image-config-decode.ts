import { BuilderError } from '../errors/builder-error.js'
import { type DiffId, parseDigest } from './digest.js'
import type { ContainerConfig, Healthcheck, History, ImageConfig } from './image-config.js'
import {
  arrayOf,
  decodeJson,
  type JsonObject,
  member,
  objectOf,
  optional,
  sizeOf,
  stringMapOf,
  stringOf,
  stringsOf,
} from './json-document.js'

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

/**
 * Decodes an image configuration that came from elsewhere (OCI image spec config.md, Docker image spec 1.2).
 * Absent and null are the same; fields this builder does not know are left out. Fails with
 * ISB_ARCHIVE_INVALID on a wrong type, on a rootfs that is not layers and on a diff ID that is not sha256.
 */
export function decodeImageConfig(bytes: Uint8Array): ImageConfig {
  const what = 'the image configuration'
  const json = objectOf(decodeJson(bytes, what), what)
  const result: Mutable<ImageConfig> = {
    architecture: optional(json, 'architecture', stringOf) ?? '',
    os: optional(json, 'os', stringOf) ?? '',
    config: optional(json, 'config', containerConfigOf) ?? {},
    rootfs: rootFsOf(member(json, 'rootfs')),
  }
  if (result.architecture === '' || result.os === '') {
    throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} names no architecture or no operating system`)
  }
  copyStrings(json, result, ['created', 'author', 'variant', 'os.version'])
  set(result, 'os.features', optional(json, 'os.features', stringsOf))
  set(result, 'history', optional(json, 'history', historyOf))
  return result
}

function rootFsOf(value: unknown): ImageConfig['rootfs'] {
  const json = objectOf(value, '"rootfs" of the image configuration')
  if (member(json, 'type') !== 'layers') {
    throw new BuilderError('ISB_ARCHIVE_INVALID', 'the type of "rootfs" must be "layers"')
  }
  const diffIds = (optional(json, 'diff_ids', arrayOf) ?? []).map((item) => {
    const digest = parseDigest(item)
    if (digest === undefined) {
      const shown = typeof item === 'string' ? JSON.stringify(item.slice(0, 100)) : typeof item
      throw new BuilderError('ISB_ARCHIVE_INVALID', `diff ID ${shown} is not a lower-case sha256 digest`)
    }
    return digest as DiffId
  })
  return { type: 'layers', diff_ids: diffIds }
}

function containerConfigOf(value: unknown, what: string): ContainerConfig {
  const json = objectOf(value, what)
  const result: Mutable<ContainerConfig> = {}
  copyStrings(json, result, ['Hostname', 'User', 'WorkingDir', 'StopSignal'])
  for (const key of ['Env', 'Entrypoint', 'Cmd', 'OnBuild', 'Shell'] as const) {
    set(result, key, optional(json, key, stringsOf))
  }
  for (const key of ['ExposedPorts', 'Volumes'] as const) set(result, key, optional(json, key, keySetOf))
  set(result, 'ArgsEscaped', optional(json, 'ArgsEscaped', booleanOf))
  set(result, 'Labels', optional(json, 'Labels', stringMapOf))
  set(result, 'Healthcheck', optional(json, 'Healthcheck', healthcheckOf))
  return result
}

function healthcheckOf(value: unknown, what: string): Healthcheck {
  const json = objectOf(value, what)
  const result: Mutable<Healthcheck> = {}
  set(result, 'Test', optional(json, 'Test', stringsOf))
  for (const key of ['Interval', 'Timeout', 'StartPeriod', 'StartInterval', 'Retries'] as const) {
    set(result, key, optional(json, key, sizeOf))
  }
  return result
}

function historyOf(value: unknown, what: string): readonly History[] {
  return arrayOf(value, what).map((item) => {
    const json = objectOf(item, `an item of ${what}`)
    const entry: Mutable<History> = {}
    copyStrings(json, entry, ['created', 'author', 'created_by', 'comment'])
    set(entry, 'empty_layer', optional(json, 'empty_layer', booleanOf))
    return entry
  })
}

function keySetOf(value: unknown, what: string): Readonly<Record<string, Record<string, never>>> {
  const result = Object.create(null) as Record<string, Record<string, never>>
  for (const key of Object.keys(objectOf(value, what))) result[key] = {}
  return result
}

function booleanOf(value: unknown, what: string): boolean {
  if (typeof value === 'boolean') return value
  throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} must be true or false`)
}

function copyStrings<T extends object, K extends keyof T & string>(
  from: JsonObject,
  to: T,
  keys: readonly K[],
): void {
  for (const key of keys) set(to, key, optional(from, key, stringOf) as T[K] | undefined)
}

function set<T extends object, K extends keyof T>(target: T, key: K, value: T[K] | undefined): void {
  if (value !== undefined) target[key] = value
}
