import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type ClientBench, createClientBench } from '../support/client-bench.js'

const program = new URL('../../bin/isula-build', import.meta.url).pathname
const processors = readdirSync('/sys/devices/system/cpu').filter((name) => /^cpu\d+$/.test(name)).length

let bench: ClientBench
/** They keep the machine busy, so that clients start in turn. */
let crowd: readonly ChildProcess[] = []
beforeAll(async () => {
  bench = await createClientBench()
  crowd = Array.from({ length: processors + 2 }, () =>
    spawn('timeout', ['300', 'nice', '-n', '19', 'sh', '-c', 'while :; do :; done'], { stdio: 'ignore' }),
  )
})
afterAll(async () => {
  for (const busy of crowd) busy.kill('SIGTERM')
  await bench[Symbol.asyncDispose]()
})

interface Turns extends AsyncDisposable {
  readonly directory: string
  readonly files: readonly string[]
}

/** A user's directory, with all turns taken. */
async function takenTurns(): Promise<Turns> {
  const directory = mkdtempSync(join(bench.work, 'user-'))
  const own = join(directory, 'isula-build-0')
  mkdirSync(own)
  const files = Array.from({ length: processors }, (_, at) => join(own, `start.${at}`))
  const holders = files.map((file) => spawn('flock', [file, 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] }))
  const release = async (): Promise<void> => {
    for (const holder of holders.filter(({ exitCode }) => exitCode === null)) {
      holder.stdin.end()
      await once(holder, 'exit')
    }
  }
  for (const holder of holders) {
    holder.stdin.write('held')
    await once(holder.stdout, 'data')
  }
  return { directory, files, [Symbol.asyncDispose]: release }
}

function start(
  directory: string,
  args: readonly string[],
  ninth: 'ignore' | number = 'ignore',
): ChildProcess {
  const env = { PATH: process.env['PATH'], XDG_RUNTIME_DIR: directory, ISULABUILD_HOST: bench.daemon.host }
  const more = ninth === 'ignore' ? [] : [...Array<'ignore'>(6).fill('ignore'), ninth]
  return spawn(program, args, { env, stdio: ['pipe', 'pipe', 'inherit', ...more] })
}

async function result(client: ChildProcess): Promise<{ code: number | null; output: string }> {
  if (client.stdout === null) throw new Error('the client has no output')
  const ended = once(client, 'exit')
  const output = await text(client.stdout)
  await ended
  return { code: client.exitCode, output }
}

/** The client is still the shell that waits for flock. */
function isWaiting({ pid }: ChildProcess): boolean {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  return children !== '' && readFileSync(`/proc/${children}/comm`, 'utf8') === 'flock\n'
}

async function until(holds: () => boolean): Promise<void> {
  for (let round = 0; !holds(); round++) {
    if (round === 500) throw new Error('it did not come about within ten seconds')
    await pause(20)
  }
}

/** That all can be had says that nobody holds one. */
function areFree(files: readonly string[]): boolean {
  return files.every((file) => spawnSync('flock', ['-n', file, 'true']).status === 0)
}

test('a client on a busy machine starts when it is its turn', async () => {
  const turns = await takenTurns()
  const client = start(turns.directory, ['version'])
  await until(() => isWaiting(client))
  await turns[Symbol.asyncDispose]()
  const { code, output } = await result(client)
  expect([code, output]).toEqual([0, expect.stringContaining('Server:')])
})

test('a client whose turn does not come starts all the same', async () => {
  await using turns = await takenTurns()
  const begun = performance.now()
  const { code, output } = await result(start(turns.directory, ['version']))
  expect([code, output]).toEqual([0, expect.stringContaining('Server:')])
  expect(performance.now() - begun).toBeGreaterThan(4900)
  expect(areFree(turns.files)).toBe(false)
})

test('a client that waits for its input or the end of a build has ended its turn', async () => {
  const turns = await takenTurns()
  await turns[Symbol.asyncDispose]()
  const reading = start(turns.directory, ['ctr-img', 'build', '-'])
  const context = bench.context({ Dockerfile: 'FROM base:1\nRUN echo running; sleep 120\n' })
  const building = start(turns.directory, ['ctr-img', 'build', '--no-cache', context])
  let log = ''
  building.stdout?.on('data', (chunk) => {
    log += chunk
  })
  const ended = once(building, 'exit')
  await until(() => log.includes('\nrunning'))
  await until(() => areFree(turns.files))
  expect([reading.exitCode, building.exitCode]).toEqual([null, null])
  reading.stdin?.end('FROM base:1\n')
  expect((await result(reading)).code).toBe(0)
  building.kill('SIGINT')
  await ended
})

test('a client that asks somebody has ended its turn', async () => {
  const turns = await takenTurns()
  await turns[Symbol.asyncDispose]()
  const env = {
    PATH: process.env['PATH'],
    XDG_RUNTIME_DIR: turns.directory,
    ISULABUILD_HOST: bench.daemon.host,
  }
  const asking = spawn('script', ['-qec', `${program} ctr-img prune`, '/dev/null'], { env, stdio: 'pipe' })
  let shown = ''
  asking.stdout.on('data', (chunk) => {
    shown += chunk
  })
  const ended = once(asking, 'exit')
  await until(() => shown.includes('[y/N]'))
  await until(() => areFree(turns.files))
  expect(asking.exitCode).toBe(null)
  asking.stdin.write('n\n')
  await ended
})

/** What Node.js gets from the program: its environment, and where its ninth descriptor leads. */
interface Given {
  readonly environment: ReadonlyMap<string, string>
  readonly ninth: string
}

/** Starts the program with another Node.js, one that only looks; `shell` as the system's. */
function given(shell: readonly string[], environment: Readonly<Record<string, string>>): Given {
  const bin = mkdtempSync(join(bench.work, 'bin-'))
  writeFileSync(join(bin, 'node'), '#!/bin/sh\nreadlink /proc/self/fd/9 || echo none\nenv\n')
  chmodSync(join(bin, 'node'), 0o755)
  const [command = '', ...args] = [...shell, program]
  const env = { PATH: `${bin}:${process.env['PATH']}`, ...environment }
  const { status, stdout, stderr } = spawnSync(command, args, { env, encoding: 'utf8', timeout: 60_000 })
  expect([status, stderr]).toEqual([0, ''])
  const [ninth = '', ...lines] = stdout.trimEnd().split('\n')
  return {
    ninth,
    environment: new Map(lines.map((line) => [line.split('=')[0] ?? '', line.slice(line.indexOf('=') + 1)])),
  }
}

describe.each([
  ['sh', ['sh']],
  ['bash', ['bash', '--posix']],
  ['bash that stops at errors', ['env', 'SHELLOPTS=errexit:posix', 'bash']],
])('with %s', (_, shell) => {
  let directory: string
  beforeEach(() => {
    directory = mkdtempSync(join(bench.work, 'user-'))
  })

  test('the turn is the lock of a file of the user', () => {
    const { ninth, environment } = given(shell, { XDG_RUNTIME_DIR: directory })
    expect(ninth).toMatch(new RegExp(`^${directory}/isula-build-0/start\\.\\d+$`))
    expect(environment.get('ISULABUILD_TURN')).toMatch(/^\d+$/)
  })

  test('the environment stays as it is, but for what is meant for Node.js', () => {
    const kept = { tasks: 'mine', key: 'mine', own: 'mine', XDG_RUNTIME_DIR: directory }
    const { environment } = given(shell, {
      ...kept,
      ...{ NODE_OPTIONS: '--no-such-flag', NODE_EXTRA_CA_CERTS: '/none', ISULABUILD_TURN: '1' },
    })
    expect(Object.fromEntries(environment)).toMatchObject(kept)
    expect([...environment.keys()].filter((name) => /^NODE_|^isulabuild_/.test(name))).toEqual([])
    expect(environment.get('ISULABUILD_TURN')).not.toBe('1')
  })

  test('nothing of somebody else is opened', () => {
    const own = join(directory, 'isula-build-0')
    // One that opened this for writing would wait for ever.
    const trap = (): void => {
      for (let at = 0; at < processors; at++) spawnSync('mkfifo', [join(own, `start.${at}`)])
    }
    mkdirSync(own)
    trap()
    chownSync(own, 1234, 1234)
    expect(given(shell, { XDG_RUNTIME_DIR: directory }).ninth).toBe('none')
    rmSync(own, { recursive: true })
    const target = mkdtempSync(join(bench.work, 'target-'))
    symlinkSync(target, own)
    expect(given(shell, { XDG_RUNTIME_DIR: directory }).ninth).toBe('none')
    expect(readdirSync(target)).toEqual([])
  })

  test('a directory of somebody else is not the place', () => {
    chownSync(directory, 1234, 1234)
    expect(given(shell, { XDG_RUNTIME_DIR: directory }).ninth).toMatch(/^\/tmp\/isula-build-0\/start/)
    expect(existsSync(join(directory, 'isula-build-0'))).toBe(false)
  })
})

test('a descriptor that the caller gave is left alone', async () => {
  await using turns = await takenTurns()
  const file = openSync(join(bench.work, 'ninth'), 'w+')
  try {
    const begun = performance.now()
    expect((await result(start(turns.directory, ['version'], file))).code).toBe(0)
    expect(performance.now() - begun).toBeLessThan(4900)
  } finally {
    closeSync(file)
  }
})
