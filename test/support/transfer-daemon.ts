import { randomBytes } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import { rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import {
  type ClientEnd,
  createDaemonBench,
  type DaemonBench,
  type RunningClient,
  runClient,
} from './daemon-bench.js'

export interface TransferDaemonOptions {
  /** Lines of `[registry]` in configuration.toml, after those that make it impatient. */
  readonly registry?: Readonly<Record<string, string | number>>
  /** Files of the configuration directory. */
  readonly files?: Readonly<Record<string, string>>
  readonly env?: Readonly<Record<string, string>>
  readonly through?: readonly string[]
}

/** A daemon with little patience for registries, and the commands that speak to them. */
export interface TransferDaemon extends AsyncDisposable {
  readonly bench: DaemonBench
  readonly configDir: string
  /** Runs `ctr-img ARGS` (`login` and `logout` as they are); whatever comes of it, it ends soon and the daemon is the same. */
  run(...args: readonly string[]): Promise<ClientEnd>
  start(...args: readonly string[]): RunningClient
  /** `login --password-stdin`. */
  login(server: string, username: string, password: string): Promise<ClientEnd>
  /** The same, expected to succeed; gives both outputs. */
  ok(...args: readonly string[]): Promise<string>
  /** Expected to fail with one clear error; gives its text. */
  fails(...args: readonly string[]): Promise<string>
  /** Names of images, but for the base image. */
  names(): Promise<readonly string[]>
  /** Removes all images but the base image. */
  clear(): Promise<void>
  /** An image of layers of these sizes in bytes that were never seen before, as `name`. */
  load(name: string, sizes?: readonly number[]): Promise<string>
  /** What the daemon has logged so far. */
  log(): string
}

/** Seconds. */
export const patience = { idle: 1, delay: 0.02, retries: 4 }

const slowest = 30_000

export async function startTransferDaemon(options: TransferDaemonOptions = {}): Promise<TransferDaemon> {
  const configDir = mkdtempSync(join(tmpdir(), 'isula-config-'))
  const remove = (): void => rmSync(configDir, { recursive: true, force: true })
  cpSync(new URL('../../etc', import.meta.url), configDir, { recursive: true })
  const registry = {
    ...{ idle_timeout: `"${patience.idle}s"`, connect_timeout: '"2s"' },
    ...{ retries: patience.retries, retry_delay: `"${patience.delay * 1000}ms"`, ...options.registry },
  }
  const lines = Object.entries(registry).map(([key, value]) => `${key} = ${value}`)
  writeFileSync(join(configDir, 'configuration.toml'), `[registry]\n${lines.join('\n')}\n`)
  for (const [name, text] of Object.entries(options.files ?? {})) {
    mkdirSync(join(configDir, name, '..'), { recursive: true })
    writeFileSync(join(configDir, name), text)
  }
  const { env, through } = options
  let bench: DaemonBench
  try {
    bench = await createDaemonBench({
      args: ['--config-dir', configDir],
      ...(env !== undefined && { env }),
      ...(through !== undefined && { through }),
    })
  } catch (error) {
    remove()
    throw error
  }
  let loaded = 0

  const daemon: TransferDaemon = {
    bench,
    configDir,
    start: (...args) => bench.client(/^log(in|out)$/.test(args[0] ?? '') ? args : ['ctr-img', ...args]),
    async login(server, username, password) {
      const args = ['login', '-u', username, '--password-stdin', server]
      const { child, ended } = runClient(bench.daemon, args, undefined, 'pipe')
      child.stdin?.on('error', () => undefined)
      child.stdin?.end(password)
      return await ended
    },
    async run(...args) {
      const { child, ended } = daemon.start(...args)
      const timer = setTimeout(() => child.kill('SIGKILL'), slowest)
      const end = await ended
      clearTimeout(timer)
      expect(end.signal, `${args.join(' ')} takes too long`).toBe(null)
      expect(bench.daemon.child?.exitCode).toBe(null)
      return end
    },
    async ok(...args) {
      const { status, stdout, stderr } = await daemon.run(...args)
      expect(`exit ${status}\n${status === 0 ? '' : stdout + stderr}`, args.join(' ')).toBe('exit 0\n')
      return stdout + stderr
    },
    async fails(...args) {
      const { status, stdout, stderr } = await daemon.run(...args)
      expect(`exit ${status}\n${status === 0 ? stdout : ''}`, args.join(' ')).toBe('exit 1\n')
      expect(stderr, 'an error nobody thought of').not.toMatch(
        /Please report|ISB_|rpc error|undefined|\[object|^\s+at .*[:(]/m,
      )
      return stderr
    },
    async names() {
      const images = await bench.images()
      return images.flatMap(({ names }) => names).filter((name) => !name.endsWith('base:1'))
    },
    async clear() {
      const names = await daemon.names()
      if (names.length > 0) await daemon.ok('rm', ...names)
    },
    async load(name, sizes = [200_000, 200_000]) {
      const archive = join(bench.work, `archive-${loaded++}.tar`)
      const tars = sizes.map((size, index) => rawTar({ name: `data-${index}`, content: randomBytes(size) }))
      const config = JSON.stringify({
        ...{ architecture: 'amd64', os: 'linux', created: '2024-01-01T00:00:00Z', config: {} },
        rootfs: { type: 'layers', diff_ids: tars.map(digestOf) },
        history: tars.map(() => ({ created: '2024-01-01T00:00:00Z' })),
      })
      const layers = tars.map((_, index) => `${index}.tar`)
      const manifest = JSON.stringify([{ Config: 'config.json', RepoTags: [name], Layers: layers }])
      const members = [
        ...tars.map((content, index) => ({ name: `${index}.tar`, content })),
        { name: 'config.json', content: Buffer.from(config) },
        { name: 'manifest.json', content: Buffer.from(manifest) },
      ]
      writeFileSync(archive, rawTar(...members))
      await daemon.ok('load', '-i', archive)
      rmSync(archive)
      return name
    },
    log: () => (existsSync(bench.daemon.log) ? readFileSync(bench.daemon.log, 'utf8') : ''),
    async [Symbol.asyncDispose]() {
      try {
        await bench[Symbol.asyncDispose]()
      } finally {
        remove()
      }
    },
  }
  return daemon
}
