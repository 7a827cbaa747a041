import { copyFileSync, existsSync, linkSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RunExit, RunSpec, RuntimeMount } from '../../packages/builder-daemon/src/ports/runtime.js'
import {
  createRuntime,
  type LaunchedRuntime,
  type RuntimeOptions,
} from '../../packages/builder-daemon/src/runtime/launcher-client.js'
import { silentLogger } from './silent-logger.js'

export const busybox = '/bin/busybox'
const applets =
  'sh cat ls echo grep id sleep mkdir rm ln touch stat mount umount kill mknod head ps true false env pwd hostname unshare chmod wc tr find test chroot seq yes ulimit ip dd setsid printf'

/** Roots of a daemon and layers to run commands in, all below one temporary directory. */
export interface RuntimeFixture extends AsyncDisposable {
  readonly directory: string
  readonly dataRoot: string
  readonly runRoot: string
  readonly runtime: LaunchedRuntime
  /** A new layer below the data root; gives what `lowers` wants. */
  layer(fill: (directory: string) => void): string
  /** Runs a command in the base image. */
  run(command: string | readonly string[], change?: Partial<RunSpec>, signal?: AbortSignal): Promise<Ran>
  spec(command: string | readonly string[], change?: Partial<RunSpec>): RunSpec
  /** Name of the base layer: a busybox with /etc/passwd and the usual directories. */
  readonly base: string
  /** Ends the runtime and starts another one on the same roots. */
  restart(change?: Partial<RuntimeOptions>): Promise<LaunchedRuntime>
}

export interface Ran {
  readonly exit: RunExit
  readonly output: string
  readonly upper: string
  readonly spec: RunSpec
}

export async function makeRuntime(options: {
  readonly launcherEntry: string
  readonly isolation: 'oci' | 'chroot'
  readonly change?: Partial<RuntimeOptions>
}): Promise<RuntimeFixture> {
  const directory = mkdtempSync(join(tmpdir(), 'isula-build-runtime-'))
  const dataRoot = join(directory, 'data')
  const runRoot = join(directory, 'run')
  for (const path of [join(dataRoot, 'l'), join(dataRoot, 'staging'), runRoot]) {
    mkdirSync(path, { recursive: true })
  }
  let count = 0
  const start = (change: Partial<RuntimeOptions> = {}): Promise<LaunchedRuntime> =>
    createRuntime({
      launcherEntry: options.launcherEntry,
      dataRoot,
      runRoot,
      runtimePath: '/usr/sbin/runc',
      log: silentLogger,
      ...options.change,
      ...change,
    })
  const layer = (fill: (path: string) => void): string => {
    count += 1
    const name = `l/L${count}`
    mkdirSync(join(dataRoot, name))
    fill(join(dataRoot, name))
    return name
  }
  const base = layer(fillBase)
  let runtime = await start()
  const spec: RuntimeFixture['spec'] = (command, change = {}) => {
    count += 1
    const staging = join(dataRoot, 'staging', `s${count}`)
    const upper = join(staging, 'upper')
    const work = join(staging, 'work')
    mkdirSync(upper, { recursive: true })
    mkdirSync(work)
    return {
      id: `run-${count}`,
      lowers: [base],
      upper,
      work,
      args: typeof command === 'string' ? ['/bin/sh', '-c', command] : command,
      env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root'],
      cwd: '/',
      user: { uid: 0, gid: 0, additionalGids: [] },
      mounts: [],
      network: 'host',
      addCapabilities: [],
      insecure: false,
      isolation: options.isolation,
      hostname: undefined,
      platform: { os: 'linux', architecture: 'amd64' },
      spool: join(staging, 'spool'),
      ...change,
    }
  }
  return {
    directory,
    dataRoot,
    runRoot,
    get runtime() {
      return runtime
    },
    layer,
    base,
    spec,
    async run(command, change, signal = new AbortController().signal) {
      const made = spec(command, change)
      const exit = await runtime.run(made, signal)
      const output = existsSync(made.spool) ? readFileSync(made.spool, 'utf8') : ''
      return { exit, output, upper: made.upper, spec: made }
    },
    async restart(change) {
      await runtime[Symbol.asyncDispose]()
      runtime = await start(change)
      return runtime
    },
    async [Symbol.asyncDispose]() {
      await runtime[Symbol.asyncDispose]()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** A busybox with the directories images have. */
export function fillBase(directory: string): void {
  for (const name of ['bin', 'etc', 'tmp', 'root', 'proc', 'sys', 'dev', 'var', 'run']) {
    mkdirSync(join(directory, name))
  }
  fillPrograms(directory)
}

export function fillPrograms(directory: string): void {
  mkdirSync(join(directory, 'bin'), { recursive: true })
  copyFileSync(busybox, join(directory, 'bin/busybox'))
  for (const name of applets.split(' '))
    linkSync(join(directory, 'bin/busybox'), join(directory, 'bin', name))
}

/** A base without /dev, /proc, /sys and /etc. */
export function onlyPrograms(fixture: RuntimeFixture): string {
  return fixture.layer(fillPrograms)
}

let scratches = 0
/** An empty directory for the throw-away upper of a mount. */
export function newScratch(fixture: RuntimeFixture): string {
  scratches += 1
  const scratch = join(fixture.dataRoot, 'staging', `scratch${scratches}`)
  mkdirSync(scratch)
  return scratch
}

export function secretMount(target: string, content: string): Extract<RuntimeMount, { type: 'file' }> {
  return { type: 'file', target, content: Buffer.from(content), mode: 0o400, uid: 0, gid: 0 }
}

/** Looks every 20 ms, for 10 s. */
export async function waitFor<T>(look: () => T | undefined): Promise<T> {
  for (let waited = 0; waited < 10_000; waited += 20) {
    const found = look()
    if (found !== undefined) return found
    await sleep(20)
  }
  throw new Error('waited in vain')
}
