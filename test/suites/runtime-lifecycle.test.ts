import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { findRuntime } from '../../packages/builder-daemon/src/runtime/find-runtime.js'
import { createRuntime } from '../../packages/builder-daemon/src/runtime/launcher-client.js'
import { spawnLauncher } from '../../packages/builder-daemon/src/runtime/launcher-process.js'
import { bundleEntry } from '../support/bundled-worker.js'
import { leftovers } from '../support/runtime-leftovers.js'
import { silentLogger } from '../support/silent-logger.js'
import { makeRuntime, type RuntimeFixture, waitFor } from '../support/temporary-runtime.js'
import { launcherSource } from './runtime.js'

const runnable = getuid?.() === 0 && existsSync('/usr/sbin/runc')
const nothing = { processes: [], mounts: [], cgroups: [], runs: [] }

interface Daemon {
  readonly process: ChildProcess
  readonly ready: { directory: string; dataRoot: string; runRoot: string; launcher: number; cgroups: string }
  readonly lines: AsyncIterator<string>
}

describe.skipIf(!runnable)('the life of the launcher (needs root and runc)', () => {
  let launcherEntry: string
  let daemonEntry: string
  const undo: (() => void | Promise<void>)[] = []

  beforeAll(async () => {
    launcherEntry = (await bundleEntry(launcherSource)).pathname
    daemonEntry = (await bundleEntry('test/support/runtime-daemon.ts')).pathname
  })
  afterEach(async () => {
    for (const step of undo.splice(0).reverse()) await step()
  })

  const open = async (change = {}): Promise<RuntimeFixture> => {
    const fixture = await makeRuntime({ launcherEntry, isolation: 'oci', change })
    undo.push(async () => {
      await fixture[Symbol.asyncDispose]()
    })
    return fixture
  }

  const startDaemon = async (args: readonly string[], prefix: readonly string[] = []): Promise<Daemon> => {
    const [program = process.execPath, ...rest] = [
      ...prefix,
      process.execPath,
      daemonEntry,
      launcherEntry,
      ...args,
    ]
    const child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'inherit'] })
    undo.push(() => {
      child.kill('SIGKILL')
    })
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const ready = JSON.parse((await lines.next()).value ?? '{}') as Daemon['ready']
    undo.push(() => rmSync(ready.directory, { recursive: true, force: true }))
    return { process: child, ready, lines }
  }

  // A zombie is dead; who has to reap it is not always in a hurry.
  const alive = (pid: number): boolean =>
    existsSync(`/proc/${pid}`) && !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'))

  const sleeps = (pid: number): boolean =>
    existsSync(`/proc/${pid}/cmdline`) && /^sleep\0/.test(readFileSync(`/proc/${pid}/cmdline`, 'latin1'))

  test.each(['oci', 'chroot'])(
    '%s: kill -9 of the daemon leaves no process, mount, cgroup or file',
    async (isolation) => {
      const daemon = await startDaemon([isolation, 'setsid sleep 1000 & sleep 1000'])
      const { runRoot, launcher } = daemon.ready
      const processes = await waitFor(() => {
        const found = leftovers(runRoot).processes
        return found.length >= 2 ? found : undefined
      })
      daemon.process.kill('SIGKILL')
      await waitFor(() => (alive(launcher) ? undefined : true))
      expect(leftovers(runRoot)).toEqual(nothing)
      expect(processes.filter(alive)).toEqual([])
    },
  )

  test.each(['oci', 'chroot'])(
    '%s: what daemon and launcher leave when both are killed is ended by the next daemon',
    async (isolation) => {
      const daemon = await startDaemon([isolation, 'setsid sleep 1000 & sleep 1000'])
      const { runRoot, dataRoot, launcher } = daemon.ready
      // A container that is only being set up ends with the runtime that does it.
      const processes = await waitFor(() => {
        const found = leftovers(runRoot).processes
        return found.filter(sleeps).length >= 2 ? found : undefined
      })
      process.kill(launcher, 'SIGKILL')
      daemon.process.kill('SIGKILL')
      await waitFor(() => (alive(launcher) ? undefined : true))
      const options = { launcherEntry, dataRoot, runRoot, runtimePath: '/usr/sbin/runc', log: silentLogger }
      await using next = await createRuntime(options)
      expect(next.recovery.runs).toHaveLength(1)
      expect(leftovers(runRoot)).toEqual(nothing)
      expect(processes.filter(alive)).toEqual([])
    },
  )

  test('a start that is given up when the launcher is just ready leaves none', async () => {
    await using fixture = await makeRuntime({ launcherEntry, isolation: 'oci' })
    await fixture.runtime[Symbol.asyncDispose]()
    const stopping = new AbortController()
    const events: string[] = []
    const hear = (event: string): void => {
      events.push(event)
      if (event === 'launcher.ready') stopping.abort(new Error('given up'))
    }
    const log = { debug: hear, info: hear, warn: hear, error: hear }
    const spawned = spawnLauncher(launcherEntry)
    const { dataRoot, runRoot } = fixture
    const options = { launcherEntry, dataRoot, runRoot, runtimePath: '/usr/sbin/runc', log, spawned }
    await expect(createRuntime({ ...options, signal: stopping.signal })).rejects.toThrow('given up')
    await spawned.ended
    await sleep(100)
    expect(events.filter((event) => /^launcher\.(ready|died)/.test(event))).toEqual(['launcher.ready'])
    const { spawned: _, ...again } = options
    await using next = await createRuntime({ ...again, log: silentLogger })
    expect(next.recovery.runs).toEqual([])
  })

  test('a launcher that dies fails its RUN, leaves nothing, and the next RUN works', async () => {
    const fixture = await open()
    const first = fixture.runtime.launcherPid() ?? 0
    const running = fixture.run('sleep 1000')
    running.catch(() => undefined)
    await waitFor(() => leftovers(fixture.runRoot).processes.find(sleeps))
    process.kill(first, 'SIGKILL')
    await expect(running).rejects.toMatchObject({ code: 'ISB_INTERNAL' })
    expect(leftovers(fixture.runRoot)).toEqual(nothing)
    expect((await fixture.run('exit 5')).exit).toEqual({ kind: 'exited', code: 5 })
    expect(fixture.runtime.launcherPid()).not.toBe(first)
  })

  test('closing the runtime ends its RUNs as cancelled', async () => {
    const fixture = await open()
    const running = fixture.run('sleep 1000')
    running.catch(() => undefined)
    await waitFor(() => leftovers(fixture.runRoot).processes[0])
    await fixture.runtime[Symbol.asyncDispose]()
    await expect(running).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    expect(leftovers(fixture.runRoot)).toEqual(nothing)
    await expect(fixture.run('true')).rejects.toMatchObject({ code: 'ISB_SHUTTING_DOWN' })
  })

  test('mounts of a RUN are seen by nobody outside the launcher', async () => {
    const fixture = await open()
    const running = fixture.run('sleep 1')
    const mountsOf = (process: number | string): string => {
      try {
        return readFileSync(`/proc/${process}/mountinfo`, 'utf8')
      } catch {
        // One of runc's own, which has ended by now.
        return ''
      }
    }
    // The launcher has the root until the container has started, which has it then.
    const rootOf = (): string | undefined =>
      leftovers(fixture.runRoot)
        .processes.flatMap((pid) => mountsOf(pid).split('\n'))
        .find((line) => line.includes(' / / ') && line.includes(' - overlay '))
    await waitFor(rootOf)
    expect(mountsOf('self')).toContain(' / ')
    expect(mountsOf('self')).not.toContain(fixture.runRoot)
    await running
  })

  test.skipIf(!existsSync('/sys/fs/cgroup/cpu/cgroup.procs'))(
    'a RUN is counted on its own, and shares the processors that its daemon has',
    async () => {
      const fixture = await open()
      const own = cgroupOf(readFileSync('/proc/self/cgroup', 'utf8'), 'cpu')
      const { output } = await fixture.run('cat /proc/self/cgroup; ls /sys/fs/cgroup')
      expect(cgroupOf(output, 'cpu')).toBe(own)
      expect(cgroupOf(output, 'pids')).toContain('/isula-build/')
      expect(cgroupOf(output, 'devices')).toContain('/isula-build/')
      expect(output).not.toMatch(/^memory$/m)
    },
  )

  test('a signal that a terminal or a service manager sends does not end it', async () => {
    const fixture = await open()
    const pid = fixture.runtime.launcherPid() ?? 0
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.kill(pid, signal)
    await sleep(100)
    expect((await fixture.run('exit 0')).exit).toEqual({ kind: 'exited', code: 0 })
    expect(fixture.runtime.launcherPid()).toBe(pid)
  })

  test('a runtime that is not installed is named', async () => {
    const fixture = await open({ runtimePath: '/no/such/runc' })
    await expect(fixture.run('true')).rejects.toMatchObject({
      code: 'ISB_RUNTIME_MISSING',
      message: expect.stringContaining('/no/such/runc'),
    })
    const without = await fixture.restart({ runtimePath: undefined })
    await expect(without.run(fixture.spec('true'), new AbortController().signal)).rejects.toMatchObject({
      code: 'ISB_RUNTIME_MISSING',
    })
    expect(findRuntime(['nosuchruntime', 'runc'])).toBe('/usr/sbin/runc')
  })

  test.each(['oci', 'chroot'])(
    '%s: without cgroups a RUN works, and is killed with everything it started',
    async (isolation) => {
      const hidden = [
        '/usr/bin/unshare',
        '--mount',
        '--',
        '/bin/sh',
        '-c',
        'for m in /sys/fs/cgroup /sys/fs/cgroup/*/; do mount -o remount,bind,ro $m; done; exec "$@"',
        'sh',
      ]
      const short = await startDaemon(
        [isolation, 'echo fine; (setsid sleep 1000 &); ! mknod /n c 1 3 || ! echo x > /n; exit 3'],
        hidden,
      )
      expect(short.ready.cgroups).toBe('none')
      expect(JSON.parse((await short.lines.next()).value ?? '{}')).toMatchObject({
        exit: { kind: 'exited', code: 3 },
      })
      const unique = `${1000 + Math.floor(process.pid % 1000)}.25`
      const long = await startDaemon([isolation, `(setsid sleep ${unique} &); sleep ${unique}`], hidden)
      const sleepers = (): readonly number[] =>
        readdirSync('/proc')
          .filter((name) => /^[0-9]+$/.test(name))
          .map(Number)
          .filter((pid) => commandLine(pid) === `sleep\0${unique}\0`)
      await waitFor(() => (sleepers().length === 2 ? true : undefined))
      long.process.kill('SIGKILL')
      await waitFor(() => (alive(long.ready.launcher) ? undefined : true))
      expect(sleepers()).toEqual([])
      expect(leftovers(long.ready.runRoot)).toEqual(nothing)
    },
  )

  test('output beyond the quota makes the command wait until the quota is raised', async () => {
    const stalled: number[] = []
    const fixture = await open({
      spoolQuota: 100_000,
      onStalled: (_: string, bytes: number) => stalled.push(bytes),
    })
    const spec = fixture.spec('head -c 10000000 /dev/zero; echo done')
    const running = fixture.runtime.run(spec, new AbortController().signal)
    await waitFor(() => stalled[0])
    await sleep(300)
    const written = readFileSync(spec.spool).length
    expect(written).toBeGreaterThanOrEqual(100_000)
    expect(written).toBeLessThan(400_000)
    fixture.runtime.raiseSpoolQuota(spec.id, 20_000_000)
    expect(await running).toEqual({ kind: 'exited', code: 0 })
    expect(readFileSync(spec.spool).length).toBe(10_000_005)
  })

  test('a command that waits for its quota can be aborted', async () => {
    const stalled: number[] = []
    const fixture = await open({
      spoolQuota: 1000,
      onStalled: (_: string, bytes: number) => stalled.push(bytes),
    })
    const controller = new AbortController()
    const running = fixture.run('yes', {}, controller.signal)
    running.catch(() => undefined)
    await waitFor(() => stalled[0])
    controller.abort()
    await expect(running).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    expect(leftovers(fixture.runRoot)).toEqual(nothing)
  })

  test('a spool that cannot be written fails the RUN and leaves nothing', async () => {
    const fixture = await open()
    const spool = join(fixture.directory, 'full')
    symlinkSync('/dev/full', spool)
    await expect(fixture.run('echo x', { spool })).rejects.toMatchObject({ code: 'ISB_NO_SPACE' })
    expect(leftovers(fixture.runRoot)).toEqual(nothing)
  })

  test('a container inherits the larger part of its filter from runc, and has all of it from others', async () => {
    const count = 'grep -E "Seccomp_filters|Seccomp:" /proc/self/status'
    const fixture = await open()
    const both = await fixture.run(count)
    expect(both.output.replace(/\t/g, '')).toBe('Seccomp:2\nSeccomp_filters:2\n')
    const renamed = join(fixture.directory, 'other')
    symlinkSync('/usr/sbin/runc', renamed)
    const other = await fixture.restart({ runtimePath: renamed })
    const spec = fixture.spec(count)
    expect(await other.run(spec, new AbortController().signal)).toEqual({ kind: 'exited', code: 0 })
    expect(readFileSync(spec.spool, 'utf8').replace(/\t/g, '')).toBe('Seccomp:2\nSeccomp_filters:1\n')
  })

  test('--security=insecure has every capability of the daemon and no filter', async () => {
    const fixture = await open()
    const { output } = await fixture.run(
      'grep -E "CapEff|CapBnd|Seccomp:" /proc/self/status; mount -t tmpfs none /tmp && echo mounted',
      { insecure: true },
    )
    const own = /CapBnd:\s*(\w+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? ''
    expect(output.replace(/\t/g, '')).toBe(`CapEff:${own}\nCapBnd:${own}\nSeccomp:0\nmounted\n`)
  })
})

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return ''
  }
}

/** Of the hierarchy that has the controller (cgroups(7), "/proc/PID/cgroup"). */
function cgroupOf(text: string, controller: string): string | undefined {
  const lines = text.split('\n').map((line) => line.split(':'))
  return lines.find(([, controllers]) => controllers?.split(',').includes(controller))?.[2]
}
