import { spawn } from 'node:child_process'
import { chmodSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { createDaemonBench, type DaemonBench, eventually, runClient } from '../support/daemon-bench.js'
import { processesNamed, processesUsing } from '../support/daemon-leftovers.js'
import { leftovers } from '../support/runtime-leftovers.js'
import { inspectStore } from '../support/store-inspection.js'

const isRoot = getuid?.() === 0
const program = fileURLToPath(new URL('../../bin/isula-builder', import.meta.url))
const stranger = 65_534
const strangers = readFileSync('/etc/group', 'utf8')
  .split('\n')
  .map((line) => line.split(':'))
  .find(([, , gid]) => gid === String(stranger))?.[0]
let bench: DaemonBench

async function runningBuilds(): Promise<number> {
  const connection = await bench.connect()
  try {
    return (await connection.unary(builderService.ListBuilds, {})).builds.length
  } finally {
    connection.close()
  }
}

/** Starts a build of this RUN and waits until the RUN runs. `word` is in its command line. */
async function startRun(command: string, word: string, name = 'run:1') {
  const context = bench.context(`FROM base:1\nRUN ${command}\n`)
  const client = bench.client(['ctr-img', 'build', '--no-cache', '-t', name, context])
  const started = await eventually(
    () => processesNamed(word),
    (pids) => pids.length > 0,
    10_000,
  )
  if (started.length === 0) {
    client.child.kill('SIGKILL')
    throw new Error(`${command} did not start: ${JSON.stringify(await client.ended)}`)
  }
  return client
}

/** Of the newest launcher, from the log; there is one when a RUN is under way. */
function launcherPid(): number {
  const lines = readFileSync(bench.daemon.log, 'utf8').trim().split('\n')
  const ready = lines.map((line) => JSON.parse(line)).filter(({ event }) => event === 'launcher.ready')
  return ready.at(-1).pid
}

async function expectNothingLeft(): Promise<void> {
  const { daemon } = bench
  const used = () => processesUsing(daemon.directory)
  expect(await eventually(used, (pids) => pids.length === 0)).toEqual([])
  expect(leftovers(bench.run)).toEqual({ processes: [], mounts: [], cgroups: [], runs: [] })
  expect(existsSync(daemon.socket)).toBe(false)
  expect(await inspectStore(bench.data)).toEqual([])
}

/** Another daemon with some roots of the running one; gives how it ended. */
async function startSecond(roots: { data?: string; run?: string; socket?: string }) {
  const { daemon, work } = bench
  const args = [
    ...['--dataroot', roots.data ?? join(work, 'second-data')],
    ...['--runroot', roots.run ?? join(work, 'second-run')],
    ...['--host', `unix://${roots.socket ?? join(work, 'second.sock')}`],
    ...['--config-dir', join(daemon.directory, 'etc'), '--group', 'root'],
  ]
  const began = performance.now()
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const patience = setTimeout(() => child.kill('SIGKILL'), 10_000)
  const status = await new Promise((resolve) => child.once('close', resolve))
  clearTimeout(patience)
  return { status, stderr, ms: performance.now() - began }
}

describe.skipIf(!isRoot)('the life of the daemon (needs root)', () => {
  beforeAll(async () => {
    bench = await createDaemonBench({ group: strangers ?? 'root' })
    // The stranger reaches the socket and the contexts.
    chmodSync(bench.work, 0o755)
    chmodSync(bench.daemon.directory, 0o755)
  })
  afterAll(() => bench[Symbol.asyncDispose]())

  test('a second daemon on the same roots ends at once and harms nothing', async () => {
    const build = await startRun('sleep 2.25; echo kept > /kept', '2.25')
    const { daemon } = bench
    const attempts = [
      await startSecond({ data: bench.data, run: bench.run, socket: daemon.socket }),
      await startSecond({ data: bench.data }),
      await startSecond({ run: bench.run }),
    ]
    for (const { status, stderr } of attempts) {
      expect(status).toBe(1)
      expect(stderr).toContain(`(pid ${daemon.child?.pid})`)
      expect(stderr.trim().split('\n').length).toBeLessThanOrEqual(2)
    }
    // A busy machine only ever adds to it.
    expect(Math.min(...attempts.map(({ ms }) => ms))).toBeLessThan(1000)
    const socketOnly = await startSecond({ socket: daemon.socket })
    expect(socketOnly.status).toBe(1)
    expect(socketOnly.stderr).toContain(daemon.socket)
    expect((await build.ended).status).toBe(0)
    await bench.expectSound()
  })

  test('a launcher that dies fails its builds with a reason and is replaced', async () => {
    const build = await startRun('sleep 61.5', '61.5')
    process.kill(launcherPid(), 'SIGKILL')
    const { status, stderr } = await build.ended
    expect(status).toBe(125)
    expect(stderr).toContain('the process that runs containers ended unexpectedly')
    expect(processesNamed('61.5')).toEqual([])
    await bench.image('build', '--no-cache', '-t', 'after:1', bench.context('FROM base:1\nRUN echo fine\n'))
    await bench.expectSound()
  })

  test('an identity helper that dies is replaced', async () => {
    const context = bench.context('FROM base:1\nCOPY Dockerfile /d\n')
    const build = async (label: string) => {
      const args = [
        'ctr-img',
        'build',
        '--no-cache',
        '--label',
        `l=${label}`,
        '-t',
        `user-${label}:1`,
        context,
      ]
      return await runClient(bench.daemon, args, { uid: stranger, gid: stranger }).ended
    }
    expect(await build('first')).toMatchObject({ status: 0 })
    const helpers = processesNamed('isula-builder-identity').filter(
      (pid) =>
        readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ')[1] ===
        `${bench.daemon.child?.pid}`,
    )
    expect(helpers).toHaveLength(1)
    for (const pid of helpers) process.kill(pid, 'SIGKILL')
    expect(await build('second')).toMatchObject({ status: 0 })
    await bench.expectSound()
  })

  test.each(['SIGKILL', 'SIGINT', 'SIGTERM'] as const)(
    'a client ended by %s takes its build with it',
    async (signal) => {
      const build = await startRun('sleep 62.5', '62.5')
      const began = performance.now()
      build.child.kill(signal)
      expect(await eventually(runningBuilds, (count) => count === 0)).toBe(0)
      expect(performance.now() - began).toBeLessThan(5000)
      expect(processesNamed('62.5')).toEqual([])
      const end = await build.ended
      if (signal === 'SIGINT') expect(end.status).toBe(130)
      await bench.expectSound()
    },
  )

  test('SIGTERM lets running builds finish, takes no new ones, and leaves nothing', async () => {
    const builds = [
      await startRun('sleep 1.75; echo one > /one', '1.75', 'drained:1'),
      await startRun('sleep 1.85; echo two > /two', '1.85', 'drained:2'),
    ]
    const ended = bench.daemon.kill('SIGTERM')
    await eventually(
      () => existsSync(bench.daemon.socket),
      (there) => !there,
    )
    const late = await bench.client([
      '--timeout',
      '500ms',
      'ctr-img',
      'build',
      bench.context('FROM base:1\n'),
    ]).ended
    expect(late.status).toBe(125)
    for (const build of builds) expect(await build.ended).toMatchObject({ status: 0 })
    expect(await ended).toEqual({ code: 0, signal: null })
    await expectNothingLeft()
    await bench.restart()
    const names = (await bench.images()).flatMap((image) => image.names)
    expect(names).toEqual(expect.arrayContaining(['drained:1', 'drained:2']))
    await bench.expectSound()
  })

  test('a second SIGTERM ends running builds within 5 s, and leaves nothing', async () => {
    const build = await startRun('sleep 63.5', '63.5', 'never:1')
    const ended = bench.daemon.kill('SIGTERM')
    await eventually(
      () => existsSync(bench.daemon.socket),
      (there) => !there,
    )
    const began = performance.now()
    bench.daemon.child?.kill('SIGTERM')
    const { status, stderr } = await build.ended
    expect(status).toBe(125)
    expect(stderr).toContain('the daemon is stopping')
    expect(await ended).toEqual({ code: 0, signal: null })
    expect(performance.now() - began).toBeLessThan(5000)
    expect(processesNamed('63.5')).toEqual([])
    await expectNothingLeft()
    await bench.restart()
    expect((await bench.images()).flatMap((image) => image.names)).not.toContain('never:1')
    await bench.expectSound()
  })

  test('SIGKILL after SIGTERM is a crash like any other', async () => {
    const build = await startRun('sleep 64.5', '64.5', 'never:2')
    bench.daemon.child?.kill('SIGTERM')
    await bench.kill()
    expect((await build.ended).status).not.toBe(0)
    await bench.restart()
    expect(processesNamed('64.5')).toEqual([])
    await bench.expectSound()
  })

  test('SIGTERM while it starts ends it, and the next start is clean', async () => {
    await bench.kill('SIGTERM')
    for (const delay of [50, 150, 250, 350, 450]) {
      const starting = bench.daemon.start().catch(() => undefined)
      await new Promise((resolve) => setTimeout(resolve, delay))
      await bench.kill('SIGTERM')
      await starting
    }
    await bench.restart()
    await bench.expectSound()
  })

  test('1 GiB of output for a stopped client is no memory of the daemon', async () => {
    const memory = (pid: number | undefined) =>
      Number(/VmRSS:\s+([0-9]+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
    // 64 times 16 MiB: what writes them line by line takes longer than the daemon.
    const context = bench.context(`FROM base:1
RUN yes 0123456789abcdef | head -c 16777216 > /lines; sleep 1.25; for i in $(seq 64); do cat /lines; done; sleep 65.5
`)
    const build = bench.client(['ctr-img', 'build', '--no-cache', context])
    await eventually(
      () => processesNamed('1.25'),
      (found) => found.length > 0,
      30_000,
    )
    build.child.kill('SIGSTOP')
    const pids = [bench.daemon.child?.pid, launcherPid()]
    const before = pids.map(memory)
    const peak = [...before]
    // The last command starts when all of the output is written.
    const written = await eventually(
      () => {
        for (const [index, pid] of pids.entries()) peak[index] = Math.max(peak[index] ?? 0, memory(pid))
        return processesNamed('65.5').length
      },
      (count) => count > 0,
      60_000,
    )
    expect(written).toBe(1)
    const growth = peak.map((value, index) => value - (before[index] ?? 0))
    expect(Math.max(...growth)).toBeLessThan(64)
    build.child.kill('SIGKILL')
    expect(await eventually(runningBuilds, (count) => count === 0)).toBe(0)
    await build.ended
    await bench.expectSound()
  })
})
