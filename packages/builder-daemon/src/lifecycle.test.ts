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

test('stopping waits for steps under way and undoes them in the reverse of their beginning', async () => {
  const lifecycle = createLifecycle(recorder().log)
  const done: string[] = []
  const undo = (value: string): void => void done.push(value)
  let finish: (value: string) => void = () => undefined
  const slow = lifecycle.step(
    'slow',
    () =>
      new Promise<string>((resolve) => {
        finish = resolve
      }),
    undo,
  )
  await lifecycle.step('quick', () => 'quick', undo)
  const stopping = lifecycle.stop()
  await new Promise((resolve) => setImmediate(resolve))
  expect(done).toEqual([])
  finish('slow')
  await stopping
  expect([done, await slow]).toEqual([['quick', 'slow'], 'slow'])
})

test('stopping does not fail over a step under way that does', async () => {
  const lifecycle = createLifecycle(recorder().log)
  const done: string[] = []
  let fail: (error: Error) => void = () => undefined
  await lifecycle.step(
    'first',
    () => 'first',
    (value) => void done.push(value),
  )
  const failing = lifecycle.step(
    'failing',
    () =>
      new Promise<string>((_, reject) => {
        fail = reject
      }),
    (value) => void done.push(value),
  )
  const failed = expect(failing).rejects.toThrow('no')
  const stopping = lifecycle.stop()
  fail(new Error('no'))
  await stopping
  await failed
  expect(done).toEqual(['first'])
})
