import { expect, test } from 'vitest'
import { createLogText } from './log-text.js'

const euro = Buffer.from('€')

test('what quotes a registry is masked, what a RUN wrote is not', () => {
  const textOf = createLogText(undefined)
  const hostile = 'linux\u001b]0;x\u0007\nBuild success'
  const masked = 'linux\\x1b]0;x\\x07\\x0aBuild success\n'
  const output = (step: number): string =>
    textOf({ kind: 'output', at: 0, step, data: Buffer.from(`${hostile}\n`) })
  expect(output(0)).toBe(masked)
  expect(output(1)).toBe(`${hostile}\n`)
  expect(textOf({ kind: 'warning', at: 0, message: hostile })).toBe(`[Warning] ${masked}`)
})

test('a character split between two chunks stays whole, one cut off at the end of its step is marked', () => {
  const textOf = createLogText(undefined)
  const output = (data: Uint8Array): string => textOf({ kind: 'output', at: 0, step: 1, data })
  expect(textOf({ kind: 'step-started', at: 0, step: 1, stage: '0', text: 'RUN a' })).toBe('STEP  1: RUN a\n')
  expect(output(euro.subarray(0, 1)) + output(euro.subarray(1))).toBe('€')
  expect(output(euro.subarray(0, 2))).toBe('')
  expect(textOf({ kind: 'step-finished', at: 0, step: 1, outcome: 'done' })).toBe('\ufffd')
  expect(textOf({ kind: 'step-started', at: 0, step: 12, stage: '0', text: 'RUN b' })).toBe(
    'STEP 12: RUN b\n',
  )
})
