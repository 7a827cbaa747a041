import type { StepCache } from '@isula-build/shared/progress/cache-reason.js'
import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import { expect, test } from 'vitest'
import { createExplanation, type ExplainedStep, explanationJson, explanationTable } from './explanation.js'

const started = (step: number, text: string, stage = ''): BuildEvent => ({
  kind: 'step-started',
  ...{ at: 0, step, stage, text },
})
const finished = (
  step: number,
  outcome: 'done' | 'cached' | 'failed' | 'cancelled',
  cache?: StepCache,
): BuildEvent => ({ kind: 'step-finished', at: 0, step, outcome, ...(cache && { cache }) })

async function explained(...events: readonly BuildEvent[]): Promise<readonly ExplainedStep[]> {
  const shown: BuildEvent[] = []
  const { view, steps } = createExplanation({ show: async (event) => void shown.push(event) })
  for (const event of events) await view.show(event)
  expect(shown).toEqual(events)
  return steps()
}

const files = { kind: 'files-changed', paths: ['a', 'b'], more: 3 } as const

test('every step is a hit, a miss with its reason, or skipped', async () => {
  const steps = await explained(
    started(1, 'FROM base:1', 'build'),
    finished(1, 'done', { status: 'hit' }),
    started(2, 'COPY . .', 'build'),
    finished(2, 'done', { status: 'miss', reason: files }),
    {
      kind: 'step-skipped',
      ...{ at: 0, step: 0, stage: 'test', text: 'RUN test' },
      reason: 'not-needed',
    },
    started(3, 'RUN make', 'build'),
    finished(3, 'failed', { status: 'miss', reason: { kind: 'parent-missed', step: 2 } }),
    {
      kind: 'step-skipped',
      ...{ at: 0, step: 4, stage: 'final', text: 'COPY --from=build /app /app' },
      reason: 'not-reached',
    },
    { kind: 'step-skipped', at: 0, step: 5, stage: 'final', text: 'RUN x' },
  )
  expect(explanationTable(steps)).toEqual([
    'STEP  STAGE  INSTRUCTION                  CACHE    REASON',
    '1     build  FROM base:1                  hit',
    '2     build  COPY . .                     miss     files-changed [a, b, +3]',
    '-     test   RUN test                     skipped  not-needed',
    '3     build  RUN make                     miss     parent-missed 2',
    '4     final  COPY --from=build /app /app  skipped  not-reached',
    '5     final  RUN x                        skipped',
    'Cache: 1 hit, 2 missed, 3 skipped',
  ])
  const error = { code: 'ISB_STEP_FAILED', message: 'x' }
  expect(JSON.parse(explanationJson(steps, { image: null, names: [], error }))).toEqual({
    v: 1,
    image: null,
    names: [],
    error,
    hits: 1,
    misses: 2,
    skipped: 3,
    steps: [
      { step: 1, stage: 'build', instruction: 'FROM base:1', status: 'hit', reason: null },
      { step: 2, stage: 'build', instruction: 'COPY . .', status: 'miss', reason: files },
      {
        step: 0,
        stage: 'test',
        instruction: 'RUN test',
        status: 'skipped',
        reason: { kind: 'not-needed' },
      },
      {
        step: 3,
        stage: 'build',
        instruction: 'RUN make',
        status: 'miss',
        reason: { kind: 'parent-missed', step: 2 },
      },
      {
        step: 4,
        stage: 'final',
        instruction: 'COPY --from=build /app /app',
        status: 'skipped',
        reason: { kind: 'not-reached' },
      },
      { step: 5, stage: 'final', instruction: 'RUN x', status: 'skipped', reason: null },
    ],
  })
})

test('where nothing is said of the cache, how the step ended tells', async () => {
  const steps = await explained(
    started(1, 'RUN a'),
    finished(1, 'cached'),
    started(2, 'RUN b'),
    finished(2, 'done'),
    started(3, 'RUN c'),
    finished(3, 'cancelled'),
    started(4, 'RUN d'),
  )
  expect(steps.map(({ status, reason }) => [status, reason])).toEqual([
    ['hit', null],
    ['miss', null],
    ['skipped', { kind: 'not-reached' }],
    ['skipped', { kind: 'not-reached' }],
  ])
})

test('columns without content are left out, long instructions cut, and control characters masked', async () => {
  const lines = explanationTable(
    await explained(
      started(1, `RUN ${'x'.repeat(80)}`),
      finished(1, 'done', { status: 'miss', reason: { ...files, paths: ['\u001b]0;x\u0007'], more: 0 } }),
      started(2, `RUN 日本${'語'.repeat(40)}`),
      finished(2, 'cached'),
    ),
  )
  expect(lines).toEqual([
    `STEP  INSTRUCTION${' '.repeat(49)}  CACHE  REASON`,
    `1     RUN ${'x'.repeat(55)}…  miss   files-changed [\\x1b]0;x\\x07]`,
    `2     RUN 日本${'語'.repeat(25)}…   hit`,
    'Cache: 1 hit, 1 missed, 0 skipped',
  ])
})

test('a build that never got to its steps has no table', async () => {
  expect(explanationTable(await explained({ kind: 'queued', at: 0, position: 1 }))).toEqual([])
})
