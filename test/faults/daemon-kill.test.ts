import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Connection } from '../../packages/client/src/connect.js'
import { isBuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { type ClientEnd, createDaemonBench, type DaemonBench, diskUsage } from '../support/daemon-bench.js'
import {
  killCount,
  killRounds,
  killSeed,
  namedOrUntouched,
  type Victim,
  visible,
} from '../support/kill-rounds.js'
import { seededRandom } from '../support/random-choices.js'

let bench: DaemonBench
/** Made before the clock of a round starts. */
let dialled: Connection | undefined
const isRoot = getuid?.() === 0

function fillTree(directory: string, files: number, mebibytes: number): void {
  mkdirSync(directory, { recursive: true })
  for (let index = 0; index < files; index++) {
    writeFileSync(join(directory, `file-${index}`), randomBytes(1000 + index))
  }
  writeFileSync(join(directory, 'big'), randomBytes(mebibytes * 1024 * 1024))
}

/** A client that finds no daemon does not wait long for one. */
const quickly = ['--timeout', '1s']

const clientSucceeded = ({ status }: ClientEnd): boolean => status === 0

/** The client told the user about an image, or that it failed; it never hangs. */
function judgeNamed(name: string, printedId: RegExp): Victim<ClientEnd>['judge'] {
  return (outcome, before, after) => {
    namedOrUntouched(name, before, after)
    if (!clientSucceeded(outcome)) {
      expect(outcome.stderr).not.toBe('')
      return
    }
    const id = printedId.exec(outcome.stdout + outcome.stderr)?.[1]
    expect(after.names[name]).toBe(id)
  }
}

async function dial(): Promise<void> {
  dialled = await bench.connect()
}

async function removeImage(name: string): Promise<void> {
  const found = (await bench.images()).find(({ names }) => names.includes(name))
  if (found !== undefined) await bench.image('rm', found.id)
  await bench.prune()
}

/** Runs calls a few at a time; gives the ones that were acknowledged. The daemon's death ends the rest. */
async function callAll<T>(
  items: readonly T[],
  width: number,
  call: (item: T) => Promise<void>,
): Promise<Set<T>> {
  const acknowledged = new Set<T>()
  const pending = [...items]
  const lane = async (): Promise<void> => {
    for (let item = pending.shift(); item !== undefined; item = pending.shift()) {
      await call(item)
      acknowledged.add(item)
    }
  }
  const lanes = await Promise.allSettled(Array.from({ length: width }, lane))
  for (const end of lanes) {
    if (end.status === 'fulfilled') continue
    // What a dead daemon looks like; any other failure is the daemon's own.
    if (!isBuilderError(end.reason, 'ISB_DAEMON_UNREACHABLE')) throw end.reason
  }
  return acknowledged
}

/** Every image's layers are regenerated and compared with their digests on the way. */
async function expectSavable(): Promise<void> {
  for (const { id } of await bench.images()) {
    const path = join(bench.work, 'saved.tar')
    await bench.image('save', '-o', path, id)
    rmSync(path)
  }
}

describe.skipIf(!isRoot)('the daemon killed at any moment (needs root)', () => {
  beforeAll(async () => {
    bench = await createDaemonBench()
  })
  afterAll(() => bench[Symbol.asyncDispose]())

  test('keeps the old image of a name or has the new one after a build', async () => {
    const context = bench.context(
      `FROM base:1
COPY . /files
RUN mkdir /made && for i in $(seq 60); do head -c 40000 /files/big > /made/$i; done
RUN sleep 0.1; echo done > /done
`,
    )
    fillTree(context, 200, 4)
    await killRounds(bench, {
      name: 'build',
      prepare: async (round) => writeFileSync(join(context, 'round'), `${round}`),
      start: () => bench.client([...quickly, 'ctr-img', 'build', '-t', 'b:1', context]).ended,
      succeeded: clientSucceeded,
      judge: judgeNamed('b:1', /Build success with image id: ([0-9a-f]{64})/),
    })
    await expectSavable()
  })

  test('loads an image entirely or not at all', async () => {
    const context = bench.context('FROM base:1\nCOPY big /big\nCOPY . /files\nCMD ["/bin/true"]\n')
    fillTree(context, 200, 6)
    const archive = join(bench.work, 'load.tar')
    await bench.image('build', '-t', 'l:1', context)
    await bench.image('save', '-o', archive, 'l:1')
    await killRounds(bench, {
      name: 'load',
      prepare: () => removeImage('l:1'),
      start: () => bench.client([...quickly, 'ctr-img', 'load', '-i', archive]).ended,
      succeeded: clientSucceeded,
      judge: judgeNamed('l:1', /Loaded image as ([0-9a-f]{64})/),
    })
    await expectSavable()
  })

  test('imports an image entirely or not at all', async () => {
    const tree = join(bench.work, 'tree')
    fillTree(tree, 200, 12)
    const tar = join(bench.work, 'import.tar')
    execFileSync('tar', ['-C', tree, '-cf', tar, '.'])
    await killRounds(bench, {
      name: 'import',
      prepare: () => removeImage('i:1'),
      start: () => bench.client([...quickly, 'ctr-img', 'import', tar, 'i:1']).ended,
      succeeded: clientSucceeded,
      judge: judgeNamed('i:1', /Import success with image id: "([0-9a-f]{64})"/),
    })
    await expectSavable()
  })

  test('moves a tag or leaves it where it was', async () => {
    const [left = '', right = ''] = await Promise.all(
      ['left', 'right'].map(async (label) => {
        const context = bench.context(`FROM base:1\nLABEL side=${label}\n`)
        await bench.image('build', '-t', `${label}:1`, context)
        const { names } = await visible(bench)
        return names[`${label}:1`] ?? ''
      }),
    )
    const names = Array.from({ length: 300 }, (_, index) => `t:${index}`)
    const target = (round: number): string => (round % 2 === 0 ? left : right)
    await killRounds<{ readonly round: number; readonly done: ReadonlySet<string> }>(bench, {
      name: 'tag',
      prepare: dial,
      async start(round) {
        const connection = dialled
        if (connection === undefined) throw new Error('nobody has dialled')
        try {
          const tag = async (name: string): Promise<void> => {
            await connection.unary(builderService.Tag, { image: target(round), name })
          }
          return { round, done: await callAll(names, 4, tag) }
        } finally {
          connection.close()
        }
      },
      succeeded: ({ done }) => done.size === names.length,
      judge({ round, done }, before, after) {
        expect(after.images).toEqual(before.images)
        for (const name of names) {
          if (done.has(name)) expect(after.names[name]).toBe(target(round))
          else expect([before.names[name], target(round)]).toContain(after.names[name])
        }
      },
    })
    await bench.image('rm', left, right)
  })

  test('removes an image entirely or not at all', async () => {
    const names = Array.from({ length: 16 }, (_, index) => `r:${index}`)
    for (const [index, name] of names.entries()) {
      const context = bench.context('FROM base:1\nCOPY . /\n')
      fillTree(context, 20 + index, 1)
      await bench.image('build', '-t', name, context)
    }
    const archive = join(bench.work, 'removed.tar')
    await bench.image('save', '-o', archive, ...names)
    await killRounds<{ readonly done: ReadonlySet<string> }>(bench, {
      name: 'rm',
      async prepare() {
        await bench.image('load', '-i', archive)
        await dial()
      },
      async start() {
        const connection = dialled
        if (connection === undefined) throw new Error('nobody has dialled')
        try {
          const remove = async (name: string): Promise<void> => {
            const request = { images: [name], all: false, prune: false }
            for await (const { event } of connection.stream(builderService.Remove, request)) {
              if (event?.case === 'failed') throw new Error(`${name}: ${JSON.stringify(event.value)}`)
            }
          }
          return { done: await callAll(names, 2, remove) }
        } finally {
          connection.close()
        }
      },
      succeeded: ({ done }) => done.size === names.length,
      judge({ done }, before, after) {
        for (const name of names) {
          const id = before.names[name] ?? ''
          expect(id).not.toBe('')
          const left = [after.names[name] === id, after.images.includes(id)]
          if (done.has(name)) expect(left).toEqual([false, false])
          else
            expect([
              [true, true],
              [false, false],
            ]).toContainEqual(left)
        }
      },
    })
    await expectSavable()
  })

  test('starts after being killed while it starts, twice', async () => {
    const context = bench.context('FROM base:1\nRUN sleep 0.3; echo $((RANDOM)) > /x\nRUN sleep 30\n')
    const random = seededRandom(killSeed)
    await bench.kill()
    const startMs = Math.round(await bench.restart())
    for (let round = 0; round < killCount; round++) {
      const before = await visible(bench)
      const client = bench.client([...quickly, 'ctr-img', 'build', '--no-cache', '-t', 'd:1', context])
      await sleep(200 + random.next(500))
      await bench.kill()
      expect((await client.ended).status).not.toBe(0)
      for (let crash = 0; crash < 2; crash++) {
        const starting = bench.daemon.start().catch(() => undefined)
        await sleep(random.next(startMs))
        await bench.kill()
        await starting
      }
      await bench.restart()
      expect(await visible(bench), `seed ${killSeed}, round ${round}`).toEqual(before)
      await bench.expectSound()
    }
  })

  test('takes no more space in the end than before', async () => {
    const { data } = bench
    const kept = (await bench.images()).find(({ names }) => names.includes('base:1'))
    for (const { id } of await bench.images()) if (id !== kept?.id) await bench.image('rm', id)
    await bench.prune()
    await bench.expectSound()
    expect(readdirSync(join(data, 'layers'))).toHaveLength(1)
    const used =
      diskUsage(join(data, 'layers')) + diskUsage(join(data, 'blobs')) + diskUsage(join(data, 'staging'))
    expect(used).toBeLessThan(diskUsage(join(bench.work, 'base')) + 1024 * 1024)
    expect(readFileSync(bench.daemon.log, 'utf8')).not.toMatch(/"level":[56]0/)
  })
})
