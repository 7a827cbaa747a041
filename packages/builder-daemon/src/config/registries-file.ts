import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type ImageReference, parseReference } from '@isula-build/shared/oci/reference.js'
import { isHost, isLocation, isPrefix, prefixLength, withLowerHost } from '../core/registries/prefix.js'
import type { MirrorRule, RegistryRule, RegistryTable } from '../core/registries/registry-table.js'
import { readConfigFile } from './config-file.js'
import { parseToml, type TableReader, tableReader } from './toml.js'

export interface RegistriesFile {
  readonly table: RegistryTable
  /** Keys that are not known, settings without effect. */
  readonly warnings: readonly string[]
}

type Warn = (text: string) => void

const v1Keys = ['registries']
const v2Keys = [
  ...['unqualified-search-registries', 'registry', 'short-name-mode', 'aliases'],
  ...['credential-helpers', 'additional-layer-store-auth-helper'],
]
const registryKeys = [
  ...['prefix', 'location', 'insecure', 'blocked', 'mirror-by-digest-only', 'mirror', 'pull-from-mirror'],
]
const mirrorKeys = ['location', 'insecure', 'pull-from-mirror']
const mirrorUses = ['all', 'digest-only', 'tag-only'] as const

/**
 * Reads registries.toml, version 1 or 2 (containers-registries.conf(5)). Fails with ISB_CONFIG_INVALID naming file,
 * line and key.
 */
export function readRegistriesFile(path: string): RegistriesFile {
  const text = readConfigFile(path)
  if (text === undefined) throw new BuilderError('ISB_CONFIG_INVALID', `${path} is missing`)
  return decodeRegistries(text, path)
}

export function decodeRegistries(text: string, path: string): RegistriesFile {
  const reader = tableReader(parseToml(text, path), text, path)
  const warnings: string[] = []
  const warn: Warn = (warning) => warnings.push(warning)
  const v1 = reader.table('registries')
  const v2 = v2Keys.filter((key) => reader.keys.includes(key))
  if (v1 !== undefined && v2.length > 0) {
    throw new BuilderError('ISB_CONFIG_INVALID', `${path}: mixing sysregistry v1/v2 is not supported`, {
      hint: 'Write everything as [[registry]] and unqualified-search-registries.',
    })
  }
  warnUnknown(reader, [...v1Keys, ...v2Keys], warn)
  const table = v1 === undefined ? version2(reader, warn) : version1(v1, warn)
  return { table, warnings }
}

function version1(reader: TableReader, warn: Warn): RegistryTable {
  warnUnknown(reader, ['search', 'insecure', 'block'], warn)
  const list = (name: string, is: (text: string) => boolean, expected: string): readonly string[] => {
    const table = reader.table(name)
    if (table === undefined) return []
    warnUnknown(table, ['registries'], warn)
    return entries(table, 'registries', is, expected)
  }
  const search = list('search', isLocation, 'a registry host')
  const block = list('block', isPrefix, 'a registry')
  const insecure = list('insecure', isPrefix, 'a registry')
  const rules = [...new Set([...block, ...insecure])].map((prefix): RegistryRule => {
    const within = (outer: string): boolean => prefixLength(prefix, outer) !== undefined
    return {
      ...{ prefix, location: prefix.startsWith('*.') ? '' : prefix, mirrors: [] },
      insecure: insecure.includes(prefix),
      // A list of blocked registries has no exceptions: an insecure part of one stays blocked.
      blocked: block.some(within),
    }
  })
  return { search, aliases: new Map(), rules }
}

function version2(reader: TableReader, warn: Warn): RegistryTable {
  const search = entries(reader, 'unqualified-search-registries', isHost, 'a registry host')
  checkMode(reader)
  if ((reader.strings('credential-helpers') ?? []).some((helper) => helper !== 'containers-auth.json')) {
    warn(reader.complaint('credential-helpers', 'has no effect; use `credHelpers` of auth.json'))
  }
  if (reader.string('additional-layer-store-auth-helper') !== undefined) {
    warn(reader.complaint('additional-layer-store-auth-helper', 'has no effect'))
  }
  const rules: RegistryRule[] = []
  for (const registry of reader.tables('registry')) {
    const rule = readRule(registry, warn)
    if (rules.some(({ prefix }) => prefix === rule.prefix)) {
      warn(registry.complaint('prefix', `"${rule.prefix}" is there already, the first one counts`))
    }
    refuseConflict(registry, rule, rules)
    rules.push(rule)
  }
  const aliasTable = reader.table('aliases')
  return { search, rules, aliases: aliasTable === undefined ? new Map() : readAliases(aliasTable) }
}

function readRule(reader: TableReader, warn: Warn): RegistryRule {
  warnUnknown(reader, registryKeys, warn)
  const location = one(reader, 'location', isLocation, 'host[:port][/namespace]') ?? ''
  const prefix = one(reader, 'prefix', isPrefix, 'host[:port][/namespace] or *.domain') ?? location
  if (prefix === '') throw invalid(reader.complaint('location', 'is missing'))
  if (location === '' && !prefix.startsWith('*.')) {
    throw invalid(reader.complaint('prefix', 'needs a `location` unless it is of the form *.example.com'))
  }
  if (reader.string('pull-from-mirror') !== undefined) {
    throw invalid(reader.complaint('pull-from-mirror', 'belongs to a [[registry.mirror]]'))
  }
  const byDigest = reader.boolean('mirror-by-digest-only') ?? false
  return {
    ...{ prefix, location },
    insecure: reader.boolean('insecure') ?? false,
    blocked: reader.boolean('blocked') ?? false,
    mirrors: reader.tables('mirror').map((mirror) => readMirror(mirror, byDigest, warn)),
  }
}

function readMirror(reader: TableReader, byDigest: boolean, warn: Warn): MirrorRule {
  warnUnknown(reader, mirrorKeys, warn)
  const location = one(reader, 'location', isLocation, 'host[:port][/namespace]')
  if (location === undefined) throw invalid(reader.complaint('location', 'is missing'))
  const written = reader.string('pull-from-mirror')
  const use = written === undefined ? 'all' : mirrorUses.find((known) => known === written)
  if (use === undefined) {
    throw invalid(
      reader.complaint('pull-from-mirror', `is "${written}", expected one of ${mirrorUses.join(', ')}`),
    )
  }
  if (byDigest && written !== undefined) {
    throw invalid(
      reader.complaint('pull-from-mirror', 'and `mirror-by-digest-only` of its registry exclude each other'),
    )
  }
  return { location, insecure: reader.boolean('insecure') ?? false, use: byDigest ? 'digest-only' : use }
}

/** One place cannot be insecure, or blocked, and not. */
function refuseConflict(reader: TableReader, rule: RegistryRule, others: readonly RegistryRule[]): void {
  const place = ({ prefix, location }: RegistryRule): string => location || prefix
  for (const key of ['insecure', 'blocked'] as const) {
    if (others.some((other) => place(other) === place(rule) && other[key] !== rule[key])) {
      throw invalid(reader.complaint(key, `of registry "${place(rule)}" contradicts another [[registry]]`))
    }
  }
}

function checkMode(reader: TableReader): void {
  const mode = reader.string('short-name-mode')
  // There is nobody to ask here, so all of them mean: the candidates in order.
  if (mode === undefined || ['enforcing', 'permissive', 'disabled'].includes(mode)) return
  throw invalid(
    reader.complaint('short-name-mode', `is "${mode}", expected one of enforcing, permissive, disabled`),
  )
}

function readAliases(reader: TableReader): ReadonlyMap<string, ImageReference> {
  const aliases = new Map<string, ImageReference>()
  for (const name of reader.keys) {
    const value = reader.string(name)
    if (!isShortName(name))
      throw invalid(reader.complaint(name, 'is no name without registry, tag and digest'))
    // In containers' drop-in files '' takes an alias back.
    if (value === undefined) continue
    const host = value.slice(0, Math.max(0, value.indexOf('/')))
    if (!isHost(host) || !isLocation(value) || (host !== 'localhost' && !/[.:]/.test(host))) {
      throw invalid(reader.complaint(name, 'must be a full name: REGISTRY/NAME without tag and digest'))
    }
    aliases.set(name, parse(reader, name, value))
  }
  return aliases
}

function isShortName(name: string): boolean {
  return isLocation(`localhost/${name}`) && !/^(localhost|[^/]*\.[^/]*)\//.test(name)
}

function parse(reader: TableReader, key: string, value: string): ImageReference {
  try {
    return parseReference(value)
  } catch (error) {
    if (isBuilderError(error)) throw invalid(reader.complaint(key, error.message))
    throw error
  }
}

/** A value with its host in lower case and no slash at its end; undefined when absent. */
function one(
  reader: TableReader,
  key: string,
  is: (text: string) => boolean,
  expected: string,
): string | undefined {
  const value = reader.string(key)
  return value === undefined ? undefined : checked(reader, key, value, is, expected)
}

function entries(
  reader: TableReader,
  key: string,
  is: (text: string) => boolean,
  expected: string,
): readonly string[] {
  const values = reader.strings(key) ?? []
  return [...new Set(values.map((value) => checked(reader, key, value, is, expected)))]
}

function checked(
  reader: TableReader,
  key: string,
  value: string,
  is: (text: string) => boolean,
  expected: string,
): string {
  if (/^[a-z]+:\/\//i.test(value)) {
    throw invalid(reader.complaint(key, `has "${value}": URI schemes are not supported`))
  }
  const trimmed = withLowerHost(value.replace(/\/+$/, ''))
  if (!is(trimmed)) throw invalid(reader.complaint(key, `has "${value}", expected ${expected}`))
  return trimmed
}

function warnUnknown(reader: TableReader, known: readonly string[], warn: Warn): void {
  for (const key of reader.keys) {
    if (!known.includes(key)) warn(reader.complaint(key, 'is not known, it has no effect'))
  }
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_CONFIG_INVALID', message)
}
