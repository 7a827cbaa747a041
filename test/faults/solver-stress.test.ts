import { describe, expect, test } from 'vitest'
import { isBuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { createFakeDaemon } from '../support/fake-daemon.js'
import { type Random, seededRandom } from '../support/random-choices.js'
import { createProjects } from '../support/shared-projects.js'
import { createVirtualTime } from '../support/virtual-time.js'

const seed = Number(process.env['ISULA_STRESS_SEED'] ?? '20261121')

interface Ended {
  readonly name: string
  readonly started: number
  readonly ended: number
  readonly outcome: 'done' | 'failed' | 'cancelled'
}

interface Round {
  readonly random: Random
  readonly builds: number
  readonly slots: number
  /** One build in so many is cancelled; 0 for none. */
  readonly cancelOneIn: number
  /** In which all builds start. */
  readonly span: number
}

/** Builds that want one another's vertices, some cancelled at any moment, while layers nobody holds are removed. */
async function playRound({ random, builds, slots, cancelOneIn, span }: Round): Promise<readonly Ended[]> {
  const time = createVirtualTime()
  const daemon = createFakeDaemon({ time, random, slots })
  const project = createProjects(random)
  const ended: Ended[] = []

  const play = async (index: number): Promise<void> => {
    const build = project(`build ${index}`)
    const isCancelled = cancelOneIn > 0 && random.next(cancelOneIn) === 0
    await time.sleep(random.next(span + 1))
    const started = time.now()
    const cancel = new AbortController()
    const cancelledAt = started + random.next(400)
    if (isCancelled) time.at(cancelledAt, () => cancel.abort())
    let outcome: Ended['outcome'] = 'done'
    try {
      await daemon.build(build, cancel.signal)
      expect(build.dockerfile, 'a build ended well whose last command fails').not.toContain('RUN fail')
    } catch (error) {
      outcome = isBuilderError(error, 'ISB_STEP_FAILED') ? 'failed' : 'cancelled'
      if (outcome === 'failed') expect(build.dockerfile).toContain('RUN fail')
      else if (!isBuilderError(error, 'ISB_CANCELLED') || !cancel.signal.aborted) throw error
      // What it ran ends at most that late; the work of others it does not wait for.
      if (outcome === 'cancelled') expect(time.now() - cancelledAt).toBeLessThanOrEqual(10)
    }
    ended.push({ name: build.name, started, ended: time.now(), outcome })
  }
  const all = Array.from({ length: builds }, (_, index) => play(index))
  const failures: unknown[] = []
  for (const one of all) one.catch((error: unknown) => failures.push(error))
  const isOver = (): boolean => ended.length + failures.length === builds
  for (let moment = 50; moment < 2000; moment += 50) {
    time.at(moment, () => void daemon.layers.prune())
  }
  const finished = await time.pass(isOver)
  if (failures.length > 0) throw failures[0]
  expect(finished, `${builds - ended.length} builds wait for one another for ever`).toBe(true)
  await time.pass(() => false)
  await daemon.expectIdle()
  return ended
}

function requireMostDone(rounds: readonly (readonly Ended[])[]): void {
  const all = rounds.flat()
  const count = (outcome: Ended['outcome']): number => all.filter((end) => end.outcome === outcome).length
  // Otherwise the rounds would show nothing.
  expect(count('done')).toBeGreaterThan(all.length / 4)
  expect(count('failed')).toBeGreaterThan(0)
  expect(count('cancelled')).toBeGreaterThan(all.length / 10)
}

test('1,000 rounds of builds that want the same, with cancelled leaders: all end, nothing is left', async () => {
  const rounds: (readonly Ended[])[] = []
  for (let round = 0; round < 1000; round++) {
    const random = seededRandom(seed + round)
    const builds = 3 + random.next(6)
    try {
      rounds.push(
        await playRound({
          random,
          builds,
          slots: 1 + random.next(6),
          cancelOneIn: 3,
          span: random.next(200),
        }),
      )
    } catch (error) {
      throw new Error(`seed ${seed + round}, ${builds} builds`, { cause: error })
    }
  }
  requireMostDone(rounds)
})

test('100 builds at once, with and without cancels', async () => {
  const rounds: (readonly Ended[])[] = []
  for (let round = 0; round < 8; round++) {
    const random = seededRandom(seed + 10_000 + round)
    rounds.push(
      await playRound({ random, builds: 100, slots: 16, cancelOneIn: round % 2 === 0 ? 2 : 0, span: 20 }),
    )
  }
  const uncancelled = rounds.filter((_, round) => round % 2 === 1).flat()
  expect(uncancelled.filter(({ outcome }) => outcome === 'cancelled')).toEqual([])
  requireMostDone(rounds)
})

test('a stream of those who share a cache does not keep out the ones who want it alone', async () => {
  const random = seededRandom(seed)
  const time = createVirtualTime()
  const daemon = createFakeDaemon({ time, random, slots: 16 })
  const waits: number[] = []
  const ended: Promise<unknown>[] = []
  const never = new AbortController().signal
  const count = 300
  for (let index = 0; index < count; index++) {
    const sharing = index % 20 === 10 ? 'locked' : 'shared'
    const play = async (): Promise<void> => {
      await time.sleep(index * 10)
      const started = time.now()
      await daemon.build(
        {
          ...{ name: `build ${index}`, uid: 0, context: '', noCache: false },
          dockerfile: `FROM scratch\nRUN --mount=type=cache,id=b,sharing=${sharing},target=/c run ${index}`,
        },
        never,
      )
      if (sharing === 'locked') waits.push(time.now() - started)
    }
    ended.push(play())
  }
  let isOver = false
  const all = Promise.all(ended).finally(() => {
    isOver = true
  })
  expect(await time.pass(() => isOver)).toBe(true)
  await all
  // One command takes 45 at most; who shares it now and one who came before want it alone.
  expect(waits).toHaveLength(count / 20)
  expect(Math.max(...waits)).toBeLessThan(5 * 45)
  await daemon.expectIdle()
})

describe('a build for several platforms', () => {
  const build = (last: string) => ({
    ...{ name: 'build', uid: 0, context: '', noCache: false, architectures: ['amd64', 'arm64', 's390x'] },
    dockerfile: `FROM scratch AS first
RUN first
FROM scratch
COPY --from=first / /
RUN last
RUN ${last}`,
  })

  async function play(last: string) {
    const time = createVirtualTime()
    const daemon = createFakeDaemon({ time, random: seededRandom(seed), slots: 16 })
    let isOver = false
    const result = daemon.build(build(last), new AbortController().signal).finally(() => {
      isOver = true
    })
    result.catch(() => undefined)
    expect(await time.pass(() => isOver)).toBe(true)
    await time.pass(() => false)
    await daemon.expectIdle()
    return { result, daemon }
  }

  test('makes them at once', async () => {
    const { result, daemon } = await play('end')
    expect(await result).toBe(9)
    expect(daemon.commands.slice(0, 3)).toEqual(['first', 'first', 'first'])
  })

  test('stores none when one of them fails', async () => {
    const { result, daemon } = await play('fail')
    await expect(result).rejects.toMatchObject({ code: 'ISB_STEP_FAILED' })
    expect(daemon.layers.stored()).toBe(0)
  })
})
