import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { readConfigFile } from './config-file.js'
import type { DaemonFlags } from './flags.js'
import { parseToml, type TableReader, tableReader } from './toml.js'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

export interface RegistryLists {
  readonly search: readonly string[]
  readonly insecure: readonly string[]
  readonly block: readonly string[]
}

/** What the daemon runs with, after precedence: flag > configuration.toml > storage.toml > default. */
export interface DaemonConfig {
  readonly socket: string
  readonly configDir: string
  readonly dataRoot: string
  readonly runRoot: string
  readonly group: string
  readonly logLevel: LogLevel
  readonly experimental: boolean
  /** Name or path of the OCI runtime. */
  readonly runtime: string
  readonly storageDriver: 'overlay'
  readonly durability: 'verified' | 'strict'
  readonly maxBuilds: number
  readonly maxWaitingBuilds: number
  /** uids and gids that may use `--cap-add`, `--security=insecure` and `--isolation chroot`; root always may. */
  readonly privilegedUids: readonly number[]
  readonly privilegedGids: readonly number[]
  readonly registries: RegistryLists
  /** Things worth a line in the log, found while reading. */
  readonly warnings: readonly string[]
}

const levels: readonly LogLevel[] = ['debug', 'info', 'warn', 'error']

/** Reads the four files and merges them with the flags. Fails with ISB_CONFIG_INVALID. */
export function loadConfig(flags: DaemonFlags): DaemonConfig {
  const warnings: string[] = []
  const file = (name: string): string => join(flags.configDir, name)
  const optional = (name: string): TableReader => {
    const text = readConfigFile(file(name))
    if (text !== undefined) return tableReader(parseToml(text, file(name)), text, file(name))
    warnings.push(`Config file "${file(name)}" missing, the default configuration is used`)
    return tableReader({}, '', file(name))
  }
  const storageFile = optional('storage.toml')
  const storage = storageFile.table('storage')
  const registries = readRegistries(file('registries.toml'))
  requirePolicy(file('policy.json'))
  const main = optional('configuration.toml')

  const driver = flags.storageDriver ?? storage?.string('driver') ?? 'overlay'
  if (driver !== 'overlay' && driver !== 'overlay2') {
    throw new BuilderError(
      'ISB_CONFIG_INVALID',
      `storage driver "${driver}" is not supported, only overlay is`,
    )
  }
  const dataRoot =
    flags.dataRoot ?? main.string('data_root') ?? storage?.string('graphroot') ?? '/var/lib/isula-build'
  const runRoot =
    flags.runRoot ?? main.string('run_root') ?? storage?.string('runroot') ?? '/var/run/isula-build'
  requireAbsolute('dataroot', dataRoot)
  requireAbsolute('runroot', runRoot)
  if (sameOrBelow(dataRoot, runRoot) || sameOrBelow(runRoot, dataRoot)) {
    throw new BuilderError(
      'ISB_CONFIG_INVALID',
      `runroot("${runRoot}") and dataroot("${dataRoot}") must be different paths`,
    )
  }
  for (const option of flags.storageOpts) warnings.push(`--storage-opt ${option} has no effect`)
  const privileged = main.table('privileged')
  return {
    socket: flags.socket,
    configDir: flags.configDir,
    dataRoot,
    runRoot,
    group: flags.group ?? main.string('group') ?? 'isula',
    logLevel: logLevel(flags, main, file('configuration.toml')),
    experimental: flags.experimental ?? main.boolean('experimental') ?? false,
    runtime: main.string('runtime') ?? 'runc',
    storageDriver: 'overlay',
    durability: durability(main.string('durability'), file('configuration.toml')),
    maxBuilds: main.integer('max_builds', { min: 1, max: 1000 }) ?? 100,
    maxWaitingBuilds: main.integer('max_waiting_builds', { min: 0, max: 100_000 }) ?? 1000,
    privilegedUids: privileged?.integers('uids') ?? [],
    privilegedGids: privileged?.integers('gids') ?? [],
    registries,
    warnings,
  }
}

function logLevel(flags: DaemonFlags, main: TableReader, file: string): LogLevel {
  if (flags.debug || main.boolean('debug') === true) return 'debug'
  const text = flags.logLevel ?? main.string('loglevel') ?? 'info'
  const level = levels.find((known) => known === text)
  if (level === undefined) {
    const where = flags.logLevel === undefined ? `${file}: \`loglevel\`` : '--log-level'
    throw new BuilderError(
      'ISB_CONFIG_INVALID',
      `${where} is "${text}", expected one of ${levels.join(', ')}`,
    )
  }
  return level
}

function durability(text: string | undefined, file: string): 'verified' | 'strict' {
  if (text === undefined || text === 'verified' || text === 'strict') return text ?? 'verified'
  throw new BuilderError(
    'ISB_CONFIG_INVALID',
    `${file}: \`durability\` is "${text}", expected verified or strict`,
  )
}

function requireAbsolute(name: string, path: string): void {
  if (!path.startsWith('/') || path.includes('\0')) {
    throw new BuilderError('ISB_CONFIG_INVALID', `${name}("${path}") must be an absolute path`)
  }
}

function sameOrBelow(path: string, other: string): boolean {
  const clean = (text: string): string => join(text, '/')
  return clean(path).startsWith(clean(other))
}

function readRegistries(path: string): RegistryLists {
  const text = readConfigFile(path)
  if (text === undefined) throw new BuilderError('ISB_CONFIG_INVALID', `${path} is missing`)
  const reader = tableReader(parseToml(text, path), text, path)
  const nested = reader.table('registries')
  const v1 = (name: string): readonly string[] => nested?.table(name)?.strings('registries') ?? []
  const unqualified = reader.strings('unqualified-search-registries')
  const registries = reader.tables('registry')
  if (nested !== undefined && (unqualified !== undefined || registries.length > 0)) {
    throw new BuilderError('ISB_CONFIG_INVALID', `${path}: mixing sysregistry v1/v2 is not supported`)
  }
  if (nested !== undefined) return { search: v1('search'), insecure: v1('insecure'), block: v1('block') }
  const v2 = (flag: string): readonly string[] =>
    registries.flatMap((registry) => {
      const name = registry.string('prefix') ?? registry.string('location')
      return registry.boolean(flag) === true && name !== undefined ? [name] : []
    })
  return { search: unqualified ?? [], insecure: v2('insecure'), block: v2('blocked') }
}

function requirePolicy(path: string): void {
  const text = readConfigFile(path)
  if (text === undefined) throw new BuilderError('ISB_CONFIG_INVALID', `${path} is missing`)
  let policy: unknown
  try {
    policy = JSON.parse(text)
  } catch (error) {
    throw new BuilderError('ISB_CONFIG_INVALID', `${path}: ${(error as Error).message}`, { cause: error })
  }
  const isObject = typeof policy === 'object' && policy !== null && !Array.isArray(policy)
  if (!isObject || !Array.isArray((policy as { default?: unknown }).default)) {
    throw new BuilderError('ISB_CONFIG_INVALID', `${path}: \`default\` must be a list of requirements`)
  }
}
