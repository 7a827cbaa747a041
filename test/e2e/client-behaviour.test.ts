import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ClientBench, createClientBench } from '../support/client-bench.js'
import { leftovers } from '../support/runtime-leftovers.js'

let bench: ClientBench
beforeAll(async () => {
  bench = await createClientBench()
})
afterAll(() => bench[Symbol.asyncDispose]())

const program = (name: string): string => new URL(`../../bin/${name}`, import.meta.url).pathname
const client = (...args: readonly string[]) => bench.daemon.client(args)

/** Starts `ctr-img ARGS` and gives its output so far. */
function start(args: readonly string[]) {
  const child = spawn(process.execPath, [program('ctr-img'), ...args], {
    env: { ...process.env, ISULABUILD_HOST: bench.daemon.host },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const output = { stdout: '', stderr: '' }
  child.stdout.on('data', (data) => {
    output.stdout += String(data)
  })
  child.stderr.on('data', (data) => {
    output.stderr += String(data)
  })
  const ended = new Promise<number | string | null>((resolve) =>
    child.once('close', (code, signal) => resolve(code ?? signal)),
  )
  return { child, output, ended }
}

async function until(holds: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (holds()) return
    await sleep(20)
  }
  throw new Error(`still not: ${what}`)
}

/** Nothing of a build is left on the daemon. */
async function expectClean(): Promise<void> {
  const nothing = { processes: [], mounts: [], cgroups: [], runs: [] }
  await until(
    () => JSON.stringify(leftovers(bench.daemon.run)) === JSON.stringify(nothing),
    `clean: ${JSON.stringify(leftovers(bench.daemon.run))}`,
  )
  await until(() => readdirSync(join(bench.daemon.data, 'staging')).length === 0, 'staging is empty')
  expect(client('info').stdout).toContain('  Builders:     0\n')
}

describe('version and info', () => {
  test('version has both sides in the layout of the original', () => {
    const { status, stdout } = client('version')
    expect(status).toBe(0)
    const side = String.raw`  Version:       \S+\n  Go Version:    node v\d+\S+\n  Git Commit:    \S+\n  Built:         [A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\n  OS/Arch:       linux\/[a-z0-9]+\n`
    expect(stdout).toMatch(new RegExp(`^Client:\n${side}\nServer:\n${side}$`))
  })

  test('version shows the client although no daemon answers', () => {
    const { status, stdout, stderr } = client('version', '--host', 'unix:///nonexistent/x.sock')
    expect(status).toBe(125)
    expect(stdout).toMatch(/^Client:\n {2}Version: /)
    expect(stdout).not.toContain('Server')
    expect(stderr.split('\n')[0]).toBe('invalid socket path: unix:///nonexistent/x.sock')
  })

  test('--version is one line', () => {
    for (const flag of ['--version', '-v']) {
      expect(client(flag).stdout).toMatch(/^isula-build version \S+, build \S+\n$/)
    }
  })

  test('info has the layout of the original', () => {
    const { status, stdout } = client('info')
    expect(status).toBe(0)
    expect(stdout).toMatch(
      /^General:\n {2}MemTotal: {5}\d+\n {2}MemFree: {6}\d+\n {2}SwapTotal: {4}\d+\n {2}SwapFree: {5}\d+\n {2}OCI Runtime: {2}\S+\n {2}DataRoot: {5}(.*)\n {2}RunRoot: {6}(.*)\n {2}Builders: {5}0\n {2}Goroutines: {3}\d+\n {2}Experimental: false\nStore:\n {2}Storage Driver: {5}overlay\n {2}Backing Filesystem: \S+\nRegistry:\n {2}Search Registries:\n( {4}.*\n)* {2}Insecure Registries:\n( {4}.*\n)*$/,
    )
    expect(stdout).toContain(`  DataRoot:     ${bench.daemon.data}\n`)
  })

  test('info -H has units of a thousand, -V the memory of the daemon', () => {
    const total = Number(/MemTotal: +(\d+)/.exec(client('info').stdout)?.[1])
    const { stdout } = client('info', '-H', '-V')
    const [, number = '', unit = ''] = /MemTotal: +([\d.]+) (\w+)/.exec(stdout) ?? []
    const scale = { KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 }[unit] ?? 0
    expect(Math.abs(Number(number) * scale - total) / total).toBeLessThan(0.01)
    const size = String.raw`[\d.]+ [KMG]?B\n`
    expect(stdout).toMatch(
      new RegExp(
        `Runtime:\n  MemSys: {10}${size}  HeapSys: {9}${size}  HeapAlloc: {7}${size}  MemHeapInUse: {4}${size}  MemHeapIdle: {5}${size}  MemHeapReleased: ${size}$`,
      ),
    )
  })
})

describe('the command line', () => {
  test.each([
    [['nope'], 'unknown command "nope" for "isula-build"\n'],
    [['ctr-img', 'build', '--nope'], "unknown flag: --nope\nSee 'isula-build ctr-img build --help'.\n"],
    [
      ['info', 'x'],
      '"isula-build info" accepts no arguments.\nSee \'isula-build info --help\'.\n\nExample:   isula-build info -H\n',
    ],
    [['info', '--timeout', '1ms'], 'invalid timeout value: 1ms, supported range [100ms, 2m0s]\n'],
    [['info', '--log-level', 'loud'], 'unsupported log level: loud\nhint: Use debug, info, warn or error.\n'],
  ])('%j is refused with exit code 1', (args, message) => {
    const { status, stdout, stderr } = client(...args)
    expect([status, stdout, stderr]).toEqual([1, '', message])
  })

  test('a call that says more than the daemon takes is refused before it is sent', () => {
    const directory = mkdtempSync(join(tmpdir(), 'client-long-call-'))
    try {
      writeFileSync(join(directory, 'Dockerfile'), 'FROM scratch\nCOPY Dockerfile /\n')
      writeFileSync(join(directory, 'long'), Buffer.alloc(499 * 1024))
      const secrets = Array.from({ length: 9 }, (_, i) => `--secret=id=s${i},src=${join(directory, 'long')}`)
      const { status, stderr } = client('ctr-img', 'build', ...secrets, directory)
      expect(status).toBe(1)
      expect(stderr).toMatch(/has 4\d{6} bytes, and the daemon takes 4194304\nhint: Put long values/)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  test('no command, an unknown one of a group, -h and help show help', () => {
    const help = client('--help').stdout
    expect(help).toContain('Available Commands:\n  ctr-img  ')
    expect(client().stdout).toBe(help)
    expect(client('help').stdout).toBe(help)
    const group = client('ctr-img', 'foo')
    expect([group.status, group.stdout]).toEqual([0, client('ctr-img', '-h').stdout])
    expect(group.stderr).toContain('unknown command "foo" for "isula-build ctr-img"\n')
    expect(client('ctr-img', 'bild').stderr).toContain('"isula-build ctr-img". Did you mean "build"?\n')
    expect(client('manifest', 'foo').stderr).toContain('unknown command "foo" for "isula-build manifest"\n')
    expect(client('ctr-img').stderr).toBe('')
    expect(client('help', 'ctr-img', 'build').stdout).toBe(client('ctr-img', 'build', '--help').stdout)
    expect(bench.ok(['build', '-h'])).toContain('isula-build ctr-img build [FLAGS] PATH')
  })

  test('completion is printed for bash and zsh', () => {
    expect(client('completion').stdout).toContain('complete -o filenames -F _isula_build isula-build ctr-img')
    expect(client('completion', 'zsh').stdout).toContain('bashcompinit')
    expect(client('completion', 'fish').status).toBe(1)
  })
})

describe('signals', () => {
  const sleeping = 'FROM base:1\nRUN echo running; sleep 1000\n'

  test.each(['SIGINT', 'SIGTERM'] as const)(
    '%s cancels the build: exit code 130, nothing left',
    async (signal) => {
      const context = bench.context({ Dockerfile: sleeping })
      const { child, output, ended } = start(['build', '--no-cache', context])
      await until(() => output.stdout.includes('running'), 'running')
      const began = performance.now()
      child.kill(signal)
      expect(await ended).toBe(130)
      expect(performance.now() - began).toBeLessThan(2000)
      expect(output.stderr).toMatch(/cancel/i)
      await expectClean()
    },
  )

  test('a client that is killed takes its build along', async () => {
    const context = bench.context({ Dockerfile: sleeping })
    const { child, output, ended } = start(['build', '--no-cache', context])
    await until(() => output.stdout.includes('running'), 'running')
    child.kill('SIGKILL')
    expect(await ended).toBe('SIGKILL')
    await expectClean()
  })

  test('a daemon that is killed ends its client with exit code 125', async () => {
    const context = bench.context({ Dockerfile: sleeping })
    const { output, ended } = start(['build', '--no-cache', context])
    await until(() => output.stdout.includes('running'), 'running')
    const began = performance.now()
    await bench.daemon.kill('SIGKILL')
    expect(await ended).toBe(125)
    expect(performance.now() - began).toBeLessThan(2000)
    expect(output.stderr).not.toContain('rpc error')
    await bench.daemon.start()
    await expectClean()
  })
})

describe('standard output', () => {
  const shell = (script: string) =>
    spawnSync('bash', ['-c', script, program('ctr-img')], {
      encoding: 'utf8',
      cwd: bench.work,
      env: { ...process.env, ISULABUILD_HOST: bench.daemon.host },
    })

  test('that nobody reads any more ends the client quietly', () => {
    const { stderr, stdout } = shell(
      'set -o pipefail; printf "FROM base:1\\nRUN yes | head -c 3000000\\n" | "$0" build --no-cache -f - . | head -1; echo "$?"',
    )
    expect([stdout, stderr]).toEqual(['STEP  1: FROM base:1\n141\n', ''])
    expect(shell('"$0" save base:1 -o - | head -c 10 | wc -c').stdout.trim()).toBe('10')
    expect(shell('"$0" save base:1 -o - | head -c 10 | wc -c').stderr).toBe('')
  })

  test('that is full is an error', () => {
    const { status, stderr } = shell('"$0" images > /dev/full')
    expect(status).toBe(1)
    expect(stderr).toContain('cannot write to standard output: ')
  })

  test('gets every byte of what a RUN writes', () => {
    const input = 'FROM base:1\nRUN seq 1 300000\n'
    const { stdout } = bench.run(['build', '--no-cache', '-f', '-', '.'], { input })
    const numbers = stdout.split('\n').filter((line) => /^\d+$/.test(line))
    expect(numbers).toHaveLength(300_000)
    expect(numbers.every((line, i) => line === String(i + 1))).toBe(true)
  })

  test.each([
    ['a file', '> out; cat out'],
    ['a pipe', '| cat'],
    ['a pipe that is read late', '| { sleep 0.5; cat; }'],
  ])('is the same in %s', (_what, redirected) => {
    const { stdout, stderr } = shell(
      `printf 'FROM base:1\\nRUN seq 1 100000; printf end\\n' | "$0" build --no-cache -f - . ${redirected}`,
    )
    expect(stderr).toBe('')
    const lines = stdout.split('\n')
    const begin = lines.indexOf('1')
    const numbers = Array.from({ length: 100_000 }, (_, at) => String(at + 1))
    expect(lines.slice(begin, begin + 100_000)).toEqual(numbers)
    expect(lines[begin + 100_000]).toBe('end')
    expect(lines.at(-2)).toMatch(/^Build success with image id: [0-9a-f]{64}$/)
  })

  test('in a file that may not grow is an error', () => {
    const { status, stderr } = shell(
      `trap '' XFSZ; ulimit -f 8; printf 'FROM base:1\\nRUN seq 1 200000\\n' | "$0" build --no-cache -f - . > short`,
    )
    expect(status).toBe(1)
    expect(stderr).toContain('cannot write to standard output: ')
  })

  test('has no colour that was not asked for', () => {
    const { stdout, stderr } = bench.run(['build', '-f', '-', '.'], { input: 'FROM base:1\nRUN exit 1\n' })
    expect(stdout + stderr).not.toContain('\u001b')
  })
})

describe('a daemon that cannot be reached', () => {
  function info(...args: readonly string[]) {
    const began = performance.now()
    const { status, stdout, stderr } = client('info', ...args)
    return { status, stdout, stderr, ms: performance.now() - began }
  }

  test('for a user outside its group: which group that is, exit code 125', () => {
    chmodSync(bench.work, 0o755)
    chmodSync(bench.daemon.directory, 0o755)
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [program('isula-build'), 'info', '--host', bench.daemon.host],
      { encoding: 'utf8', uid: 65534, gid: 65534, env: { PATH: process.env['PATH'] ?? '' } },
    )
    expect([status, stdout]).toEqual([125, ''])
    expect(stderr).toBe(
      `Cannot connect to the isula-builder at ${bench.daemon.host}. Is the isula-builder running?\n` +
        'Error: permission denied\n' +
        'hint: Only root and the group root may use it: usermod -aG root nobody, then log in again.\n',
    )
  })

  test('that hangs: told when --timeout is over', () => {
    const child: ChildProcess | undefined = bench.daemon.child
    child?.kill('SIGSTOP')
    try {
      const { status, stderr, ms } = info('--timeout', '500ms')
      expect(status).toBe(125)
      expect(stderr).toContain('Error: it took the connection but did not answer in time')
      expect(ms).toBeLessThan(2000)
    } finally {
      child?.kill('SIGCONT')
    }
  })

  test('that was stopped or killed: told at once', async () => {
    await bench.daemon.kill('SIGTERM')
    const stopped = info()
    expect([stopped.status, stopped.stderr.split('\n')[0]]).toEqual([
      125,
      `invalid socket path: ${bench.daemon.host}`,
    ])
    await bench.daemon.start()
    await bench.daemon.kill('SIGKILL')
    expect(existsSync(bench.daemon.socket)).toBe(true)
    const killed = info()
    expect(killed.status).toBe(125)
    expect(killed.stderr).toContain('Error: connection refused')
    expect(killed.ms).toBeLessThan(2000)
    await bench.daemon.start()
    expect(info().status).toBe(0)
  })
})

test('what a user may not read or write is refused to his client', () => {
  const nobody = {
    uid: 65534,
    gid: 0,
    env: { PATH: process.env['PATH'] ?? '', ISULABUILD_HOST: bench.daemon.host },
  }
  const asNobody = (...args: readonly string[]) =>
    spawnSync(process.execPath, [program('ctr-img'), ...args], { ...nobody, encoding: 'utf8', cwd: '/' })
  const context = bench.context({ Dockerfile: 'FROM base:1\nCOPY secret /s\n', secret: 'x' })
  chmodSync(join(context, 'secret'), 0o600)
  const copied = asNobody('build', context)
  expect(copied.status).toBe(1)
  expect(copied.stderr).toContain('secret')
  chmodSync(join(context, 'Dockerfile'), 0o600)
  expect(asNobody('build', context).stderr).toContain('permission denied')
  const out = join(context, 'out.tar')
  expect(asNobody('save', 'base:1', '-o', out).status).toBe(1)
  expect(existsSync(out)).toBe(false)
  const iid = asNobody('build', '--iidfile', join(context, 'iid'), '-f', '/dev/null', context)
  expect(iid.stderr).toContain('cannot write the image ID: access ')
  // In a directory of his own everything is his.
  chownSync(context, nobody.uid, nobody.gid)
  chmodSync(join(context, 'Dockerfile'), 0o644)
  chmodSync(join(context, 'secret'), 0o644)
  const built = asNobody('build', '--iidfile', join(context, 'iid'), '-o', `docker-archive:${out}`, context)
  expect([built.stderr, built.status]).toEqual(['', 0])
  for (const path of [out, join(context, 'iid')]) expect(statSync(path).uid).toBe(nobody.uid)
  expect(readFileSync(join(context, 'iid'), 'utf8')).toMatch(/^[0-9a-f]{64}$/)
})

test('a command does not wait for an input it does not read', () => {
  const fd = openSync('/dev/zero', 'r')
  try {
    const { status } = bench.daemon.client(['version'], { stdio: [fd, 'pipe', 'pipe'], timeout: 10_000 })
    expect(status).toBe(0)
  } finally {
    closeSync(fd)
  }
})
