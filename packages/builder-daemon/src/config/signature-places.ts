import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { SignaturePlace, SignaturePlaces } from '../core/policy/signature-places.js'
import { withLowerHost } from '../core/registries/prefix.js'
import { readConfigFile } from './config-file.js'
import { parsePlainYaml, type YamlEntry, type YamlMap } from './plain-yaml.js'

export interface SignaturePlacesFile {
  readonly places: SignaturePlaces
  readonly warnings: readonly string[]
}

const placeKeys = [
  'lookaside',
  'lookaside-staging',
  'sigstore',
  'sigstore-staging',
  'use-sigstore-attachments',
]

/** Where things were said, so that saying them twice can be told. */
interface Found {
  standard: SignaturePlace | undefined
  readonly scopes: Map<string, SignaturePlace>
  readonly said: Map<string, string>
  readonly warnings: string[]
}

/**
 * Reads every `*.yaml` of registries.d (containers-registries.d(5)) in the order of their names; a missing directory is
 * an empty one. Fails with ISB_CONFIG_INVALID, also when two files configure the same scope.
 */
export function readSignaturePlaces(directory: string): SignaturePlacesFile {
  const found: Found = { standard: undefined, scopes: new Map(), said: new Map(), warnings: [] }
  for (const name of fileNames(directory)) {
    const path = join(directory, name)
    const text = readConfigFile(path)
    if (text !== undefined) readFile(parsePlainYaml(text, path), path, found)
  }
  const { standard, scopes, warnings } = found
  return { places: { standard, scopes }, warnings }
}

function fileNames(directory: string): readonly string[] {
  try {
    return readdirSync(directory)
      .filter((name) => name.endsWith('.yaml'))
      .sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw new BuilderError('ISB_CONFIG_INVALID', `cannot read ${directory}: ${(error as Error).message}`, {
      cause: error,
    })
  }
}

function readFile(map: YamlMap, path: string, found: Found): void {
  for (const [key, entry] of map) {
    if (key === 'default-docker') {
      sayOnce(found, '`default-docker`', path, entry)
      found.standard = placeOf(entry, path, found)
    } else if (key === 'docker') {
      for (const [scope, inner] of mapOf(entry, path, key)) {
        const name = withLowerHost(scope)
        sayOnce(found, `scope ${JSON.stringify(name)}`, path, inner)
        found.scopes.set(name, placeOf(inner, path, found))
      }
    } else {
      found.warnings.push(`${path}:${entry.line}: \`${key}\` is not known, it has no effect`)
    }
  }
}

function sayOnce(found: Found, what: string, path: string, { line }: YamlEntry): void {
  const other = found.said.get(what)
  if (other !== undefined) throw invalid(path, line, `${what} is configured in ${other} already`)
  found.said.set(what, path)
}

function placeOf(entry: YamlEntry, path: string, found: Found): SignaturePlace {
  const map = mapOf(entry, path, 'a scope')
  for (const [key, { line }] of map) {
    if (!placeKeys.includes(key)) {
      found.warnings.push(`${path}:${line}: \`${key}\` is not known, it has no effect`)
    }
  }
  const attachments = map.get('use-sigstore-attachments')
  return {
    // `sigstore` is the older name of the same.
    lookaside: urlOf(map.get('lookaside'), path) ?? urlOf(map.get('sigstore'), path),
    attachments: attachments === undefined ? undefined : switchOf(attachments, path),
  }
}

function urlOf(entry: YamlEntry | undefined, path: string): string | undefined {
  if (entry === undefined) return undefined
  const text = typeof entry.value === 'string' ? entry.value : ''
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || !['file:', 'http:', 'https:'].includes(url.protocol)) {
    throw invalid(path, entry.line, `${JSON.stringify(text)} is no file, http or https URL`)
  }
  if (
    url.username !== '' ||
    url.search !== '' ||
    url.hash !== '' ||
    (url.protocol === 'file:' && url.host !== '')
  ) {
    throw invalid(path, entry.line, 'the URL must have no user, query, fragment, or host of a file')
  }
  return url.href
}

function switchOf(entry: YamlEntry, path: string): boolean {
  if (entry.value === 'true' || entry.value === 'false') return entry.value === 'true'
  throw invalid(path, entry.line, '`use-sigstore-attachments` must be true or false')
}

function mapOf(entry: YamlEntry, path: string, what: string): YamlMap {
  if (typeof entry.value === 'string') throw invalid(path, entry.line, `\`${what}\` must be a mapping`)
  return entry.value
}

function invalid(path: string, line: number, reason: string): BuilderError {
  return new BuilderError('ISB_CONFIG_INVALID', `${path}:${line}: ${reason}`)
}
