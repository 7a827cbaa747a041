import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import { expect, test } from 'vitest'
import type { Step } from '../plan/plan.js'
import { BuildProgress, type FollowSpool } from './progress.js'

const never = new AbortController().signal

/** Every spool says its own name when its step has finished. */
const follow: FollowSpool = async function* (path, finished) {
  await finished
  yield Buffer.from(path)
}

function progressOf(): BuildProgress {
  let now = 0
  return new BuildProgress('build-1', { now: () => ++now }, follow)
}

function steps(count: number): readonly Step[] {
  return Array.from(
    { length: count },
    (_, index) =>
      ({ number: index + 1, stageIndex: 0, stage: 'base', text: `RUN ${index + 1}` }) as unknown as Step,
  )
}

function brief(event: BuildEvent): string {
  switch (event.kind) {
    case 'step-started':
      return `start ${event.step}`
    case 'step-skipped':
      return `skipped ${event.step}`
    case 'step-finished':
      return `${event.outcome} ${event.step}`
    case 'output':
      return `output ${event.step} ${Buffer.from(event.data).toString()}`
    case 'warning':
      return `warning ${event.message}`
    default:
      return event.kind
  }
}

async function watch(progress: BuildProgress, signal = never): Promise<readonly string[]> {
  const seen: string[] = []
  for await (const event of progress.events(signal)) seen.push(brief(event))
  return seen
}

test('watchers see steps in the order of the Dockerfile, whatever ran first', async () => {
  const progress = progressOf()
  const watching = watch(progress)
  progress.start(steps(3))
  await progress.stepStarted(3, 'c')
  await progress.stepFinished(3, 'done')
  await progress.stepStarted(1, 'a')
  await progress.stepStarted(2)
  await progress.stepFinished(2, 'cached')
  await progress.stepFinished(1, 'done')
  await progress.end()
  const expected = [
    ...['started', 'start 1', 'output 1 a', 'done 1', 'start 2', 'cached 2'],
    ...['start 3', 'output 3 c', 'done 3'],
  ]
  expect(await watching).toEqual(expected)
  // One that comes late sees the same.
  expect(await watch(progress)).toEqual(expected)
})

test('what runs is shown as it runs', async () => {
  const progress = progressOf()
  progress.start(steps(2))
  const events = progress.events(never)[Symbol.asyncIterator]()
  expect((await events.next()).value).toMatchObject({ kind: 'started', buildId: 'build-1', totalSteps: 2 })
  await progress.stepStarted(1)
  expect((await events.next()).value).toMatchObject({ kind: 'step-started', step: 1, text: 'RUN 1' })
})

test('a build that waits says so first', async () => {
  const progress = progressOf()
  progress.queued(4)
  await progress.end()
  expect(await watch(progress)).toEqual(['queued', 'started'])
})

test('notes come after all steps, and steps that never ran are skipped', async () => {
  const progress = progressOf()
  progress.start(steps(3))
  progress.note({ kind: 'warning', at: 0, message: 'one' })
  await progress.stepStarted(1, 'a')
  await progress.stepFinished(1, 'failed')
  await progress.stepStarted(3)
  progress.note({ kind: 'warning', at: 0, message: 'two' })
  await progress.end()
  expect(await watch(progress)).toEqual([
    ...[
      'started',
      'start 1',
      'output 1 a',
      'failed 1',
      'skipped 2',
      'start 3',
      'cancelled 3',
      'warning one',
      'warning two',
    ],
  ])
})

test('what is not needed is shown where it stands, without a number', async () => {
  const progress = progressOf()
  const unneeded = [1, 1, 2, 3].map((before, i) => ({ stage: 'other', text: `RUN other ${i}`, before }))
  progress.start(steps(2), unneeded)
  for (const step of [1, 2]) await progress.stepFinished(step, 'done')
  progress.note({ kind: 'warning', at: 0, message: 'one' })
  await progress.end()
  expect(await watch(progress)).toEqual([
    ...['started', 'skipped 0', 'skipped 0', 'start 1', 'done 1'],
    ...['skipped 0', 'start 2', 'done 2', 'skipped 0', 'warning one'],
  ])
})

test('a step that finishes without having started is shown with both', async () => {
  const progress = progressOf()
  progress.start(steps(1))
  await progress.stepFinished(1, 'cached')
  await progress.end()
  expect(await watch(progress)).toEqual(['started', 'start 1', 'cached 1'])
})

test('finished steps are counted once each', async () => {
  const progress = progressOf()
  expect(progress.counts()).toEqual({ finishedSteps: 0, totalSteps: 0 })
  progress.start(steps(2))
  await progress.stepFinished(1, 'done')
  await progress.stepFinished(1, 'failed')
  await progress.stepFinished(9, 'done')
  expect(progress.counts()).toEqual({ finishedSteps: 1, totalSteps: 2 })
  await progress.end()
  expect(await watch(progress)).toEqual(['started', 'start 1', 'done 1', 'skipped 2'])
})

test('a watcher that leaves ends, wherever it waits', async () => {
  const progress = progressOf()
  const early = new AbortController()
  const waiting = watch(progress, early.signal)
  early.abort(new Error('gone'))
  await expect(waiting).rejects.toThrow('gone')
  progress.start(steps(1))
  const late = new AbortController()
  const stepping = watch(progress, late.signal)
  await new Promise((resolve) => setImmediate(resolve))
  late.abort(new Error('gone too'))
  await expect(stepping).rejects.toThrow('gone too')
  await expect(watch(progress, AbortSignal.abort(new Error('never there')))).rejects.toThrow('never there')
})

test('a build that fails before its plan ends its watchers', async () => {
  const progress = progressOf()
  const watching = watch(progress)
  progress.note({ kind: 'failed', at: 0, code: 'ISB_UNKNOWN_STAGE', message: 'no stage' })
  await progress.end()
  expect(await watching).toEqual(['started', 'failed'])
})

test('lines on images are shown as they come, before any step, to late watchers too', async () => {
  const progress = progressOf()
  const events = progress.events(never)[Symbol.asyncIterator]()
  const next = async (): Promise<string> => brief((await events.next()).value)
  progress.say('Getting image source signatures')
  expect(await next()).toBe('output 0 Getting image source signatures\n')
  const waiting = next()
  progress.say('Copying blob')
  expect(await waiting).toBe('output 0 Copying blob\n')
  progress.say('Storing signatures')
  progress.start(steps(1))
  expect([await next(), await next()]).toEqual(['output 0 Storing signatures\n', 'started'])
  await progress.end()
  expect((await watch(progress)).slice(0, 4)).toEqual([
    'output 0 Getting image source signatures\n',
    'output 0 Copying blob\n',
    'output 0 Storing signatures\n',
    'started',
  ])
})

test('a watcher who leaves while images are fetched is let go', async () => {
  const progress = progressOf()
  progress.say('one')
  const leaving = new AbortController()
  const watching = watch(progress, leaving.signal)
  setTimeout(() => leaving.abort(), 5)
  await expect(watching).rejects.toThrow()
})

test('what is noted is shown as it comes once all steps were, to late watchers too', async () => {
  const progress = progressOf()
  progress.start(steps(1))
  const events = progress.events(never)[Symbol.asyncIterator]()
  const next = async (): Promise<string> => brief((await events.next()).value)
  progress.noteLine('noted early')
  expect(await next()).toBe('started')
  await progress.stepFinished(1, 'done')
  expect([await next(), await next()].map((text) => text.split(' ')[0])).toEqual(['start', 'done'])
  expect(await next()).toBe('output 0 noted early\n')
  const waiting = next()
  progress.noteLine('Copying blob')
  expect(await waiting).toBe('output 0 Copying blob\n')
  const last = events.next()
  await progress.end()
  expect((await last).done).toBe(true)
  expect((await watch(progress)).slice(-2)).toEqual(['output 0 noted early\n', 'output 0 Copying blob\n'])
})
