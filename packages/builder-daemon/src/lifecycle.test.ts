import { expect, test } from 'vitest'
import { createLifecycle } from './lifecycle.js'
import type { Logger } from './ports/logger.js'

function recorder(): { log: Logger; lines: [string, Record<string, unknown> | undefined][] } {
  const lines: [string, Record<string, unknown> | undefined][] = []
  const write = (event: string, fields?: Record<string, unknown>): void => void lines.push([event, fields])
  return { log: { debug: write, info: write, warn: write, error: write }, lines }
}

test('stopping undoes the steps in reverse, with what each made', async () => {
  const { log, lines } = recorder()
  const lifecycle = createLifecycle(log)
  const done: string[] = []
  const undo = (value: string): void => void done.push(value)
  expect(await lifecycle.step('first', () => 'a', undo)).toBe('a')
  await lifecycle.step('without undo', async () => 'b')
  await lifecycle.step('last', async () => 'c', undo)
  await lifecycle.stop()
  expect(done).toEqual(['c', 'a'])
  expect(lines.map(([event, fields]) => [event, fields?.['step']])).toEqual([
    ['start.step', 'first'],
    ['start.step', 'without undo'],
    ['start.step', 'last'],
  ])
})

test('a step that fails has nothing to undo, the ones before it have', async () => {
  const lifecycle = createLifecycle(recorder().log)
  const done: string[] = []
  await lifecycle.step(
    'first',
    () => 1,
    () => void done.push('first'),
  )
  const failing = lifecycle.step(
    'second',
    () => Promise.reject(new Error('no')),
    () => void done.push('second'),
  )
  await expect(failing).rejects.toThrow('no')
  await lifecycle.stop()
  expect(done).toEqual(['first'])
})

test('an undo that fails is logged and does not keep the others from running', async () => {
  const { log, lines } = recorder()
  const lifecycle = createLifecycle(log)
  const done: string[] = []
  await lifecycle.step(
    'first',
    () => 1,
    () => void done.push('first'),
  )
  await lifecycle.step(
    'broken',
    () => 2,
    () => Promise.reject(new Error('stuck')),
  )
  await lifecycle.stop()
  expect(done).toEqual(['first'])
  expect(lines.at(-1)).toEqual(['stop.failed', { step: 'broken', error: new Error('stuck') }])
})

test('stopping twice undoes once', async () => {
  const lifecycle = createLifecycle(recorder().log)
  let undone = 0
  await lifecycle.step(
    'only',
    () => 1,
    async () => {
      undone++
    },
  )
  await Promise.all([lifecycle.stop(), lifecycle.stop()])
  expect(undone).toBe(1)
})
