import { parseDockerfile } from '@isula-build/shared/dockerfile/parser.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { expect, test } from 'vitest'
import { processorTime } from '../../../../../test/support/processor-time.js'
import { shapeOf } from '../solve/cache-key.js'
import { dependencies } from './dependencies.js'
import { planBuild } from './from-dockerfile.js'
import type { Plan } from './plan.js'
import { fakeResolver, linuxAmd64 } from './plan-fixture.js'

/** Seeds that once broke an invariant. */
const regressions: readonly number[] = []

const seconds = Number(process.env.ISULA_FUZZ_SECONDS ?? 5)

type Random = (limit: number) => number

function random(seed: number): Random {
  let state = seed >>> 0
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % limit
  }
}

const words = [
  'a',
  'b',
  'A',
  '0',
  '1',
  '2',
  '9',
  '$a',
  '${b}',
  '${a:-x}',
  '${a:?m}',
  '$',
  '"',
  "'",
  '\\',
  '/',
  '/x',
  '/x/',
  '.',
  '..',
  '../..',
  '/proc',
  'scratch',
  'busybox',
  'ob',
  'nope',
  '<<E',
  '80',
  '80-82',
  '9-8',
  'x/udp',
  'u:g',
  ':',
  '=',
  '[]',
  '["a"]',
  '["a","b"]',
  'http://h/f',
  'git://h/f',
  'KEY=v',
  'K="v w"',
  '__proto__=1',
  '\t',
  ',',
  'é',
  '😀',
]

const flags = [
  '--from=a',
  '--from=0',
  '--from=1',
  '--from=busybox',
  '--from=$a',
  '--chown=$a',
  '--chmod=755',
  '--chmod=x',
  '--link',
  '--parents',
  '--exclude=b',
  '--platform=$TARGETPLATFORM',
  '--platform=x',
  '--network=none',
  '--security=insecure',
  '--mount=target=/m',
  '--mount=type=cache,target=c',
  '--mount=from=a,target=/m',
  '--mount=type=secret,id=$a',
  '--mount=type=tmpfs,target=/proc/x',
  '--mount=,',
  '--interval=1s',
  '--checksum=$b',
]

const instructions = [
  'FROM',
  'FROM',
  'ARG',
  'ENV',
  'RUN',
  'COPY',
  'ADD',
  'WORKDIR',
  'USER',
  'LABEL',
  'EXPOSE',
  'VOLUME',
  'STOPSIGNAL',
  'CMD',
  'ENTRYPOINT',
  'SHELL',
  'ONBUILD',
  'ONBUILD COPY',
  'HEALTHCHECK CMD',
  'MAINTAINER',
]

function pick<T>(next: Random, list: readonly T[]): T {
  const item = list[next(list.length)]
  if (item === undefined) throw new Error('nothing to pick from')
  return item
}

function line(next: Random): string {
  const parts = [pick(next, instructions)]
  for (let i = next(3); i > 1; i--) parts.push(pick(next, flags))
  for (let i = 1 + next(3); i > 0; i--) {
    parts.push(Array.from({ length: 1 + next(2) }, () => pick(next, words)).join(''))
  }
  if (parts[0] === 'FROM' && next(2) === 0)
    return `FROM ${pick(next, ['busybox', 'scratch', 'a', 'ob', '$a'])} AS ${pick(next, ['a', 'b', 'c'])}`
  return parts.join(' ')
}

function dockerfileText(next: Random): string {
  const head = next(3) === 0 ? ['ARG a=busybox'] : []
  const lines = Array.from({ length: 1 + next(8) }, () => line(next))
  return `${[...head, 'FROM busybox AS s', ...lines].join('\n')}\n`
}

/** Parents before children, ids unique, steps counted, histories pointing at vertices of the plan. */
function checkPlan(plan: Plan): void {
  const seen = new Set<string>()
  for (const vertex of plan.vertices) {
    for (const id of dependencies(vertex)) expect(seen.has(id)).toBe(true)
    expect(seen.has(vertex.id)).toBe(false)
    seen.add(vertex.id)
    if (vertex.kind !== 'image') expect(shapeOf(vertex).shape).toMatch(/^[0-9a-f]{64}$/)
  }
  plan.steps.forEach((step, i) => {
    expect(step.number).toBe(i + 1)
    if (step.vertex !== undefined) expect(seen.has(step.vertex)).toBe(true)
  })
  for (const { image } of plan.stages) {
    if (image.vertex !== null) expect(seen.has(image.vertex)).toBe(true)
    for (const entry of image.history) {
      expect(entry.empty_layer === true).toBe(entry.vertex === undefined)
      if (entry.vertex !== undefined) expect(seen.has(entry.vertex)).toBe(true)
    }
  }
  expect(plan.stages.some(({ image }) => image === plan.target)).toBe(true)
}

async function planSeed(seed: number): Promise<'planned' | 'refused'> {
  const text = dockerfileText(random(seed))
  const resolver = fakeResolver({ ob: { OnBuild: ['ARG a', 'COPY --from=a /x /y', 'RUN $a'] } })
  const options = { buildArgs: { b: 'B', HTTP_PROXY: 'p' }, platform: linuxAmd64, buildPlatform: linuxAmd64 }
  try {
    const parsed = parseDockerfile(text, 'Dockerfile')
    checkPlan(await planBuild(parsed, options, resolver, new AbortController().signal))
    return 'planned'
  } catch (error) {
    if (!(error instanceof BuilderError)) throw new Error(`seed ${seed}:\n${text}`, { cause: error })
    const source = error.details.source
    if (source === undefined) throw new Error(`seed ${seed} has no source: ${error.message}\n${text}`)
    if (source.start.line > text.split('\n').length) throw new Error(`seed ${seed} points outside\n${text}`)
    return 'refused'
  }
}

test.each(regressions.map((seed) => [seed]))('seed %d still holds', async (seed) => {
  await planSeed(seed)
})

test(
  'random Dockerfiles plan soundly or are refused with their place',
  async () => {
    const outcomes = { planned: 0, refused: 0 }
    const end = processorTime() + seconds * 1000
    for (let seed = 1; processorTime() < end; seed++) outcomes[await planSeed(seed)]++
    expect(outcomes.planned).toBeGreaterThan(0)
    expect(outcomes.refused).toBeGreaterThan(0)
  },
  // Of processor time; on the clock it may be many times that.
  seconds * 30_000 + 30_000,
)
