import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import type { Decoded, Encodable, MessageType } from '../../packages/shared/src/rpc/codec.js'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import type { Method } from '../../packages/shared/src/rpc/service.js'
import { bundleEntry } from './bundled-worker.js'
import type { UserCall, UserCallEnd } from './calls-as-user.js'
import { type ClientEnd, createDaemonBench, type DaemonBench, eventually, runClient } from './daemon-bench.js'
import { processesUsing } from './daemon-leftovers.js'
import { outlineTree, snapshotTree } from './tree-snapshot.js'

/** A user of this machine, by number only; `home` is a directory of his. */
export interface TestUser {
  readonly uid: number
  readonly gid: number
  readonly home: string
}

export interface CallEnd<Res> {
  readonly code: number
  readonly details: string
  readonly responses: readonly Res[]
  readonly milliseconds: number
}

/** What a file that only root may read is called, and what a user tries to do with the place. */
export interface Guarded {
  /** A directory of root's, mode 0700, with everything below also in it. */
  readonly directory: string
  /** A directory anybody may enter with files of mode 0600: `secret`, `Dockerfile`, `archive.tar`. */
  readonly open: string
  /** What all these files hold. */
  readonly secret: string
}

/**
 * A daemon whose socket group has members, three users of whom `eve` is no member, and files that only
 * root may read or write.
 */
export interface RightsBench extends AsyncDisposable {
  readonly bench: DaemonBench
  readonly alice: TestUser
  readonly bob: TestUser
  readonly eve: TestUser
  readonly guarded: Guarded
  /** Reachable by everybody, owned by root. */
  readonly work: string
  /** The client as this user. */
  client(user: TestUser, args: readonly string[], options?: ClientOptions): Promise<ClientEnd>
  accepted(user: TestUser, ...args: readonly string[]): Promise<string>
  /** The client fails with one clear error; gives its standard error. */
  refused(user: TestUser, message: RegExp, ...args: readonly string[]): Promise<string>
  /** Calls as this user, all at once, over one connection. */
  calls(user: TestUser, calls: readonly UserCall[], givenUp?: AbortSignal): Promise<readonly UserCallEnd[]>
  call<Req extends AnyMessage, Res extends AnyMessage>(
    user: TestUser,
    method: Method<Req, Res, boolean, boolean>,
    request: Encodable<Req>,
  ): Promise<CallEnd<Decoded<Res>>>
  /** Build and Status of the original's client; gives how Build ended and the text of Status. */
  control(
    user: TestUser,
    request: Partial<ControlBuild>,
  ): Promise<{ readonly code: number; readonly details: string; readonly log: string; readonly id: string }>
  /** A directory of the user's with these files and a Dockerfile. */
  context(
    user: TestUser,
    dockerfile: string,
    files?: Readonly<Record<string, string | Buffer>>,
    name?: string,
  ): string
  /** A name nobody else uses. */
  fresh(prefix: string): string
  /** Root's files are as they were; the daemon is the same one, answers and has left nothing behind. */
  expectUnharmed(): Promise<void>
}

export interface ClientOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  readonly input?: string | Buffer
  /** Runs this instead of node, with node's command line behind. */
  readonly through?: readonly string[]
}

type AnyMessage = MessageType<unknown, unknown>
export type ControlBuild = Decoded<(typeof controlService)['Build']['requestType']>

/** Whole calls of one method. */
export function userCall<Req extends AnyMessage, Res extends AnyMessage>(
  method: Method<Req, Res, boolean, boolean>,
  requests: readonly Encodable<Req>[],
  options: Partial<Pick<UserCall, 'end' | 'metadata' | 'patience' | 'follows'>> = {},
): UserCall {
  return {
    path: method.path,
    kind: method.requestStream ? 'duplex' : method.responseStream ? 'stream' : 'unary',
    requests: requests.map((request) => method.requestSerialize(request).toString('hex')),
    ...{ end: true, metadata: {}, patience: 60_000, follows: undefined, ...options },
  }
}

/** Of a system group that every Debian has, so that nothing needs to be added to the machine. */
const group = 'users'
const hostDirectories = ['/etc', '/root/.ssh', '/usr/local/bin', '/var/spool/cron']

function groupId(name: string): number {
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((one) => one.startsWith(`${name}:`))
  return Number(line?.split(':')[2])
}

function guard(work: string, secret: string): Guarded {
  const open = join(work, 'of-root')
  const directory = join(work, 'of-root-alone')
  for (const place of [open, directory]) {
    mkdirSync(place)
    mkdirSync(join(place, 'context'))
    for (const name of ['secret', 'Dockerfile', 'archive.tar', '.dockerignore', 'context/secret']) {
      const content = name === 'Dockerfile' ? `FROM scratch\n# ${secret}\nCOPY secret /\n` : `${secret}\n`
      writeFileSync(join(place, name), content, { mode: 0o600 })
    }
  }
  chmodSync(open, 0o755)
  chmodSync(join(open, 'context'), 0o700)
  chmodSync(directory, 0o700)
  return { directory, open, secret }
}

/** `configuration` is added to the daemon's configuration.toml. */
export async function createRightsBench(
  configuration = '',
  env: Readonly<Record<string, string>> = {},
): Promise<RightsBench> {
  const hostBefore = hostDirectories.flatMap(outlineTree)
  const work = mkdtempSync(join(tmpdir(), 'isula-rights-'))
  chmodSync(work, 0o755)
  const gid = groupId(group)
  const home = (name: string, uid: number): string => {
    const path = join(work, name)
    mkdirSync(path, { mode: 0o700 })
    chownSync(path, uid, gid)
    return path
  }
  const alice = { uid: 12345, gid, home: home('alice', 12345) }
  const bob = { uid: 12346, gid, home: home('bob', 12346) }
  const eve = { uid: 12347, gid: 12347, home: home('eve', 12347) }
  const guarded = guard(work, `guarded-${randomBytes(16).toString('hex')}`)
  const before = [guarded.directory, guarded.open].flatMap(snapshotTree)
  // A checkout need not be readable for everybody.
  const root = fileURLToPath(new URL('../../', import.meta.url))
  cpSync(join(root, 'bin'), join(work, 'program/bin'), { recursive: true })
  cpSync(join(root, 'dist/client'), join(work, 'program/dist/client'), { recursive: true })
  const program = join(work, 'program/bin/isula-build')
  const caller = fileURLToPath(await bundleEntry('test/support/calls-as-user.ts'))
  let bench: DaemonBench
  try {
    const config = join(work, 'etc')
    cpSync(join(root, 'etc'), config, { recursive: true })
    chmodSync(config, 0o700)
    appendFileSync(join(config, 'configuration.toml'), `\n${configuration}\n`)
    const args = ['--log-level', 'debug', '--config-dir', config]
    bench = await createDaemonBench({ group, args, env })
  } catch (error) {
    rmSync(work, { recursive: true, force: true })
    throw error
  }
  const { daemon } = bench
  for (const path of [bench.work, daemon.directory]) chmodSync(path, 0o711)
  const pid = daemon.child?.pid
  let last = 0

  const rights: RightsBench = {
    ...{ bench, alice, bob, eve, guarded, work },
    async client({ uid, gid: own, home: directory }, given, { env = {}, cwd, input, through = [] } = {}) {
      const [command = '', ...rest] = [...through, process.execPath, program, ...given]
      const child = spawn(command, rest, {
        cwd: cwd ?? directory,
        env: { PATH: process.env['PATH'] ?? '', HOME: directory, ISULABUILD_HOST: daemon.host, ...env },
        stdio: ['pipe', 'pipe', 'pipe'],
        ...(through.length === 0 ? { uid, gid: own } : {}),
      })
      const output: Record<'stdout' | 'stderr', string> = { stdout: '', stderr: '' }
      for (const name of ['stdout', 'stderr'] as const) {
        child[name].setEncoding('utf8').on('data', (text: string) => {
          output[name] += text
        })
      }
      // A client that refuses its arguments does not read its input.
      child.stdin.on('error', () => undefined)
      child.stdin.end(input)
      const [status, signal] = await new Promise<[number | null, NodeJS.Signals | null]>(
        (resolve, reject) => {
          child.once('error', reject)
          child.once('close', (...end) => resolve(end))
        },
      )
      for (const text of Object.values(output)) expect(text).not.toContain(guarded.secret)
      return { status, signal, ...output }
    },
    async accepted(user, ...given) {
      const { status, stdout, stderr } = await rights.client(user, given)
      expect(`exit ${status}\n${status === 0 ? '' : stderr}`).toBe('exit 0\n')
      return stdout
    },
    async refused(user, message, ...given) {
      const { status, stdout, stderr } = await rights.client(user, given)
      expect(`exit ${status}\n${status === 1 ? '' : stdout + stderr}`).toBe('exit 1\n')
      expect(stderr).toMatch(message)
      expect(stderr).not.toMatch(/Please report|ISB_|rpc error|undefined|\[object/)
      return stderr
    },
    calls(user, calls, givenUp) {
      return new Promise((resolve, reject) => {
        const child = spawn(process.execPath, [caller, daemon.socket, String(user.uid), String(user.gid)], {
          stdio: ['pipe', 'pipe', 'inherit'],
        })
        const parts: Buffer[] = []
        child.stdout.on('data', (part: Buffer) => parts.push(part))
        child.once('error', reject)
        givenUp?.addEventListener('abort', () => child.kill('SIGTERM'))
        child.once('close', (status) => {
          if (status !== 0) reject(new Error(`the calls of user ${user.uid} failed: exit ${status}`))
          else resolve(JSON.parse(Buffer.concat(parts).toString('utf8')) as readonly UserCallEnd[])
        })
        child.stdin.end(JSON.stringify(calls))
      })
    },
    async call(user, method, request) {
      const [end] = await rights.calls(user, [userCall(method, [request])])
      if (end === undefined) throw new Error('one call, one end')
      const { responses, ...rest } = end
      expect(rest.details).not.toContain(guarded.secret)
      return {
        ...rest,
        responses: responses.map((hex) => method.responseDeserialize(Buffer.from(hex, 'hex'))),
      }
    },
    async control(user, request) {
      const buildID = request.buildID ?? rights.fresh('id')
      const build = userCall(controlService.Build, [{ buildType: 'ctr-img', ...request, buildID }])
      const status = userCall(controlService.Status, [{ buildID }], { patience: 60_000, follows: 0 })
      const [built, watched] = await rights.calls(user, [build, status])
      const { responseDeserialize } = controlService.Status
      const log = (watched?.responses ?? [])
        .map((hex) => responseDeserialize(Buffer.from(hex, 'hex')).content)
        .join('')
      const reply = built?.responses[0]
      const id =
        reply === undefined ? '' : controlService.Build.responseDeserialize(Buffer.from(reply, 'hex')).imageID
      const details = built?.details ?? ''
      for (const text of [log, details]) expect(text).not.toContain(guarded.secret)
      return { code: built?.code ?? -1, details, log, id }
    },
    context(user, dockerfile, files = {}, name = rights.fresh('context')) {
      const directory = join(user.home, name)
      mkdirSync(directory)
      for (const [file, content] of Object.entries({ Dockerfile: dockerfile, ...files })) {
        mkdirSync(join(directory, file, '..'), { recursive: true })
        writeFileSync(join(directory, file), content)
        chownSync(join(directory, file), user.uid, user.gid)
      }
      chownSync(directory, user.uid, user.gid)
      return directory
    },
    fresh: (prefix) => `${prefix}${++last}`,
    async expectUnharmed() {
      expect([guarded.directory, guarded.open].flatMap(snapshotTree)).toEqual(before)
      expect(daemon.child?.pid).toBe(pid)
      expect(daemon.child?.exitCode).toBe(null)
      const began = performance.now()
      const { status, stderr } = await runClient(daemon, ['version']).ended
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
      expect(performance.now() - began).toBeLessThan(4000)
      await bench.expectSound()
      expect(readFileSync(daemon.log, 'utf8')).not.toMatch(/unhandled|uncaught|ISB_INTERNAL|"level":(50|60)/i)
    },
    async [Symbol.asyncDispose]() {
      try {
        const log = readFileSync(daemon.log, 'utf8')
        expect(log).not.toContain(guarded.secret)
        expect(hostDirectories.flatMap(outlineTree)).toEqual(hostBefore)
      } finally {
        try {
          await bench[Symbol.asyncDispose]()
          expect(
            await eventually(
              () => processesUsing(work),
              (pids) => pids.length === 0,
            ),
          ).toEqual([])
        } finally {
          rmSync(work, { recursive: true, force: true })
        }
      }
    },
  }
  expect(statSync(daemon.socket)).toMatchObject({ gid, mode: 0o140660 })
  return rights
}
