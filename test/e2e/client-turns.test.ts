import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ClientBench, createClientBench } from '../support/client-bench.js'

const program = new URL('../../bin/isula-build', import.meta.url).pathname
const processors = readdirSync('/sys/devices/system/cpu').filter((name) => /^cpu\d+$/.test(name)).length

let bench: ClientBench
/** They keep the machine busy, so that clients start in turn. */
let crowd: readonly ChildProcess[] = []
beforeAll(async () => {
  bench = await createClientBench()
  crowd = Array.from({ length: processors + 2 }, () =>
    spawn('nice', ['-n', '19', 'sh', '-c', 'while :; do :; done'], { stdio: 'ignore' }),
  )
})
afterAll(async () => {
  for (const busy of crowd) busy.kill('SIGKILL')
  await bench[Symbol.asyncDispose]()
})

interface Turns extends AsyncDisposable {
  readonly directory: string
  readonly files: readonly string[]
}

/** A user's directory, with all turns taken. */
async function takenTurns(): Promise<Turns> {
  const directory = mkdtempSync(join(bench.work, 'user-'))
  mkdirSync(join(directory, 'isula-build'))
  const files = Array.from({ length: processors }, (_, at) => join(directory, `isula-build/start.${at}`))
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
  const { code, output } = await result(start(turns.directory, ['version']))
  expect([code, output]).toEqual([0, expect.stringContaining('Server:')])
  expect(areFree(turns.files)).toBe(false)
})

test('a client that waits for its input or the end of a build has ended its turn', async () => {
  const turns = await takenTurns()
  await turns[Symbol.asyncDispose]()
  const reading = start(turns.directory, ['ctr-img', 'build', '-'])
  const context = bench.context({ Dockerfile: 'FROM base:1\nRUN echo running; sleep 4\n' })
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
  await ended
  expect(building.exitCode).toBe(0)
})

test('a descriptor that the caller gave, and a directory of somebody else, are left alone', async () => {
  await using turns = await takenTurns()
  const file = openSync(join(bench.work, 'ninth'), 'w+')
  expect((await result(start(turns.directory, ['version'], file))).code).toBe(0)
  const others = mkdtempSync(join(bench.work, 'other-'))
  chownSync(others, 1234, 1234)
  expect((await result(start(others, ['version']))).code).toBe(0)
  expect(readdirSync(others)).toEqual([])
})
