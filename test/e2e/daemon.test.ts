import { execFileSync, type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startDaemon, type TestDaemon } from '../../scripts/lib/daemon.mjs'
import { receiveNotifications } from '../support/notify-receiver.js'

const program = fileURLToPath(new URL('../../bin/isula-builder', import.meta.url))
const defaults = fileURLToPath(new URL('../../etc', import.meta.url))
const isRoot = getuid?.() === 0

let work = ''
beforeAll(() => {
  work = mkdtempSync(join(tmpdir(), 'isula-start-'))
  chmodSync(work, 0o755)
})
afterAll(() => rmSync(work, { recursive: true, force: true }))

/** A start that is expected to end by itself; one that does not is ended and has no status. */
function attempt(args: readonly string[], more: object = {}): SpawnSyncReturns<string> {
  return spawnSync(program, args, { encoding: 'utf8', timeout: 15_000, ...more })
}

/** Directories of its own, with the default configuration. */
function place(name: string) {
  const directory = join(work, name)
  cpSync(defaults, join(directory, 'etc'), { recursive: true })
  const socket = join(directory, 's')
  const flags = ['--config-dir', join(directory, 'etc'), '--host', `unix://${socket}`, '--group', 'root']
  const roots = ['--dataroot', join(directory, 'data'), '--runroot', join(directory, 'run')]
  return { directory, socket, flags, roots, config: (file: string) => join(directory, 'etc', file) }
}

/** One line on stderr, perhaps a hint, exit code 1, and no stack trace. */
function expectRefusal(result: SpawnSyncReturns<string>, message: string | RegExp): void {
  expect(result.stderr).toMatch(message)
  expect(result.stderr).not.toMatch(/\n\s+at /)
  expect([result.status, result.signal]).toEqual([1, null])
}

describe('the command line', () => {
  test('tells version and flags, and completes them', () => {
    expect(attempt(['--version']).stdout).toMatch(/^isula-builder version \d+\.\d+\.\d+, build \S+\n$/)
    expect(attempt(['-h']).stdout).toMatch(/--config-dir string .*\n[\s\S]*--storage-opt/)
    const completion = attempt(['completion'])
    expect([completion.status, completion.stderr]).toEqual([0, ''])
    execFileSync('bash', ['-n'], { input: completion.stdout })
  })

  test('refuses unknown flags and arguments', () => {
    expectRefusal(attempt(['--nope']), /^unknown flag: --nope\nhint: See 'isula-builder --help'\.\n$/)
    expectRefusal(attempt(['serve']), /^"isula-builder" accepts no arguments, got "serve"\n/)
    expectRefusal(attempt(['--host', 'tcp://127.0.0.1:1']), /^invalid socket path: tcp:\/\/127\.0\.0\.1:1\n/)
  })
})

describe('a start that cannot be', () => {
  test.each([
    ['a missing policy', 'policy.json', undefined, /policy\.json is missing/],
    ['missing registries', 'registries.toml', undefined, /registries\.toml is missing/],
    ['an empty file', 'storage.toml', '', /storage\.toml is empty/],
    ['bad TOML', 'configuration.toml', 'debug = false\ngroup = "x\n', /configuration\.toml:2:\d+: /],
    ['a wrong type', 'configuration.toml', '\ndebug = 3\n', /configuration\.toml:2: `debug` must be true/],
  ])('for %s is refused and leaves nothing behind', (what, file, text, message) => {
    const { flags, roots, directory, config } = place(what.replaceAll(' ', '-'))
    if (text === undefined) rmSync(config(file))
    else writeFileSync(config(file), text)
    expectRefusal(attempt([...flags, ...roots]), message)
    expect(readdirSync(directory)).toEqual(['etc'])
  })

  test('for a FIFO in the place of a file does not wait', () => {
    const { flags, roots, config } = place('fifo')
    rmSync(config('configuration.toml'))
    execFileSync('mkfifo', [config('configuration.toml')])
    expectRefusal(attempt([...flags, ...roots]), /configuration\.toml is not a regular file/)
  })

  test('for equal or relative roots names both', () => {
    const { flags, directory } = place('roots')
    const same = join(directory, 'same')
    expectRefusal(
      attempt([...flags, '--dataroot', same, '--runroot', same]),
      `runroot("${same}") and dataroot("${same}") must be different paths`,
    )
    expectRefusal(
      attempt([...flags, '--dataroot', 'data', '--runroot', same]),
      'dataroot("data") must be an absolute path',
    )
    expect(existsSync(same)).toBe(false)
  })

  test.skipIf(!isRoot)('for a data root in memory', () => {
    const memory = mkdtempSync('/dev/shm/isula-start-')
    try {
      expect(statfsSync(memory).type).toBe(0x01021994)
      const { flags, directory } = place('memory')
      const result = attempt([...flags, '--dataroot', join(memory, 'data'), '--runroot', `${directory}/run`])
      expectRefusal(result, /the data root .* cannot be used: it is on tmpfs\nhint: /)
      expect(readdirSync(memory)).toEqual([])
    } finally {
      rmSync(memory, { recursive: true, force: true })
    }
  })

  test.skipIf(!isRoot)('for a group nobody made, and takes everything back', () => {
    const { flags, roots, directory, socket } = place('group')
    const result = attempt([...flags.slice(0, -1), 'no-such-group', ...roots])
    expectRefusal(result, /no group "no-such-group"\nhint: Create it with `groupadd no-such-group`/)
    expect(existsSync(socket)).toBe(false)
    expect(readdirSync(join(directory, 'etc'))).toEqual(readdirSync(defaults))
  })

  test('for roots that cannot be made', () => {
    const { flags, directory } = place('run')
    writeFileSync(join(directory, 'file'), '')
    const roots = ['--dataroot', join(directory, 'data'), '--runroot', join(directory, 'file/run')]
    expectRefusal(attempt([...flags, ...roots]), /the run root .*file\/run cannot be made: ENOTDIR/)
    const below = ['--dataroot', join(directory, 'file/data'), '--runroot', join(directory, 'run')]
    expectRefusal(attempt([...flags, ...below]), /the data root .*file\/data cannot be used: ENOTDIR/)
  })

  test.skipIf(!isRoot)('for anybody but root', () => {
    const { flags, directory } = place('nobody')
    mkdirSync(join(directory, 'open'))
    chmodSync(join(directory, 'open'), 0o777)
    const roots = ['--dataroot', `${directory}/open/data`, '--runroot', `${directory}/open/run`]
    const result = attempt([...flags, ...roots], { uid: 65_534, gid: 65_534 })
    expectRefusal(result, /needs root/)
    expect(readdirSync(join(directory, 'open'))).toEqual([])
  })

  test.skipIf(!isRoot)('for a file at the path of the socket, which stays', () => {
    const { flags, roots, socket } = place('foreign')
    writeFileSync(socket, 'precious')
    expectRefusal(attempt([...flags, ...roots]), `cannot listen on ${socket}: it is no socket`)
    expect(readFileSync(socket, 'utf8')).toBe('precious')
  })
})

describe.skipIf(!isRoot)('a running daemon', () => {
  let daemon: TestDaemon
  const context = (name: string): string => {
    const directory = join(work, name)
    mkdirSync(directory)
    writeFileSync(join(directory, 'Dockerfile'), 'FROM scratch\nCOPY Dockerfile /\n')
    return directory
  }
  const events = (): { event: string; level: number }[] =>
    readFileSync(daemon.log, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))

  beforeAll(async () => {
    const directory = join(work, 'running')
    cpSync(defaults, join(directory, 'etc'), { recursive: true })
    chmodSync(join(directory, 'etc'), 0o750)
    for (const file of readdirSync(defaults)) chmodSync(join(directory, 'etc', file), 0o600)
    daemon = await startDaemon({ directory, args: ['-D'], group: 'daemon' })
  })
  afterAll(async () => await daemon?.stop())

  test('logs one JSON document per line, with debug as asked for', async () => {
    // It answers before it could build, and is ready when it can do all.
    await expect.poll(() => events().map(({ event }) => event), { timeout: 15_000 }).toContain('daemon.ready')
    expect(events().some(({ level }) => level === 20)).toBe(true)
  })

  test('leaves nothing open to others', () => {
    const open = execFileSync(
      'find',
      [daemon.data, daemon.run, join(daemon.directory, 'etc'), '-maxdepth', '2', '-perm', '/o+rwx'],
      { encoding: 'utf8' },
    )
    // Links have no permissions of their own.
    const found = open.split('\n').filter((path) => path !== '' && !statSync(path).isSymbolicLink())
    expect(found).toEqual([])
    for (const path of [daemon.data, daemon.run]) expect(statSync(path).mode & 0o7777).toBe(0o700)
    const gid = Number(/^daemon:[^:]*:(\d+):/m.exec(readFileSync('/etc/group', 'utf8'))?.[1])
    const socket = statSync(daemon.socket)
    expect([socket.mode & 0o7777, socket.uid, socket.gid]).toEqual([0o660, 0, gid])
    const key = statSync(join(daemon.directory, 'etc/isula-build.pub'))
    expect([key.mode & 0o7777, key.gid]).toEqual([0o440, gid])
    expect(statSync(join(daemon.directory, 'etc')).gid).toBe(gid)
    expect(statSync(join(daemon.data, 'transport-key.pem')).mode & 0o7777).toBe(0o600)
  })

  test('is not disturbed by a second one, which names its pid', () => {
    const key = readFileSync(join(daemon.directory, 'etc/isula-build.pub'), 'utf8')
    const config = ['--config-dir', join(daemon.directory, 'etc'), '--group', 'root']
    const roots = ['--dataroot', daemon.data, '--runroot', daemon.run]
    const host = ['--host', daemon.host]
    const other = place('second')
    const pid = `(pid ${daemon.child?.pid})`
    expectRefusal(attempt([...config, ...roots, ...host]), pid)
    expectRefusal(attempt([...other.flags, ...roots.slice(0, 2), '--runroot', `${other.directory}/r`]), pid)
    expectRefusal(attempt([...other.flags, '--dataroot', `${other.directory}/d`, ...roots.slice(2)]), pid)
    // Only the socket and the configuration are the same.
    expectRefusal(attempt([...config, ...other.roots, ...host]), 'another daemon listens there')
    expect(daemon.client(['version']).status).toBe(0)
    expect(readFileSync(join(daemon.directory, 'etc/isula-build.pub'), 'utf8')).toBe(key)
    expect(daemon.child?.exitCode).toBeNull()
  })

  test('writes its stacks at SIGUSR1, keeps five of them and opens no debugger', async () => {
    const dumps = (): string[] => readdirSync(daemon.run).filter((name) => name.startsWith('stack-'))
    for (let signal = 1; signal <= 7; signal++) {
      daemon.child?.kill('SIGUSR1')
      const dumped = (): number => events().filter(({ event }) => event === 'stack.dumped').length
      await expect.poll(dumped, { timeout: 15_000 }).toBe(signal)
    }
    expect(dumps()).toHaveLength(5)
    expect(dumps()[0]).toMatch(/^stack-\d{4}-\d\d-\d\dT\d{6}\.\d{3}Z\.log$/)
    expect(readFileSync(daemon.log, 'utf8')).not.toContain('Debugger')
    expect(daemon.client(['version']).status).toBe(0)
  })

  test('keeps its images over a restart', async () => {
    const built = daemon.image(['build', '-t', 'kept:1', context('kept')])
    expect([built.status, built.stderr]).toEqual([0, ''])
    const images = daemon.image(['images']).stdout
    expect(images).toMatch(/kept +1 /)
    expect(await daemon.kill('SIGTERM')).toEqual({ code: 0, signal: null })
    expect(existsSync(daemon.socket)).toBe(false)
    expect(existsSync(join(daemon.directory, 'etc/isula-build.pub'))).toBe(false)
    await daemon.start()
    expect(daemon.image(['images']).stdout).toBe(images)
  })

  test('replaces the socket of one that was killed', async () => {
    await daemon.kill('SIGKILL')
    expect(statSync(daemon.socket).isSocket()).toBe(true)
    await daemon.start()
    expect(daemon.client(['version']).status).toBe(0)
  })
})

describe.skipIf(!isRoot)('a daemon under a service manager', () => {
  test('is ready when its socket answers, obeys its files, and tells when it stops', async () => {
    const { directory, socket, flags, config } = place('managed')
    const data = join(directory, 'of-the-file')
    writeFileSync(
      config('configuration.toml'),
      `data_root = "${data}"\nrun_root = "${directory}/overridden"\nexperimental = true\n`,
    )
    writeFileSync(config('storage.toml'), `[storage]\ngraphroot = "${directory}/unused"\n`)
    const notify = join(directory, 'notify')
    await using receiver = await receiveNotifications(notify, socket)
    // The modes must not depend on the umask it is started with.
    const started = ['umask 000; exec "$@"', 'sh', program, ...flags, '--runroot', `${directory}/of-the-flag`]
    const child = spawn('sh', ['-c', ...started], {
      env: { ...process.env, NOTIFY_SOCKET: notify },
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    const ended = once(child, 'exit')
    try {
      expect(await receiver.next()).toBe('READY=1 answers')
      expect(statSync(socket).mode & 0o7777).toBe(0o660)
      const client = fileURLToPath(new URL('../../bin/isula-build', import.meta.url))
      const env = { ...process.env, ISULABUILD_HOST: `unix://${socket}` }
      const { stdout } = spawnSync(client, ['info'], { encoding: 'utf8', env })
      expect(stdout).toContain(`DataRoot:     ${data}\n`)
      expect(stdout).toContain(`RunRoot:      ${directory}/of-the-flag\n`)
      expect(stdout).toContain('Experimental: true\n')
      child.kill('SIGTERM')
      expect(await receiver.next()).toMatch(/^STOPPING=1 /)
    } finally {
      child.kill('SIGTERM')
      await ended
    }
    expect(child.exitCode).toBe(0)
    for (const unused of ['unused', 'overridden']) expect(existsSync(join(directory, unused))).toBe(false)
  })

  test('listens on a path as long as a socket’s may be', async () => {
    const { directory, flags, roots } = place('long')
    const parent = join(directory, 'x'.repeat(107 - directory.length - 3))
    mkdirSync(parent)
    const socket = join(parent, 's')
    expect(socket).toHaveLength(107)
    const notify = join(directory, 'notify')
    await using receiver = await receiveNotifications(notify, socket)
    const child = spawn(program, [...flags, ...roots, '--host', `unix://${socket}`], {
      env: { ...process.env, NOTIFY_SOCKET: notify },
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    const ended = once(child, 'exit')
    const first = await Promise.race([receiver.next(), ended])
    child.kill('SIGTERM')
    await ended
    expect(first).toBe('READY=1 answers')
  })
})
