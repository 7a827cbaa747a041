import { expect, test } from 'vitest'
import type { BuildEvent } from '../progress/events.js'
import { BuildEventMessage, decodeBuildEvent, encodeBuildEvent } from './build-event.js'

const source = {
  file: 'D',
  start: { line: 1, column: 2 },
  end: { line: 3, column: 4 },
  lines: ['x', 'y', ''],
}
const at = 1_790_000_000_123

const events: BuildEvent[] = [
  { kind: 'queued', at, position: 3 },
  { kind: 'started', at, buildId: 'b', totalSteps: 0 },
  { kind: 'step-started', at, step: 1, stage: 'base', text: 'RUN x' },
  { kind: 'step-finished', at, step: 1, outcome: 'done' },
  { kind: 'step-finished', at, step: 2, outcome: 'cached' },
  { kind: 'step-finished', at, step: 3, outcome: 'failed' },
  { kind: 'step-finished', at, step: 4, outcome: 'cancelled' },
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
