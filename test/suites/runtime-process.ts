import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { followSpool } from '../../packages/builder-daemon/src/runtime/spool.js'
import { leftovers } from '../support/runtime-leftovers.js'
import { type RuntimeFixture, waitFor } from '../support/temporary-runtime.js'

/** How a command runs, what it gets, how it ends. */
export function processSuite(get: () => RuntimeFixture): void {
  describe('exit status', () => {
    test.each([0, 1, 2, 126, 127, 137, 255])('exit %i is reported as it is', async (code) => {
      const { exit } = await get().run(`exit ${code}`)
      expect(exit).toEqual({ kind: 'exited', code })
    })

    test('a command the shell does not find is the exit code of the shell', async () => {
      const { exit, output } = await get().run('nosuchcommand')
      expect(exit).toEqual({ kind: 'exited', code: 127 })
      expect(output).toContain('not found')
    })

    test('a kill is told from an exit with 128 + n', async () => {
      const spec = get().spec('echo ready; exec sleep 1000')
      writeFileSync(spec.spool, '')
      const running = get().runtime.run(spec, new AbortController().signal)
      await waitFor(() => (readFileSync(spec.spool, 'utf8') === 'ready\n' ? true : undefined))
      const [pid = 0] = leftovers(get().runRoot).processes
      process.kill(pid, 'SIGKILL')
      expect(await running).toEqual({ kind: 'signalled', signal: 9 })
    })

    test.each([
      [['/no/such/program'], 127, 'no such file or directory'],
      [['nosuchprogram'], 127, 'not found'],
      [['/tmp'], 126, /is a directory|permission denied/],
      [['/etc/hosts'], 126, 'permission denied'],
    ])('%j cannot be executed: %i', async (args, exitCode, message) => {
      await expect(get().run(args)).rejects.toMatchObject({
        code: 'ISB_STEP_FAILED',
        message: expect.stringMatching(message),
        details: { exitCode },
      })
    })

    // The kernel finds out after runc has let go, so there it is output and exit code of the container.
    test.each([
      ['not a program', 'text', 'exec format error'],
      ['a script without its interpreter', '#!/no/such/interpreter\n', 'no such file or directory'],
    ])('%s fails and says why', async (_, content, why) => {
      const layer = get().layer((directory) => {
        mkdirSync(join(directory, 'opt'))
        writeFileSync(join(directory, 'opt/program'), content, { mode: 0o755 })
      })
      const said = await get()
        .run(['/opt/program'], { lowers: [get().base, layer] })
        .then(
          ({ exit, output }) => (exit.kind === 'exited' && exit.code !== 0 ? output : 'it succeeded'),
          (error: Error) => error.message,
        )
      expect(said).toContain(`exec /opt/program: ${why}`)
    })

    test('an empty image has no shell', async () => {
      await expect(get().run('true', { lowers: [] })).rejects.toMatchObject({
        code: 'ISB_STEP_FAILED',
        message: expect.stringContaining('no such file or directory'),
        details: { exitCode: 127 },
      })
    })
  })

  describe('output', () => {
    test('stdout and stderr keep the order of the writes', async () => {
      const { output } = await get().run(
        'i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); echo $i >&2; i=$((i+1)); done',
      )
      expect(output).toBe(Array.from({ length: 300 }, (_, n) => `${n}\n`).join(''))
    })

    test.each([0, 65534])('uid %i may open /dev/stdout and /dev/stderr', async (uid) => {
      const user = { uid, gid: uid, additionalGids: [] }
      const { output, exit } = await get().run('echo a > /dev/stderr; echo b >> /dev/stdout', { user })
      expect({ output, exit }).toEqual({ output: 'a\nb\n', exit: { kind: 'exited', code: 0 } })
    })

    test('stdin is empty', async () => {
      const { output } = await get().run('cat; echo rc=$?')
      expect(output).toBe('rc=0\n')
    })

    test('100 MB arrive complete at a slow and at a late follower while the command does not wait', async () => {
      const spec = get().spec("head -c 100000000 /dev/zero | tr '\\0' 'x'")
      writeFileSync(spec.spool, '')
      const finished = new AbortController()
      const count = async (pause: number, from?: number): Promise<number> => {
        let bytes = 0
        for await (const chunk of followSpool(
          spec.spool,
          finished.signal,
          from === undefined ? {} : { from },
        )) {
          if (bytes === 0) await sleep(pause)
          bytes += chunk.length
        }
        return bytes
      }
      const slow = count(1500)
      const exit = await get().runtime.run(spec, new AbortController().signal)
      const late = count(0, 99_999_000)
      finished.abort()
      expect(exit).toEqual({ kind: 'exited', code: 0 })
      expect(await slow).toBe(100_000_000)
      expect(await late).toBe(1000)
      rmSync(spec.spool)
    })
  })

  describe('what a command gets', () => {
    test('the environment is what was given and nothing of the daemon', async () => {
      const { output } = await get().run(['/bin/env'], { env: ['A=1', 'PATH=/bin', 'EMPTY='] })
      const lines = output
        .trim()
        .split('\n')
        .filter((line) => !/^(HOME|HOSTNAME)=/.test(line))
      expect(lines.sort()).toEqual(['A=1', 'EMPTY=', 'PATH=/bin'])
    })

    test('umask, limits, host name and working directory are fixed', async () => {
      const { output } = await get().run(
        'touch /tmp/f; stat -c %a /tmp/f /not /not/there . | tr "\\n" " "; ulimit -n; ulimit -c; hostname; pwd',
        {
          cwd: '/not/there/yet',
        },
      )
      expect(output.trim().split('\n')).toEqual([
        '644 755 755 755 1024',
        '0',
        'isula-build',
        '/not/there/yet',
      ])
    })

    test('uid, gid and supplementary groups are exactly the given ones (CVE-2022-36109)', async () => {
      const { output } = await get().run('id -u; id -g; id -G', {
        user: { uid: 1000, gid: 1001, additionalGids: [50, 60] },
      })
      expect(output.trim().split('\n').slice(0, 2)).toEqual(['1000', '1001'])
      expect(output.trim().split('\n')[2]?.split(' ').sort()).toEqual(['1001', '50', '60'])
    })

    test('the command is the only descriptor owner: 0, 1, 2 and the directory it lists (CVE-2024-21626)', async () => {
      const { output } = await get().run(['/bin/ls', '/proc/self/fd'])
      expect(output.trim().split('\n')).toEqual(['0', '1', '2', '3'])
    })

    test('pids, ipc and host name are its own', async () => {
      const own = (name: string): string =>
        execFileSync('readlink', [`/proc/self/ns/${name}`], { encoding: 'utf8' })
      const { output } = await get().run(
        'for n in pid ipc uts mnt net; do ls -l /proc/self/ns/$n; done; echo $$',
      )
      for (const name of ['pid', 'ipc', 'uts', 'mnt']) expect(output).not.toContain(own(name).trim())
      expect(output).toContain(own('net').trim())
      expect(output.trim().split('\n').at(-1)).toBe('1')
    })

    test('without a network there is only lo, and it is up', async () => {
      const { output } = await get().run(
        'ls /sys/class/net; ip addr show lo | grep -c 127.0.0.1; wc -c < /etc/resolv.conf',
        {
          network: 'none',
        },
      )
      expect(output.trim().split('\n')).toEqual(['lo', '1', '0'])
    })

    test("on the host's network the name servers are the host's and the own name is known", async () => {
      const { output } = await get().run('cat /etc/resolv.conf; grep -c isula-build /etc/hosts')
      expect(output).toBe(`${readFileSync('/etc/resolv.conf', 'utf8')}1\n`)
    })
  })

  describe('the end', () => {
    test('takes background processes along', async () => {
      const started = performance.now()
      const { exit } = await get().run('sleep 1000 & (setsid sleep 1000 &); exit 4')
      expect(exit).toEqual({ kind: 'exited', code: 4 })
      expect(performance.now() - started).toBeLessThan(5000)
      expect(leftovers(get().runRoot)).toEqual({ processes: [], mounts: [], cgroups: [], runs: [] })
    })

    test('a fork bomb stays in its limit of processes', async () => {
      const { output, exit } = await get().run(
        'i=0; while [ $i -lt 2500 ]; do sleep 100 & i=$((i+1)); done; exit 3',
      )
      expect(exit).not.toEqual({ kind: 'exited', code: 3 })
      expect(output).toMatch(/fork/)
      expect(leftovers(get().runRoot).processes).toEqual([])
    })

    test('an abort kills at once and leaves nothing', async () => {
      const controller = new AbortController()
      const running = get().run(
        'trap "" TERM INT; (trap "" TERM; setsid sleep 1000) & sleep 1000',
        {},
        controller.signal,
      )
      running.catch(() => undefined)
      await waitFor(() => leftovers(get().runRoot).processes[0])
      const started = performance.now()
      controller.abort()
      await expect(running).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
      expect(performance.now() - started).toBeLessThan(3000)
      expect(leftovers(get().runRoot)).toEqual({ processes: [], mounts: [], cgroups: [], runs: [] })
    })

    test('an abort at any moment of the start leaves nothing', async () => {
      for (let pause = 0; pause <= 120; pause += 15) {
        const controller = new AbortController()
        const running = get().run('sleep 1000', {}, controller.signal)
        running.catch(() => undefined)
        await sleep(pause)
        controller.abort()
        await expect(running).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
      }
      expect(leftovers(get().runRoot)).toEqual({ processes: [], mounts: [], cgroups: [], runs: [] })
    })

    test('the launcher goes before what computes, no command does', async () => {
      const nice = 'cut -d" " -f19 /proc/self/stat'
      const { output } = await get().run(`${nice}; sh -c 'sh -c "${nice.replaceAll('"', '\\"')}" & wait'`)
      expect(output).toBe('0\n0\n')
      const stat = readFileSync(`/proc/${get().runtime.launcherPid()}/stat`, 'latin1')
      expect(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]).toBe('-5')
    })

    test('many at once each get their own result', async () => {
      const all = await Promise.all(
        Array.from({ length: 12 }, (_, n) => get().run(`echo ${n}; sleep 0.2; exit ${n}`)),
      )
      expect(all.map(({ exit }) => exit)).toEqual(all.map((_, code) => ({ kind: 'exited', code })))
      expect(all.map(({ output }) => output)).toEqual(all.map((_, n) => `${n}\n`))
      expect(leftovers(get().runRoot)).toEqual({ processes: [], mounts: [], cgroups: [], runs: [] })
    })
  })
}
