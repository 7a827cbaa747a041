import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDaemonBench, type DaemonBench, eventually } from '../support/daemon-bench.js'
import { type Random, seededRandom } from '../support/random-choices.js'
import { leftovers } from '../support/runtime-leftovers.js'

const isRoot = process.getuid?.() === 0
const seed = Number(process.env['ISULA_STRESS_SEED'] ?? '20261121')
let bench: DaemonBench

/** Stages that all builds share, and an end that few share. */
function dockerfile(random: Random): string {
  const cache = (id: string, sharing: string): string =>
    `RUN --mount=type=cache,id=${id},sharing=${sharing},target=/cache`
  return `FROM base:1 AS base
WORKDIR /work
RUN sleep 0.2; echo base > /base
FROM base AS left
COPY . /src
${cache('one', 'locked')} sh -c 'test ! -e /cache/in; echo > /cache/in; sleep 0.1; rm /cache/in; echo left > /left'
FROM base AS right
${cache('two', random.pick(['shared', 'private']))} sleep 0.1; echo ${random.next(4)} > /right
${cache('one', 'locked')} sh -c 'test ! -e /cache/in; echo > /cache/in; sleep 0.1; rm /cache/in; echo right > /r'
FROM scratch
COPY --from=left /src /left /
COPY --from=right /right /r /
`
}

describe.skipIf(!isRoot)('builds that want the same at once (needs root)', () => {
  beforeAll(async () => {
    bench = await createDaemonBench()
    // `rm` and `test` are not among the programs of the base image.
    const context = bench.context(
      'FROM base:1\nRUN ["/bin/busybox", "ln", "-s", "busybox", "/bin/rm"]\nRUN ["/bin/busybox", "ln", "-s", "busybox", "/bin/test"]\n',
    )
    await bench.image('build', '-t', 'base:1', context)
  })
  afterAll(() => bench[Symbol.asyncDispose]())

  test('one RUN for all of them, whose output all of them show', async () => {
    const context = bench.context(
      'FROM base:1\nRUN --mount=type=cache,target=/count sleep 0.5; echo x >> /count/runs; cat /count/runs\n',
    )
    const clients = Array.from({ length: 6 }, (_, i) =>
      bench.client(['ctr-img', 'build', '-t', `once:${i}`, context]),
    )
    const ends = await Promise.all(clients.map(({ ended }) => ended))
    for (const { status, stdout, stderr } of ends) {
      expect(status, stderr).toBe(0)
      expect(`${stdout}${stderr}`.match(/^.*\bx$/gm)).toHaveLength(1)
    }
    await bench.expectSound()
  })

  test('a failure is shown by everybody, in his own Dockerfile', async () => {
    const contexts = ['', '# a comment\n'].map((head) =>
      bench.context(`${head}FROM base:1\nRUN sleep 0.5; echo broken; exit 7\n`),
    )
    const clients = contexts.map((context) => bench.client(['ctr-img', 'build', context]))
    const [first, second] = await Promise.all(clients.map(({ ended }) => ended))
    expect([first?.status, second?.status]).toEqual([7, 7])
    expect(first?.stderr).toContain('Dockerfile:2')
    expect(second?.stderr).toContain('Dockerfile:3')
    await bench.expectSound()
  })

  test('40 builds, clients killed at any moment: all others succeed, and nothing stays', async () => {
    const random = seededRandom(seed)
    let succeeded = 0
    let killed = 0
    for (let round = 0; round < 2; round++) {
      const contexts = Array.from({ length: 3 }, (_, i) => {
        const context = bench.context(dockerfile(random))
        mkdirSync(join(context, 'files'))
        for (let file = 0; file < 20; file++)
          writeFileSync(join(context, 'files', `${file}`), `${i} ${round}`)
        return context
      })
      const play = async (index: number): Promise<void> => {
        await sleep(random.next(400))
        const args = ['ctr-img', 'build', '-t', `s:${index}`, random.pick(contexts)]
        const client = bench.client(args)
        const isKilled = random.next(2) === 0
        const signal = random.pick(['SIGKILL', 'SIGINT'] as const)
        if (isKilled) void sleep(300 + random.next(2500)).then(() => client.child.kill(signal))
        const { status, stderr } = await client.ended
        if (status === 0) succeeded++
        else {
          expect(isKilled, stderr).toBe(true)
          killed++
        }
      }
      await Promise.all(Array.from({ length: 20 }, (_, index) => play(index)))
    }
    expect(succeeded).toBeGreaterThanOrEqual(10)
    expect(killed).toBeGreaterThan(0)
    await bench.expectSound()
    await bench.prune()
    await bench.expectSound()
    expect(readFileSync(bench.daemon.log, 'utf8')).not.toMatch(/"level":[56]0|execution.not-released/)
  })

  test('what a cancelled build waited for or ran is gone within two seconds', async () => {
    const waiting = 'RUN --mount=type=cache,id=held,sharing=locked,target=/c'
    const contexts = ['holder', 'waiter'].map((name) =>
      bench.context(`FROM base:1\nCOPY . /${name}\n${waiting} echo ${name}; sleep 600\n`),
    )
    const clients = contexts.map((context) => bench.client(['ctr-img', 'build', context]))
    const running = await eventually(
      () => leftovers(bench.run).processes,
      (pids) => pids.length > 0,
    )
    expect(running).not.toEqual([])
    // The other one waits for the cache by now.
    await sleep(500)
    for (const { child } of clients.toReversed()) child.kill('SIGINT')
    const began = performance.now()
    const left = await eventually(
      () => leftovers(bench.run),
      ({ processes, cgroups, runs }) => [processes, cgroups, runs].every((list) => list.length === 0),
    )
    expect(left).toEqual({ processes: [], mounts: [], cgroups: [], runs: [] })
    await bench.expectSound()
    expect(performance.now() - began).toBeLessThan(2000)
    for (const { ended } of clients) expect((await ended).status).toBe(130)
  })

  test('a build that waits for another’s RUN goes on when that one’s client is killed', async () => {
    const context = bench.context('FROM base:1\nRUN echo begun; sleep 2; echo over > /x\n')
    const [leader, follower] = [0, 1].map((i) => bench.client(['ctr-img', 'build', '-t', `f:${i}`, context]))
    await eventually(
      () => leftovers(bench.run).processes,
      (pids) => pids.length > 0,
    )
    // Whoever leads: the one that is killed takes nothing from the other.
    await sleep(700)
    leader?.child.kill('SIGKILL')
    const end = await follower?.ended
    expect(end?.status, end?.stderr).toBe(0)
    expect(`${end?.stdout}${end?.stderr}`).toContain('begun')
    await bench.expectSound()
  })
})
