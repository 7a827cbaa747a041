import { execFileSync, spawn } from 'node:child_process'
import {
  closeSync,
  constants,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { processesUsing } from '../support/daemon-leftovers.js'
import { receiveNotifications } from '../support/notify-receiver.js'

const isRoot = getuid?.() === 0
const path = (name: string): string => fileURLToPath(new URL(`../../${name}`, import.meta.url))

interface Running {
  readonly child: ReturnType<typeof spawn>
  /** Everything written to either output by now. */
  output(): string
  readonly ended: Promise<number | null>
}

let directory = ''
let socket = ''
let running: Running[] = []
/** Where a start that was stopped halfway reads its transport key. */
let key: number | undefined

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-start-'))
  cpSync(path('etc'), at('etc'), { recursive: true })
  socket = at('s')
})
afterEach(async () => {
  for (const { child } of running) child.kill('SIGKILL')
  await Promise.all(running.map(({ ended }) => ended))
  running = []
  if (key !== undefined) closeSync(key)
  key = undefined
  // A launcher whose daemon was killed goes by itself.
  await expect.poll(() => processesUsing(directory), { timeout: 10_000 }).toEqual([])
  rmSync(directory, { recursive: true, force: true })
})

const at = (...names: string[]): string => join(directory, ...names)

function run(program: string, args: readonly string[], env: Record<string, string> = {}): Running {
  const { NODE_OPTIONS: _, VITEST: __, NOTIFY_SOCKET: ___, ...inherited } = process.env
  const child = spawn(program, args, { env: { ...inherited, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (more: string) => {
      text += more
    })
  }
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
  const started = { child, output: () => text, ended }
  running.push(started)
  return started
}

const daemon = (env?: Record<string, string>): Running =>
  run(
    path('bin/isula-builder'),
    [
      ...['--dataroot', at('data'), '--runroot', at('run'), '--config-dir', at('etc')],
      ...['--host', `unix://${socket}`, '--group', 'daemon'],
    ],
    env,
  )

const client = (...args: string[]): Running =>
  run(path('bin/isula-build'), args, { ISULABUILD_HOST: `unix://${socket}` })

async function socketAppears(): Promise<void> {
  await expect.poll(() => existsSync(socket), { timeout: 10_000, interval: 5 }).toBe(true)
}

/** A start stops at its transport key, between socket and service, until `goOn`. */
async function startHalfway(env?: Record<string, string>) {
  mkdirSync(at('data'), { mode: 0o700 })
  writeFileSync(at('data/lock'), '')
  execFileSync('mkfifo', [at('data/transport-key.pem')])
  const started = daemon(env)
  await socketAppears()
  const isThere = (): boolean => {
    try {
      key = openSync(at('data/transport-key.pem'), constants.O_WRONLY | constants.O_NONBLOCK)
    } catch (error) {
      // Nobody reads.
      if ((error as NodeJS.ErrnoException).code !== 'ENXIO') throw error
    }
    return key !== undefined
  }
  await expect.poll(isThere, { timeout: 10_000, interval: 5 }).toBe(true)
  return { ...started, goOn: giveKey }
}

/** What the daemon reads is no key, so that a new one takes its place. */
function giveKey(): void {
  if (key === undefined) return
  writeSync(key, 'no key\n')
  closeSync(key)
  key = undefined
}

/** Every one of them has a socket beside its two outputs, which are sockets as well. */
async function connected(...callers: readonly Running[]): Promise<void> {
  const sockets = ({ child }: Running): number => {
    const fds = `/proc/${child.pid}/fd`
    return readdirSync(fds).filter((fd) => readlinkSync(`${fds}/${fd}`).startsWith('socket:')).length
  }
  await expect
    .poll(() => callers.map(sockets), { timeout: 20_000, interval: 20 })
    .toEqual(callers.map(() => 3))
}

/** Whether it ends within a moment. */
const endsSoon = async ({ ended }: Running): Promise<boolean> =>
  await Promise.race([ended.then(() => true), sleep(250).then(() => false)])

function expectNothingHeld(): void {
  expect(existsSync(socket)).toBe(false)
  expect(existsSync(at('etc/isula-build.pub'))).toBe(false)
}

describe.skipIf(!isRoot)('while a daemon starts', () => {
  test('whoever calls waits, and is answered when it serves', async () => {
    await using receiver = await receiveNotifications(at('notify'), socket)
    const started = await startHalfway({ NOTIFY_SOCKET: at('notify') })
    const { mode, uid, gid } = statSync(socket)
    expect([mode & 0o7777, uid]).toEqual([0o660, 0])
    expect(gid).not.toBe(0)
    const callers = [client('version'), client('ctr-img', 'images')]
    await connected(...callers)
    const first = receiver.next()
    const isReady = await Promise.race([first.then(() => true), sleep(300).then(() => false)])
    expect([isReady, ...(await Promise.all(callers.map(endsSoon)))]).toEqual([false, false, false])
    started.goOn()
    expect(await Promise.all(callers.map(({ ended }) => ended))).toEqual([0, 0])
    expect(await first).toBe('READY=1 answers')
    started.child.kill('SIGTERM')
    expect(await started.ended).toBe(0)
    expectNothingHeld()
  })

  test('who may not use the socket may not wait there either', async () => {
    const started = await startHalfway()
    const asNobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
    const probe = `require('net').connect('${socket}').on('connect', () => process.exit(0)).on('error', (e) => { console.log(e.code); process.exit(1) })`
    execFileSync('chmod', ['755', directory])
    const stranger = run('/usr/bin/env', [...asNobody, process.execPath, '-e', probe])
    expect([await stranger.ended, stranger.output()]).toEqual([1, 'EACCES\n'])
    started.goOn()
    started.child.kill('SIGTERM')
    expect(await started.ended).toBe(0)
  })

  test('whoever waits for a start that fails is told why, and nothing is left', async () => {
    const started = await startHalfway()
    const callers = [client('version'), client('ctr-img', 'images')]
    await connected(...callers)
    expect(await Promise.all(callers.map(endsSoon))).toEqual([false, false])
    rmSync(at('etc/policy.json'))
    started.goOn()
    expect(await started.ended).toBe(1)
    expect(started.output()).toMatch(/policy\.json is missing\n/)
    for (const { ended, output } of callers) {
      expect(await ended).toBe(125)
      expect(output()).toMatch(/isula-builder could not start: \S+policy\.json is missing\n.*journalctl/)
    }
    expectNothingHeld()
  })

  test('who connects and asks nothing does not keep a failed start from its end', async () => {
    const started = await startHalfway()
    const silent = run(process.execPath, ['-e', `require('net').connect('${socket}').on('close', () => 0)`])
    await connected(silent)
    expect(await endsSoon(silent)).toBe(false)
    rmSync(at('etc/policy.json'))
    started.goOn()
    const began = performance.now()
    expect([await started.ended, await silent.ended]).toEqual([1, 0])
    expect(performance.now() - began).toBeLessThan(5_000)
  })

  test.each(['SIGTERM', 'SIGINT'] as const)('%s takes the start back', async (signal) => {
    const started = await startHalfway()
    const caller = client('version')
    await connected(caller)
    expect(await endsSoon(caller)).toBe(false)
    started.child.kill(signal)
    started.goOn()
    expect(await started.ended).toBe(0)
    expect([await caller.ended, caller.output()]).toEqual([
      125,
      expect.stringContaining('the daemon is stopping'),
    ])
    expect(started.output()).not.toContain('daemon.ready')
    expect(started.output()).not.toContain('launcher.ready')
    expectNothingHeld()
  })

  test('a second signal does not wait until it is taken back', async () => {
    const started = await startHalfway()
    started.child.kill('SIGTERM')
    started.child.kill('SIGINT')
    started.goOn()
    expect(await started.ended).toBe(1)
    expectNothingHeld()
    rmSync(at('data/transport-key.pem'))
    daemon()
    await expect.poll(() => client('version').ended, { timeout: 10_000 }).toBe(0)
  })

  test('a second one of the same roots is refused and disturbs nothing', async () => {
    const first = await startHalfway()
    const second = daemon()
    expect(await second.ended).toBe(1)
    expect(second.output()).toContain(`(pid ${first.child.pid})`)
    const caller = client('version')
    first.goOn()
    expect(await caller.ended).toBe(0)
  })

  test('of several that start at once, one does', async () => {
    const all = [daemon(), daemon(), daemon()]
    const ends = all.map(async (one) => ({ one, status: await one.ended }))
    const refused = [await Promise.race(ends)]
    const rest = ends.filter((_, index) => all[index] !== refused[0]?.one)
    refused.push(await Promise.race(rest))
    expect(refused.map(({ status }) => status)).toEqual([1, 1])
    for (const { one } of refused) expect(one.output()).toMatch(/^lock \S+ failed, check if there is another/)
    await socketAppears()
    expect(await client('version').ended).toBe(0)
  })

  test('the socket of one that was killed halfway is replaced', async () => {
    const first = await startHalfway()
    const caller = client('version')
    await connected(caller)
    expect(await endsSoon(caller)).toBe(false)
    first.child.kill('SIGKILL')
    await first.ended
    expect(await caller.ended).toBe(125)
    expect(statSync(socket).isSocket()).toBe(true)
    rmSync(at('data/transport-key.pem'))
    daemon()
    await expect.poll(() => client('version').ended, { timeout: 10_000 }).toBe(0)
  })
})

describe.skipIf(!isRoot)('a daemon whose containers cannot start yet', () => {
  /** An earlier launcher of the run root that has not ended. */
  async function holdLauncher(): Promise<Running> {
    mkdirSync(at('run/runtime'), { recursive: true, mode: 0o700 })
    const holder = run('flock', [
      ...['--no-fork', at('run/runtime/launcher.lock')],
      ...['sh', '-c', 'echo held; exec sleep 60'],
    ])
    await expect.poll(holder.output).toBe('held\n')
    return holder
  }

  /** A build that is under way, as far as it comes. */
  async function waitingBuild(started: Running): Promise<Running> {
    await socketAppears()
    expect(await client('version').ended).toBe(0)
    mkdirSync(at('context'))
    writeFileSync(at('context/Dockerfile'), 'FROM scratch\nCOPY Dockerfile /\n')
    const build = client('ctr-img', 'build', '-t', 'a:b', at('context'))
    await expect.poll(started.output, { timeout: 15_000 }).toContain('build.started')
    expect(await endsSoon(build)).toBe(false)
    return build
  }

  /** Ends, too, what it started and what waits with it. */
  async function launcherOf(started: Running): Promise<number> {
    const found = (): readonly number[] =>
      execFileSync('sh', ['-c', 'cat "$0"/*/children', `/proc/${started.child.pid}/task`], {
        encoding: 'utf8',
      })
        .split(' ')
        .filter(
          (pid) => pid !== '' && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('/launcher.cjs\0'),
        )
        .map(Number)
    await expect.poll(found).toHaveLength(1)
    return found()[0] ?? 0
  }

  /** Milliseconds until it ends. */
  async function timeOf(ending: Promise<unknown>): Promise<number> {
    const began = performance.now()
    await ending
    return performance.now() - began
  }

  test('answers, but builds nothing and is not ready before they can', async () => {
    const holder = await holdLauncher()
    const started = daemon()
    const build = await waitingBuild(started)
    expect(started.output()).not.toContain('daemon.ready')
    holder.child.kill('SIGKILL')
    expect([await build.ended, build.output()]).toEqual([0, expect.any(String)])
    await expect.poll(started.output, { timeout: 15_000 }).toContain('daemon.ready')
  })

  test('ends when they never can', async () => {
    mkdirSync(at('run'), { mode: 0o700 })
    writeFileSync(at('run/runtime'), 'in the way')
    const started = daemon()
    expect(await started.ended).toBe(1)
    expect(started.output()).toContain('the launcher process cannot be used')
    expectNothingHeld()
  })

  test('tells a build that waits why they never can', async () => {
    await holdLauncher()
    const started = daemon()
    const build = await waitingBuild(started)
    process.kill(await launcherOf(started), 'SIGKILL')
    expect(await timeOf(started.ended)).toBeLessThan(5_000)
    expect([await started.ended, await build.ended]).toEqual([1, 125])
    expect(build.output()).toMatch(
      /could not start: the launcher process cannot be used: it ended with SIGKILL/,
    )
    expectNothingHeld()
  })

  test('lets go of a build that does not want to wait', async () => {
    const holder = await holdLauncher()
    const started = daemon()
    const build = await waitingBuild(started)
    build.child.kill('SIGINT')
    await build.ended
    await expect.poll(started.output, { timeout: 15_000 }).toMatch(/ISB_CANCELLED.*build\.failed/)
    holder.child.kill('SIGKILL')
    await expect.poll(started.output, { timeout: 15_000 }).toContain('daemon.ready')
  })

  test('stops when it is told to, with the builds that wait', async () => {
    await holdLauncher()
    const started = daemon()
    const build = await waitingBuild(started)
    started.child.kill('SIGTERM')
    expect(await timeOf(started.ended)).toBeLessThan(5_000)
    expect([await started.ended, await build.ended]).toEqual([0, 125])
    expect(build.output()).toContain('the daemon is stopping')
    expect(started.output()).not.toContain('launcher.died')
    expectNothingHeld()
  })
})
