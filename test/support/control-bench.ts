import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { appendFileSync, chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { startDaemon, type TestDaemon } from '../../scripts/lib/daemon.mjs'
import { bundleEntry } from './bundled-worker.js'
import { makeBusyboxTar } from './busybox-rootfs.js'
import type { CallOfUser, EndOfUser } from './control-as-user.js'
import { type CallEnd, type ControlClient, connectControl, type RunningCall } from './control-client.js'
import { number, part, partsIn, text, textIn } from './proto-bytes.js'

// A daemon and a client of `isula.build.v1.Control` that behaves as the original's and shares no code with it.

/** https://grpc.io/docs/guides/status-codes/ */
export const ok = 0
export const invalidArgument = 3
export const notFound = 5
export const failedPrecondition = 9
export const unimplemented = 12
export const unavailable = 14
export const user = { uid: 4321, gid: 100 }
/** Debian's `users`: the members of the socket's group. */
export const group = 'users'

export interface Build {
  readonly content: string
  readonly id?: string
  readonly context: string
  readonly output?: string
  readonly args?: readonly string[]
  readonly encrypted?: boolean
  readonly proxy?: boolean
  readonly iidfile?: string
  /** Seconds since the epoch. */
  readonly time?: number
  readonly tag?: string
  readonly caps?: readonly string[]
  readonly format?: string
}

export interface Built extends CallEnd {
  readonly id: string
  readonly log: string
  readonly status: CallEnd
}

export const newId = (): string => randomBytes(6).toString('hex')

export function buildRequest(build: Build, id: string): Buffer {
  const time = build.time === undefined ? [] : [part(1, number(1, build.time))]
  const entity = createHash('sha256').update(build.content).digest('hex')
  return Buffer.concat([
    ...[text(1, id), text(2, 'ctr-img'), text(3, build.context)],
    ...[text(4, build.content), text(5, build.output ?? ''), text(6, build.args ?? [])],
    ...[number(7, build.proxy ?? false), text(8, build.iidfile ?? '')],
    // The original's client sends this message always, without a time when there is none.
    ...[part(9, ...time), text(10, build.tag ?? ''), text(11, build.caps ?? [])],
    text(12, `${entity}:${build.time ?? Date.now()}`),
    ...[number(13, build.encrypted ?? false), text(14, build.format ?? 'docker')],
  ])
}

/** The two calls of a build; when Build fails, Status is cancelled, and a failing Status cancels Build. */
export async function meet(build: RunningCall, status: RunningCall): Promise<Built> {
  void status.ended.then(({ code }) => {
    if (code !== ok) build.cancel()
  })
  const end = await build.ended
  if (end.code !== ok) {
    await Promise.race([status.ended, sleep(1000)])
    status.cancel()
  }
  const watched = await status.ended
  const log = watched.messages.map((message) => textIn(message, 1)).join('')
  return { ...end, log, status: watched, id: end.messages[0] === undefined ? '' : textIn(end.messages[0], 1) }
}

export interface Row {
  readonly repository: string
  readonly tag: string
  readonly id: string
  readonly created: string
  readonly size: string
}

export function member(archive: string, name: string): unknown {
  const { stdout, status, stderr } = spawnSync('tar', ['-xOf', archive, name], { encoding: 'utf8' })
  if (status !== 0) throw new Error(stderr)
  return JSON.parse(stdout)
}

export interface DockerEntry {
  readonly Config: string
  readonly RepoTags: readonly string[] | null
  readonly Layers: readonly string[]
}

export const entriesOf = (archive: string): readonly DockerEntry[] =>
  member(archive, 'manifest.json') as readonly DockerEntry[]

export interface ControlBench {
  /** For files of the test; holds `context/file` and a directory `users` that is the user's. */
  readonly work: string
  readonly daemon: TestDaemon
  readonly client: ControlClient
  readonly baseTar: string
  /** Of a context that holds `file`, unless it says another one. */
  request(build: Options, id: string): Buffer
  build(options: Options): Promise<Built>
  /** The same, expected to succeed. */
  built(options: Options): Promise<Built>
  /** Lines of a streaming call that must succeed. */
  lines(method: string, request: Buffer): Promise<string>
  list(name?: string): Promise<readonly Row[]>
  /** Calls of another user, all at once. */
  asUser(calls: readonly CallOfUser[]): Promise<readonly EndOfUser[]>
  stop(): Promise<void>
}

type Options = Omit<Build, 'context'> & { readonly context?: string }

export interface ControlBenchOptions {
  /** Added to configuration.toml; gets the bench's `work`. */
  readonly configuration?: (work: string) => string
}

/** With a base image `base:1`. */
export async function createControlBench(options: ControlBenchOptions = {}): Promise<ControlBench> {
  const work = mkdtempSync(join(tmpdir(), 'isula-control-'))
  try {
    chmodSync(work, 0o755)
    const directory = join(work, 'daemon')
    mkdirSync(directory, { mode: 0o755 })
    mkdirSync(join(work, 'context'))
    writeFileSync(join(work, 'context/file'), 'from the context\n')
    mkdirSync(join(work, 'users'))
    chownSync(join(work, 'users'), user.uid, user.gid)
    const baseTar = makeBusyboxTar(work)
    const env = { http_proxy: 'http://proxy.invalid:3128' }
    const daemon = await startDaemon({ directory, group, env, start: false })
    if (options.configuration !== undefined) {
      appendFileSync(join(directory, 'etc/configuration.toml'), options.configuration(work))
    }
    await daemon.start()
    const bench = benchOf(work, daemon, baseTar)
    try {
      await bench.lines('Import', Buffer.concat([text(1, newId()), text(2, baseTar), text(3, 'base:1')]))
      return bench
    } catch (error) {
      await bench.stop()
      throw error
    }
  } catch (error) {
    rmSync(work, { recursive: true, force: true })
    throw error
  }
}

function benchOf(work: string, daemon: TestDaemon, baseTar: string): ControlBench {
  const client = connectControl(daemon.socket)
  const request = (options: Options, id: string): Buffer =>
    buildRequest({ context: join(work, 'context'), ...options }, id)

  function build(options: Options): Promise<Built> {
    const id = options.id ?? newId()
    return meet(client.unary('Build', request(options, id)), client.stream('Status', text(1, id)))
  }

  async function built(options: Options): Promise<Built> {
    const result = await build(options)
    expect(result.details).toBe('')
    expect(result).toMatchObject({ code: ok, status: { code: ok, details: '' } })
    return result
  }

  async function lines(method: string, request: Buffer): Promise<string> {
    const { code, details, messages } = await client.stream(method, request).ended
    expect({ code, details }).toEqual({ code: ok, details: '' })
    return messages.map((message) => textIn(message, 1)).join('')
  }

  async function list(name = ''): Promise<readonly Row[]> {
    const { code, details, messages } = await client.unary('List', text(1, name)).ended
    expect({ code, details }).toEqual({ code: ok, details: '' })
    return partsIn(messages[0] ?? Buffer.alloc(0), 1).map((row) => ({
      repository: textIn(row, 1),
      tag: textIn(row, 2),
      id: textIn(row, 3),
      created: textIn(row, 4),
      size: textIn(row, 5),
    }))
  }

  async function asUser(calls: readonly CallOfUser[]): Promise<readonly EndOfUser[]> {
    const entry = fileURLToPath(await bundleEntry('test/support/control-as-user.ts'))
    const args = [entry, daemon.socket, String(user.uid), String(user.gid), JSON.stringify(calls)]
    const { stdout, stderr, status } = spawnSync(process.execPath, args, {
      encoding: 'utf8',
      timeout: 60_000,
    })
    if (status !== 0) throw new Error(`the client failed:\n${stderr}`)
    return JSON.parse(stdout) as readonly EndOfUser[]
  }

  async function stop(): Promise<void> {
    client.close()
    await daemon.stop()
    rmSync(work, { recursive: true, force: true })
  }

  return { work, daemon, client, baseTar, request, build, built, lines, list, asUser, stop }
}
