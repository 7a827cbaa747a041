import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { type Connection, connect } from '../../packages/client/src/connect.js'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import type { Image } from '../../packages/shared/src/rpc/image-messages.js'
import { startDaemon, type TestDaemon } from '../../scripts/lib/daemon.mjs'
import { mountsBelow, processesUsing } from './daemon-leftovers.js'
import { leftovers } from './runtime-leftovers.js'
import { inspectStore } from './store-inspection.js'

export interface ClientEnd {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface RunningClient {
  readonly child: ChildProcess
  readonly ended: Promise<ClientEnd>
}

/** A daemon with a base image `base:1` (a static busybox) and what tests of faults do to it. */
export interface DaemonBench extends AsyncDisposable {
  readonly daemon: TestDaemon
  readonly data: string
  readonly run: string
  /** For files of the test. */
  readonly work: string
  /** Archive of the base image's root file system. */
  readonly baseTar: string
  /** Starts the client, with its input and output in pipes. */
  client(args: readonly string[]): RunningClient
  /** Runs `ctr-img ARGS` and expects it to succeed; gives its standard output. */
  image(...args: readonly string[]): Promise<string>
  /** A directory with this Dockerfile. */
  context(dockerfile: string): string
  /** A connection of this process; it ends with the daemon. */
  connect(): Promise<Connection>
  images(): Promise<readonly Image[]>
  prune(): Promise<void>
  /** `kill -9`, or another signal, and the end of the daemon's own process. */
  kill(signal?: NodeJS.Signals): Promise<void>
  /** Starts the daemon again; milliseconds from exec to its answer to `version`. */
  restart(): Promise<number>
  /** Nothing is under way: I1 to I7 hold, and what was thrown away is gone. */
  expectSound(): Promise<void>
}

/** Bytes allocated below a directory. */
export function diskUsage(directory: string): number {
  let total = 0
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    const stat = lstatSync(path, { throwIfNoEntry: false })
    if (stat === undefined) continue
    total += stat.blocks * 512
    if (entry.isDirectory()) total += diskUsage(path)
  }
  return total
}

/** Waits until `holds`; its last answer is what a failing test shows. */
export async function eventually<T>(
  look: () => T | Promise<T>,
  holds: (value: T) => boolean,
  timeout = 15_000,
): Promise<T> {
  const deadline = Date.now() + timeout
  for (;;) {
    const value = await look()
    if (holds(value) || Date.now() > deadline) return value
    await sleep(20)
  }
}

function makeBaseTar(work: string): string {
  const root = join(work, 'base')
  for (const name of ['bin', 'etc', 'tmp', 'root']) mkdirSync(join(root, name), { recursive: true })
  const busybox = ['/bin/busybox', '/usr/bin/busybox'].find((path) => existsSync(path))
  if (busybox === undefined) throw new Error('busybox is not installed')
  copyFileSync(busybox, join(root, 'bin/busybox'))
  for (const name of ['sh', 'cat', 'dd', 'echo', 'sleep', 'seq', 'mkdir', 'yes', 'head', 'true']) {
    symlinkSync('busybox', join(root, 'bin', name))
  }
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n')
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\n')
  const tar = join(work, 'base.tar')
  execFileSync('tar', ['-C', root, '--owner=0', '--group=0', '-cf', tar, '.'])
  return tar
}

export interface RunAs {
  readonly uid: number
  readonly gid: number
}

export function runClient(
  daemon: TestDaemon,
  args: readonly string[],
  as?: RunAs,
  input: 'ignore' | 'pipe' = 'ignore',
): RunningClient {
  const child = spawn(
    process.execPath,
    [new URL('../../bin/isula-build', import.meta.url).pathname, ...args],
    {
      env: { PATH: process.env['PATH'] ?? '', HOME: '/root', ISULABUILD_HOST: daemon.host },
      stdio: [input, 'pipe', 'pipe'],
      ...as,
    },
  )
  let stdout = ''
  let stderr = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const ended = new Promise<ClientEnd>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (status, signal) => resolve({ status, signal, stdout, stderr }))
  })
  return { child, ended }
}

export interface BenchOptions {
  readonly group?: string
  /** More flags of the daemon. */
  readonly args?: readonly string[]
  /** Added to the daemon's environment. */
  readonly env?: Readonly<Record<string, string>>
  /** Below the daemon's own directory when not given. */
  readonly dataRoot?: string
  readonly runRoot?: string
  /** A command that becomes the daemon. */
  readonly through?: readonly string[]
}

export async function createDaemonBench(options: BenchOptions = {}): Promise<DaemonBench> {
  const { group } = options
  const work = mkdtempSync(join(tmpdir(), 'isula-fault-'))
  const directory = join(work, 'daemon')
  const data = options.dataRoot ?? join(directory, 'data')
  const run = options.runRoot ?? join(directory, 'run')
  const temporary = join(work, 'tmp')
  mkdirSync(temporary)
  let daemon: TestDaemon
  try {
    daemon = await startDaemon({
      directory,
      args: ['--dataroot', data, '--runroot', run, ...(options.args ?? [])],
      ...(group === undefined ? {} : { group }),
      ...(options.through === undefined ? {} : { through: options.through }),
      env: { TMPDIR: temporary, ...options.env },
    })
  } catch (error) {
    rmSync(work, { recursive: true, force: true })
    throw error
  }
  let contexts = 0

  const bench: DaemonBench = {
    daemon,
    data,
    run,
    work,
    baseTar: makeBaseTar(work),
    client: (args) => runClient(daemon, args),
    async image(...args) {
      const { status, stdout, stderr } = await runClient(daemon, ['ctr-img', ...args]).ended
      if (status !== 0) throw new Error(`ctr-img ${args.join(' ')}: exit ${status}\n${stdout}${stderr}`)
      return stdout
    },
    context(dockerfile) {
      const directory = join(work, `context-${contexts++}`)
      mkdirSync(directory)
      writeFileSync(join(directory, 'Dockerfile'), dockerfile)
      return directory
    },
    connect: () => connect(daemon.host, '10s'),
    async images() {
      const connection = await bench.connect()
      try {
        return (await connection.unary(builderService.Images, { filter: '' })).images
      } finally {
        connection.close()
      }
    },
    async prune() {
      const connection = await bench.connect()
      try {
        for await (const _ of connection.stream(builderService.Prune, { all: true }));
      } finally {
        connection.close()
      }
    },
    async kill(signal = 'SIGKILL') {
      await daemon.kill(signal)
    },
    async restart() {
      const began = performance.now()
      await daemon.start()
      return performance.now() - began
    },
    async expectSound() {
      const waste = () =>
        ['staging', 'trash'].flatMap((name) =>
          readdirSync(join(data, name)).map((entry) => `${name}/${entry}`),
        )
      expect(await eventually(waste, (entries) => entries.length === 0)).toEqual([])
      // A daemon that has just started looks itself through soon after.
      expect(
        await eventually(
          () => inspectStore(data),
          (found) => found.length === 0,
        ),
      ).toEqual([])
      // Output of RUNs, temporary files of the layer threads, and what no restart would ever find again.
      const files = () =>
        [join(run, 'output'), join(run, 'tmp'), temporary].flatMap((directory) =>
          existsSync(directory) ? readdirSync(directory) : [],
        )
      expect(await eventually(files, (entries) => entries.length === 0)).toEqual([])
      const runs = await eventually(
        () => leftovers(run),
        (left) => Object.values(left).every((list) => list.length === 0),
      )
      expect(runs).toEqual({ processes: [], mounts: [], cgroups: [], runs: [] })
      expect(mountsBelow(daemon.directory)).toEqual([])
    },
    async [Symbol.asyncDispose]() {
      await daemon.kill('SIGTERM')
      const left = await eventually(
        () => processesUsing(daemon.directory),
        (pids) => pids.length === 0,
      )
      // Node.js runs out of stack in trees as deep as a layer may be.
      execFileSync('rm', ['-rf', '--', work])
      expect(left).toEqual([])
    },
  }
  try {
    await bench.image('import', bench.baseTar, 'base:1')
  } catch (error) {
    await daemon.stop()
    rmSync(work, { recursive: true, force: true })
    throw error
  }
  return bench
}
