import { expect, test } from 'vitest'
import type { CacheReason, StepCache } from '../progress/cache-reason.js'
import type { BuildEvent } from '../progress/events.js'
import { BuildEventMessage, decodeBuildEvent, encodeBuildEvent } from './build-event.js'

const source = {
  file: 'D',
  start: { line: 1, column: 2 },
  end: { line: 3, column: 4 },
  lines: ['x', 'y', ''],
}
const at = 1_790_000_000_123

const reasons: CacheReason[] = [
  { kind: 'instruction-changed' },
  { kind: 'instruction-changed', parts: ['network', 'capabilities'] },
  { kind: 'instruction-added' },
  { kind: 'arg-changed', name: 'VERSION' },
  { kind: 'base-changed', from: 'sha256:a', to: 'sha256:b' },
  { kind: 'files-changed', paths: ['a', 'b'], more: 3 },
  { kind: 'mode-changed', paths: ['c'], more: 0 },
  { kind: 'parent-missed', step: 4 },
  { kind: 'evicted', at },
  { kind: 'no-cache' },
  { kind: 'never-built' },
]
const caches: StepCache[] = [
  { status: 'hit' },
  { status: 'skipped' },
  ...reasons.map((reason): StepCache => ({ status: 'miss', reason })),
]

const events: BuildEvent[] = [
  { kind: 'queued', at, position: 3 },
  { kind: 'started', at, buildId: 'b', totalSteps: 0 },
  { kind: 'step-started', at, step: 1, stage: 'base', text: 'RUN x' },
  { kind: 'step-finished', at, step: 1, outcome: 'done' },
  { kind: 'step-finished', at, step: 2, outcome: 'cached' },
  { kind: 'step-finished', at, step: 3, outcome: 'failed' },
  { kind: 'step-finished', at, step: 4, outcome: 'cancelled' },
  ...caches.map((cache): BuildEvent => ({ kind: 'step-finished', at, step: 5, outcome: 'done', cache })),
  { kind: 'step-skipped', at, step: 6, stage: 'base', text: 'RUN y' },
  { kind: 'step-skipped', at, step: 6, stage: 'base', text: 'RUN y', reason: 'not-reached' },
  { kind: 'step-skipped', at, step: 0, stage: 'base', text: 'RUN y', reason: 'not-needed' },
  { kind: 'output', at, step: 1, data: Buffer.from([0, 0xff, 10]) },
  { kind: 'stage-committed', at, stage: 0, imageId: 'i' },
  { kind: 'warning', at, message: 'm' },
  { kind: 'warning', at, message: 'm', source },
  { kind: 'exported', at, output: 'o' },
  { kind: 'finished', at, imageId: 'i', names: ['a:1', 'b:1'] },
  { kind: 'failed', at, code: 'ISB_NO_SPACE', message: 'm' },
]

test.each(events)('a $kind event arrives as it was sent', (event) => {
  expect(
    decodeBuildEvent(BuildEventMessage.decode(BuildEventMessage.encode(encodeBuildEvent(event)))),
  ).toEqual(event)
})

test('events and outcomes of a newer daemon are passed over', () => {
  expect(decodeBuildEvent(BuildEventMessage.decode(Buffer.from('08017a00', 'hex')))).toBeUndefined()
  expect(decodeBuildEvent(BuildEventMessage.decode(Buffer.from('2a021009', 'hex')))).toBeUndefined()
})

test('what the cache said has this form on the wire', () => {
  const bytes = (cache: StepCache): string =>
    BuildEventMessage.encode(
      encodeBuildEvent({ kind: 'step-finished', at: 1, step: 2, outcome: 'done', cache }),
    ).toString('hex')
  expect(bytes({ status: 'hit' })).toBe('08012a08080210011a020a00')
  expect(bytes({ status: 'skipped' })).toBe('08012a08080210011a021a00')
  expect(bytes({ status: 'miss', reason: { kind: 'parent-missed', step: 1 } })).toBe(
    '08012a0a080210011a0412023001',
  )
  expect(bytes({ status: 'miss', reason: { kind: 'files-changed', paths: ['a'], more: 3 } })).toBe(
    '08012a0f080210011a09120722050a01611003',
  )
})

test('a status or reason of a newer daemon leaves the step without one', () => {
  const step = { kind: 'step-finished', at: 1, step: 2, outcome: 'done' }
  for (const cache of ['022200', '0412025a 00', '021200', '00']) {
    const hex = cache.replace(' ', '')
    const finished = `080210011a${hex}`
    const wire = `08012a${(finished.length / 2).toString(16).padStart(2, '0')}${finished}`
    expect(decodeBuildEvent(BuildEventMessage.decode(Buffer.from(wire, 'hex')))).toStrictEqual(step)
  }
})
