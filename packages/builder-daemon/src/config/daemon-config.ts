import { isIP } from 'node:net'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { CachePolicy } from '../core/gc/policy.js'
import { listsOf } from '../core/registries/registry-table.js'
import { readConfigFile } from './config-file.js'
import type { DaemonFlags } from './flags.js'
import { gcSettings } from './gc-settings.js'
import { readPolicyFile } from './policy-file.js'
import { readRegistriesFile } from './registries-file.js'
import { readSignaturePlaces } from './signature-places.js'
import { parseToml, type TableReader, tableReader } from './toml.js'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

export interface RegistryLists {
  readonly search: readonly string[]
  readonly insecure: readonly string[]
  readonly block: readonly string[]
}

/** How registries are spoken to; times in milliseconds. */
export interface RegistrySettings {
  /** In which a connection must bring something. */
  readonly idleTimeout: number
  readonly connectTimeout: number
  /** Attempts after a failed one, where the caller does not say. */
  readonly retries: number
  /** Before the first of them, doubled each time. */
  readonly retryDelay: number
  /** Transfers to and from one registry at once. */
  readonly maxConnections: number
  /**
   * Hosts, `*.domain`s, addresses and CIDRs that any registry may name in redirects, realms and upload locations, however
   * near to the daemon, and by plain HTTP.
   */
  readonly trustedHosts: readonly string[]
}

/** Engines of this machine that images are handed to. */
export interface EngineSettings {
  readonly dockerSocket: string
  readonly isulaSocket: string
  /** Path of the program; undefined: looked for. */
  readonly isula: string | undefined
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
  /** Path of the audit log. */
  readonly auditLog: string
  /** Name or path of the OCI runtime. */
  readonly runtime: string
  readonly storageDriver: 'overlay'
  readonly durability: 'verified' | 'strict'
  readonly maxBuilds: number
  readonly maxWaitingBuilds: number
  /** What one user built is found in the cache by all, but for what secrets, ssh agents and credentials had a part in. */
  readonly sharedCache: boolean
  /** RUN and COPY steps of all builds that run at once; undefined: as the machine's processors suggest. */
  readonly maxParallelSteps: number | undefined
  /** uids and gids that may use `--cap-add`, `--security=insecure` and `--isolation chroot`; root always may. */
  readonly privilegedUids: readonly number[]
  readonly privilegedGids: readonly number[]
  /** As they were at the start; RegistryRules follows the file. */
  readonly registries: RegistryLists
  readonly registry: RegistrySettings
  readonly engines: EngineSettings
  /** What the build cache may take. */
  readonly gc: CachePolicy
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
  const registries = readRegistriesFile(file('registries.toml'))
  readPolicyFile(file('policy.json'))
  readSignaturePlaces(file('registries.d'))
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
  const auditLog = main.string('audit_log') ?? join(dataRoot, 'audit.log')
  requireAbsolute('audit_log', auditLog)
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
    auditLog,
    runtime: main.string('runtime') ?? 'runc',
    storageDriver: 'overlay',
    durability: durability(main.string('durability'), file('configuration.toml')),
    maxBuilds: main.integer('max_builds', { min: 1, max: 1000 }) ?? 100,
    maxWaitingBuilds: main.integer('max_waiting_builds', { min: 0, max: 100_000 }) ?? 1000,
    sharedCache: main.table('cache')?.boolean('shared') ?? false,
    maxParallelSteps: main.integer('max_parallel_steps', { min: 1, max: 10_000 }),
    privilegedUids: privileged?.integers('uids') ?? [],
    privilegedGids: privileged?.integers('gids') ?? [],
    registries: listsOf(registries.table),
    registry: registrySettings(main.table('registry')),
    engines: engineSettings(main.table('engines')),
    gc: gcSettings(main.table('gc')),
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

const second = 1000
const hour = 3600 * second

function registrySettings(table: TableReader | undefined): RegistrySettings {
  return {
    idleTimeout: table?.duration('idle_timeout', { min: 100, max: hour }) ?? 60 * second,
    connectTimeout: table?.duration('connect_timeout', { min: 100, max: hour }) ?? 30 * second,
    retries: table?.integer('retries', { min: 0, max: 100 }) ?? 4,
    retryDelay: table?.duration('retry_delay', { min: 0, max: hour }) ?? second,
    maxConnections: table?.integer('max_connections', { min: 1, max: 64 }) ?? 6,
    trustedHosts: trustedHosts(table),
  }
}

function trustedHosts(table: TableReader | undefined): readonly string[] {
  const entries = table?.strings('trusted_hosts') ?? []
  const wrong = entries.find((entry) => !isTrustable(entry))
  if (table === undefined || wrong === undefined) return entries
  const expected = 'expected a host without a port, *.domain, an address or a CIDR'
  const problem = `holds ${JSON.stringify(wrong)}, ${expected}`
  throw new BuilderError('ISB_CONFIG_INVALID', table.complaint('trusted_hosts', problem))
}

function isTrustable(entry: string): boolean {
  const [address = '', bits, ...rest] = entry.split('/')
  const family = isIP(address)
  if (family === 0) return /^(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*$/i.test(entry)
  if (bits === undefined) return true
  return rest.length === 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128)
}

function engineSettings(table: TableReader | undefined): EngineSettings {
  const dockerSocket = table?.string('docker_socket') ?? '/var/run/docker.sock'
  const isulaSocket = table?.string('isula_socket') ?? '/var/run/isulad.sock'
  const isula = table?.string('isula')
  requireAbsolute('engines.docker_socket', dockerSocket)
  requireAbsolute('engines.isula_socket', isulaSocket)
  if (isula !== undefined) requireAbsolute('engines.isula', isula)
  return { dockerSocket, isulaSocket, isula }
}
