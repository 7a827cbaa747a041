import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type DaemonConfig, loadConfig } from './daemon-config.js'
import { parseFlags } from './flags.js'

let directory = ''
const write = (name: string, text: string | Uint8Array): void => writeFileSync(join(directory, name), text)

function load(...argv: readonly string[]): DaemonConfig {
  const outcome = parseFlags(['--config-dir', directory, ...argv], {})
  if (outcome.kind !== 'run') throw new Error(`parsed as ${outcome.kind}`)
  return loadConfig(outcome.flags)
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-config-'))
  write('registries.toml', '[registries.search]\nregistries = ["one.example"]\n')
  write('policy.json', '{ "default": [{ "type": "insecureAcceptAnything" }] }')
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

test('the optional files may be missing, with a warning each', () => {
  const config = load()
  expect(config).toMatchObject({
    dataRoot: '/var/lib/isula-build',
    runRoot: '/var/run/isula-build',
    group: 'isula',
    logLevel: 'info',
    experimental: false,
    runtime: 'runc',
    durability: 'verified',
    maxBuilds: 100,
    maxWaitingBuilds: 1000,
    privilegedUids: [],
    registries: { search: ['one.example'], insecure: [], block: [] },
  })
  expect(config.warnings).toEqual(
    ['storage.toml', 'configuration.toml'].map(
      (name) => `Config file "${join(directory, name)}" missing, the default configuration is used`,
    ),
  )
})

test('the audit log lies in the data root, or where the file says', () => {
  expect(load().auditLog).toBe('/var/lib/isula-build/audit.log')
  expect(load('--dataroot=/d').auditLog).toBe('/d/audit.log')
  write('configuration.toml', 'audit_log = "/var/log/isula/audit.log"\n')
  expect(load('--dataroot=/d').auditLog).toBe('/var/log/isula/audit.log')
  write('configuration.toml', 'audit_log = "audit.log"\n')
  expect(() => load()).toThrow('audit_log("audit.log") must be an absolute path')
})

test('a flag wins over configuration.toml, which wins over storage.toml', () => {
  write('storage.toml', '[storage]\ngraphroot = "/s/data"\nrunroot = "/s/run"\n')
  expect(load()).toMatchObject({ dataRoot: '/s/data', runRoot: '/s/run' })
  write(
    'configuration.toml',
    'data_root = "/m/data"\nrun_root = "/m/run"\ngroup = "g"\nloglevel = "warn"\nexperimental = true\n',
  )
  expect(load()).toMatchObject({
    ...{ dataRoot: '/m/data', runRoot: '/m/run', group: 'g', logLevel: 'warn', experimental: true },
  })
  expect(
    load('--dataroot=/f/data', '--runroot=/f/run', '--group=h', '--log-level=error', '--experimental'),
  ).toMatchObject({ dataRoot: '/f/data', runRoot: '/f/run', group: 'h', logLevel: 'error' })
})

test('debug in the file or as a flag is the level debug', () => {
  expect(load('-D', '--log-level', 'error').logLevel).toBe('debug')
  write('configuration.toml', 'debug = true\nloglevel = "error"\n')
  expect(load().logLevel).toBe('debug')
})

test('unknown keys are ignored, as the original does', () => {
  write('configuration.toml', 'debug = false\nsome_day = 1\n[later]\nx = 2\n')
  expect(load().logLevel).toBe('info')
})

test('every other key of configuration.toml arrives', () => {
  write(
    'configuration.toml',
    `runtime = "/usr/bin/crun"
durability = "strict"
max_builds = 3
max_waiting_builds = 0
max_parallel_steps = 7
[privileged]
uids = [1000, 1001]
gids = [27]
`,
  )
  expect(load()).toMatchObject({
    ...{ runtime: '/usr/bin/crun', durability: 'strict', maxBuilds: 3, maxWaitingBuilds: 0 },
    maxParallelSteps: 7,
    ...{ privilegedUids: [1000, 1001], privilegedGids: [27] },
  })
})

test('[registry] has defaults, and takes seconds and durations', () => {
  const defaults = { idleTimeout: 60_000, connectTimeout: 30_000, retries: 4, retryDelay: 1000 }
  expect(load().registry).toEqual({ ...defaults, maxConnections: 6, trustedHosts: [] })
  write(
    'configuration.toml',
    '[registry]\nidle_timeout = 1.5\nconnect_timeout = "1m30s"\nretries = 0\nretry_delay = "250ms"\nmax_connections = 2\ntrusted_hosts = ["10.0.0.0/8", "minio.internal", "*.corp", "fd00::1"]\n',
  )
  expect(load().registry).toEqual({
    ...{ idleTimeout: 1500, connectTimeout: 90_000, retries: 0, retryDelay: 250 },
    maxConnections: 2,
    trustedHosts: ['10.0.0.0/8', 'minio.internal', '*.corp', 'fd00::1'],
  })
})

test('a scope that two files of registries.d configure is refused at the start', () => {
  mkdirSync(join(directory, 'registries.d'))
  write('registries.d/a.yaml', 'default-docker:\n  lookaside: file:///a\n')
  write('registries.d/b.yaml', 'default-docker:\n  lookaside: file:///b\n')
  expect(() => load()).toThrow(/b\.yaml:1: `default-docker` is configured in .*a\.yaml already/)
})

test.each([
  ['loglevel = "loud"\n', /configuration\.toml: `loglevel` is "loud", expected one of debug/],
  ['durability = "maybe"\n', /configuration\.toml: `durability` is "maybe"/],
  ['x = 1\nmax_builds = 0\n', /configuration\.toml:2: `max_builds` must be between 1 and 1000/],
  ['[privileged]\nuids = ["root"]\n', /configuration\.toml:2: `privileged\.uids` must be a list of whole/],
  ['[registry]\nidle_timeout = 0\n', /:2: `registry\.idle_timeout` must be between 0\.1 and 3600 seconds/],
  ['[registry]\nretry_delay = "soon"\n', /:2: `registry\.retry_delay` must be seconds, or a duration like/],
  ['[registry]\nmax_connections = 65\n', /:2: `registry\.max_connections` must be between 1 and 64/],
  ['[registry]\ntrusted_hosts = "x"\n', /:2: `registry\.trusted_hosts` must be a list of strings/],
  [
    '[registry]\ntrusted_hosts = ["10.0.0.0/33"]\n',
    /:2: `registry\.trusted_hosts` holds "10\.0\.0\.0\/33", expected/,
  ],
  ['[registry]\ntrusted_hosts = ["minio:9000"]\n', /holds "minio:9000", expected a host without a port/],
  ['[registry]\ntrusted_hosts = ["*"]\n', /holds "\*", expected/],
  ['debug = 1\n', /configuration\.toml:1: `debug` must be true or false/],
  ['debug = \n', /configuration\.toml:1:\d+: /],
  ['data_root = "relative"\n', /dataroot\("relative"\) must be an absolute path/],
  ['run_root = "./x"\n', /runroot\("\.\/x"\) must be an absolute path/],
])('configuration.toml with %j is refused', (text, message) => {
  write('configuration.toml', text)
  expect(() => load()).toThrow(expect.objectContaining({ code: 'ISB_CONFIG_INVALID' }))
  expect(() => load()).toThrow(message)
})

test.each([
  ['/a', '/a'],
  ['/a/', '/a'],
  ['/a', '/a/b'],
  ['/a/b/..', '/a'],
  ['/a/b', '/a'],
])('data root %s and run root %s are not different', (data, run) => {
  expect(() => load('--dataroot', data, '--runroot', run)).toThrow(
    `runroot("${run}") and dataroot("${data}") must be different paths`,
  )
})

test('roots that only begin alike are different', () => {
  expect(load('--dataroot', '/a/data', '--runroot', '/a/data-run').dataRoot).toBe('/a/data')
})

test('no storage driver but overlay is supported', () => {
  expect(() => load('--storage-driver', 'vfs')).toThrow('storage driver "vfs" is not supported')
  write('storage.toml', '[storage]\ndriver = "btrfs"\n')
  expect(() => load()).toThrow('storage driver "btrfs" is not supported')
  expect(load('--storage-driver', 'overlay2').storageDriver).toBe('overlay')
})

describe.each(['registries.toml', 'policy.json', 'storage.toml', 'configuration.toml'])('%s', (name) => {
  const path = (): string => join(directory, name)
  const refused = (reason: string | RegExp): void => {
    expect(() => load()).toThrow(expect.objectContaining({ code: 'ISB_CONFIG_INVALID' }))
    expect(() => load()).toThrow(reason)
  }

  test('must not be empty', () => {
    write(name, '')
    refused(`${path()} is empty`)
  })

  test('must not be larger than 1 MiB', () => {
    write(name, Buffer.alloc(1024 * 1024 + 1, '#'))
    refused(`${path()} is 1048577 bytes, the limit is 1 MiB`)
  })

  test('must not be a directory', () => {
    rmSync(path(), { force: true })
    mkdirSync(path())
    refused(`${path()} is not a regular file`)
  })

  test('must not be a FIFO, which is not waited for', () => {
    rmSync(path(), { force: true })
    execFileSync('mkfifo', [path()])
    refused(`${path()} is not a regular file`)
  })

  test('must be well-formed', () => {
    write(name, '{"default": [}\n= 3\n')
    refused(`${path()}:`)
  })
})

test.each(['registries.toml', 'policy.json'])('%s must exist', (name) => {
  rmSync(join(directory, name))
  expect(() => load()).toThrow(`${join(directory, name)} is missing`)
})

test.each([
  ...['[]', '"x"', 'null'].map((text) => [text, 'the policy must be an object'] as const),
  ...['{}', '{"default": 1}'].map((text) => [text, '`default` must be a list of requirements'] as const),
])('a policy of %s is refused', (text, reason) => {
  write('policy.json', text)
  expect(() => load()).toThrow(`policy.json:1: ${reason}`)
})

describe('registries.toml', () => {
  test('may be of version 2', () => {
    write(
      'registries.toml',
      `unqualified-search-registries = ["a.example", "b.example"]
[[registry]]
prefix = "*.test"
location = "x.test"
insecure = true
[[registry]]
location = "bad.example"
blocked = true
`,
    )
    expect(load().registries).toEqual({
      search: ['a.example', 'b.example'],
      insecure: ['*.test'],
      block: ['bad.example'],
    })
  })

  test.each([
    'unqualified-search-registries = ["a"]\n[registries.search]\nregistries = ["b"]\n',
    '[registries.search]\nregistries = ["b"]\n[[registry]]\nlocation = "a"\n',
  ])('must not mix the versions: %j', (text) => {
    write('registries.toml', text)
    expect(() => load()).toThrow('mixing sysregistry v1/v2 is not supported')
  })

  test('names the line of a wrong type', () => {
    write('registries.toml', '[registries.search]\nregistries = []\n[registries.block]\nregistries = "x"\n')
    expect(() => load()).toThrow(
      /registries\.toml:4: `registries\.block\.registries` must be a list of strings/,
    )
  })
})
