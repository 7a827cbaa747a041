import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { expect } from 'vitest'
import { type RawEntry, rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import { connect } from '../../packages/client/src/connect.js'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import type { DaemonOptions } from '../../scripts/lib/daemon.mjs'
import { type ClientEnd, createDaemonBench, type DaemonBench, eventually } from './daemon-bench.js'
import { outlineTree, snapshotTree } from './tree-snapshot.js'

/** No hostile input may keep anybody busy for longer. */
const patience = 20_000

export interface Refusal {
  /** What standard error says. */
  readonly message?: RegExp
  /** Exit code; 1 when not given. */
  readonly exit?: number
}

/** A daemon, and beside it a tree that nothing given to the daemon may read or change. */
export interface HostileBench extends AsyncDisposable {
  readonly bench: DaemonBench
  /** Directory with files `secret`, `victim` and `empty`, and an empty directory `hollow`. */
  readonly canary: string
  /** Content of `secret`. */
  readonly secret: string
  /** The same place as a path that climbs to the root first. */
  readonly climbing: string
  /** Runs the client; whatever comes of it, it ends soon and tells nothing of the canary. */
  client(...args: readonly string[]): Promise<ClientEnd>
  accepted(...args: readonly string[]): Promise<string>
  /** The client says in one error what is wrong; gives its standard error. */
  refused(refusal: Refusal, ...args: readonly string[]): Promise<string>
  /** Arguments that build this; `files` go into the context. */
  buildOf(dockerfile: string | Buffer, files?: Readonly<Record<string, string | Buffer>>): readonly string[]
  /** Imports a root file system of a shell and these entries; gives its name. */
  imported(...entries: readonly RawEntry[]): Promise<string>
  /** Writes a file and gives its path. */
  file(content: string | Buffer): string
  /** Condition U: the canary is as it was, the daemon is the same one, answers, and has left nothing behind. */
  expectUnharmed(): Promise<void>
  /** The highest resident size of the daemon since the last call, in bytes. */
  peakMemory(): number
}

function makeCanary(directory: string, secret: string): void {
  mkdirSync(join(directory, 'hollow'), { recursive: true })
  for (const [name, content] of [
    ['secret', secret],
    ['victim', randomBytes(64).toString('hex')],
    ['empty', ''],
  ] as const) {
    writeFileSync(join(directory, name), content, { mode: 0o600 })
  }
  chmodSync(directory, 0o711)
}

/** Programs that run below a process, by name. */
export function programsBelow(pid: number): readonly string[] {
  const children = (parent: number): number[] => {
    try {
      return readdirSync(`/proc/${parent}/task`).flatMap((task) =>
        readFileSync(`/proc/${parent}/task/${task}/children`, 'latin1')
          .split(' ')
          .filter(Boolean)
          .map(Number),
      )
    } catch {
      // The process has ended meanwhile.
      return []
    }
  }
  return children(pid).flatMap((child) => {
    try {
      return [basename(readlinkSync(`/proc/${child}/exe`)), ...programsBelow(child)]
    } catch {
      return []
    }
  })
}

/** Files below `directory` that hold `text`; names are bytes, so this is not for Node. */
export function filesHolding(directory: string, text: string): readonly string[] {
  const args = ['-rlF', '--devices=skip', '-e', text, directory]
  const { status, stdout, stderr } = spawnSync('grep', args, { encoding: 'utf8' })
  if (status !== 0 && status !== 1) throw new Error(stderr)
  return stdout.split('\n').filter((path) => path !== '')
}

const hostDirectories = ['/etc', '/srv', '/root/.ssh', '/usr/local/bin', '/usr/local/sbin']

export async function createHostileBench(options: DaemonOptions = {}): Promise<HostileBench> {
  const secret = `canary-${randomBytes(16).toString('hex')}`
  const hostBefore = hostDirectories.flatMap(outlineTree)
  const bench = await createDaemonBench(options)
  const { daemon, work } = bench
  const canary = join(work, 'canary')
  makeCanary(canary, secret)
  const before = snapshotTree(canary)
  const pid = daemon.child?.pid ?? 0
  const shell: readonly RawEntry[] = [
    { name: 'bin/busybox', content: readFileSync(join(work, 'base/bin/busybox')), mode: 0o755 },
    { name: 'bin/sh', type: '2', link: 'busybox' },
  ]
  let files = 0
  let logged = 0

  const hostile: HostileBench = {
    bench,
    canary,
    secret,
    climbing: `${'../'.repeat(24)}${canary.slice(1)}`,
    async client(...args) {
      const began = performance.now()
      const end = await bench.client(args).ended
      expect(performance.now() - began, args.join(' ')).toBeLessThan(patience)
      expect(end.signal).toBe(null)
      for (const text of [end.stdout, end.stderr]) {
        expect(text).not.toContain(secret)
        expect(text, 'a stack trace').not.toMatch(/^\s+at .*[:(]/m)
      }
      return end
    },
    async accepted(...args) {
      const { status, stdout, stderr } = await hostile.client(...args)
      expect(`exit ${status}\n${status === 0 ? '' : stderr}`).toBe('exit 0\n')
      return stdout
    },
    async refused({ message = /./, exit = 1 }, ...args) {
      const { status, stdout, stderr } = await hostile.client(...args)
      expect(`exit ${status}\n${status === exit ? '' : stdout + stderr}`).toBe(`exit ${exit}\n`)
      expect(stderr).toMatch(message)
      expect(stderr, 'an error nobody thought of').not.toMatch(
        /Please report|ISB_|rpc error|undefined|\[object/,
      )
      expect(stderr.trim().split('\n').length, stderr).toBeLessThan(16)
      return stderr
    },
    buildOf(dockerfile, given = {}) {
      const directory = bench.context('')
      writeFileSync(join(directory, 'Dockerfile'), dockerfile)
      for (const [name, content] of Object.entries(given)) writeFileSync(join(directory, name), content)
      return ['ctr-img', 'build', directory]
    },
    async imported(...entries) {
      const name = `imported-${files}:1`
      await hostile.accepted('ctr-img', 'import', hostile.file(rawTar(...shell, ...entries)), name)
      return name
    },
    file(content) {
      const path = join(work, `file-${files++}`)
      writeFileSync(path, content)
      return path
    },
    async expectUnharmed() {
      expect(snapshotTree(canary)).toEqual(before)
      expect(daemon.child?.exitCode).toBe(null)
      expect(statSync(`/proc/${pid}`).isDirectory()).toBe(true)
      expect(readFileSync(`/proc/${pid}/stat`, 'latin1')).not.toMatch(/\) Z /)
      const connection = await connect(daemon.host, '3s')
      const began = performance.now()
      try {
        await connection.unary(builderService.Images, { filter: '' })
      } finally {
        connection.close()
      }
      expect(performance.now() - began).toBeLessThan(3000)
      await bench.expectSound()
      const others = () => programsBelow(pid).filter((name) => name !== 'node')
      expect(await eventually(others, (names) => names.length === 0)).toEqual([])
      const log = readFileSync(daemon.log)
      const news = log.toString('utf8', logged).split('\n')
      logged = log.length
      expect(news.filter((line) => line.includes(secret))).toEqual([])
      expect(news.filter((line) => /unhandled|uncaught|ISB_INTERNAL|"level":(50|60)/i.test(line))).toEqual([])
    },
    peakMemory() {
      const status = readFileSync(`/proc/${pid}/status`, 'latin1')
      writeFileSync(`/proc/${pid}/clear_refs`, '5')
      return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]) * 1024
    },
    async [Symbol.asyncDispose]() {
      try {
        // Also raw in the database and in layers that were thrown away only in name.
        expect(filesHolding(daemon.directory, secret)).toEqual([])
        expect(hostDirectories.flatMap(outlineTree)).toEqual(hostBefore)
      } finally {
        await bench[Symbol.asyncDispose]()
      }
    },
  }
  return hostile
}
