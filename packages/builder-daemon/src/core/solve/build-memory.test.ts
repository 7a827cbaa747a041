import { expect, test } from 'vitest'
import type { Step } from '../plan/plan.js'
import {
  align,
  counterparts,
  decodeMemory,
  encodeMemory,
  memoryDigest,
  type StepMemory,
} from './build-memory.js'

const pairs = (a: string, b: string): string =>
  align([...a], [...b])
    .map(([i, j]) => `${a[i]}${b[j]}`)
    .join(' ')

test.each([
  ['abc', 'abc', 'aa bb cc'],
  ['axc', 'abc', 'aa xb cc'],
  ['abxc', 'abc', 'aa bb cc'],
  ['ac', 'abc', 'aa cc'],
  ['abc', '', ''],
  ['', 'abc', ''],
  ['xyz', 'abc', 'xa yb zc'],
  ['xaybz', 'ab', 'aa bb'],
  ['aabb', 'ab', 'aa bb'],
  ['abcx', 'yabc', 'aa bb cc'],
])('%s against %s pairs %s', (a, b, expected) => {
  expect(pairs(a, b)).toBe(expected)
})

test('pairs ascend on both sides, and equal beginnings always belong together', () => {
  let seed = 7
  const next = (limit: number): number => {
    seed = (seed * 1103515245 + 12345) % 2147483648
    return seed % limit
  }
  for (let round = 0; round < 300; round++) {
    const [a, b] = [0, 1].map(() => Array.from({ length: next(9) }, () => 'abcd'[next(4)] ?? ''))
    if (a === undefined || b === undefined) throw new Error('two lists')
    const found = align(a, b)
    for (const [n, [i, j]] of found.entries()) {
      expect(i < a.length && j < b.length).toBe(true)
      const before = found[n - 1]
      if (before !== undefined) expect(before[0] < i && before[1] < j).toBe(true)
    }
    if (a.length > 0 && a[0] === b[0]) expect(found[0]).toEqual([0, 0])
  }
})

test('a list too long to compare is compared at its ends', () => {
  const many = Array.from({ length: 2000 }, (_, i) => `a${i}`)
  const others = many.map((text, i) => (i === 0 || i === 1999 ? text : `b${i}`))
  const found = align(many, others)
  expect(found[0]).toEqual([0, 0])
  expect(found.at(-1)).toEqual([1999, 1999])
})

const step = (number: number, stage: string, text: string): Step =>
  ({ number, stage, definition: { text } }) as unknown as Step
const memory = (stage: string, text: string): StepMemory => ({
  ...{ stage, text: memoryDigest(text), meaning: text, args: [], images: [], content: '' },
  ...{ record: 3, sources: [] },
})

test('steps belong to those of the same stage', () => {
  const found = counterparts(
    [step(1, 'a', 'FROM x'), step(2, 'a', 'RUN 1'), step(3, 'b', 'FROM x'), step(4, 'c', 'FROM x')],
    [memory('b', 'FROM x'), memory('a', 'FROM x'), memory('a', 'RUN 0'), memory('b', 'RUN 1')],
  )
  expect([...found].map(([number, { stage, meaning }]) => [number, stage, meaning])).toEqual([
    [1, 'a', 'FROM x'],
    [2, 'a', 'RUN 0'],
    [3, 'b', 'FROM x'],
  ])
})

test('what is remembered is read again, but for that of another version', () => {
  const kept = { steps: [memory('a', 'RUN 1')], image: 'id' }
  const nothing = { steps: [], image: undefined }
  expect(decodeMemory(encodeMemory(kept))).toEqual(kept)
  expect(decodeMemory(encodeMemory(nothing))).toEqual(nothing)
  expect(decodeMemory(undefined)).toEqual(nothing)
  expect(decodeMemory('{"version":99,"steps":[{}]}')).toEqual(nothing)
  expect(decodeMemory('{"vers')).toEqual(nothing)
})

test('values are told apart without being kept', () => {
  expect(memoryDigest('a')).not.toBe(memoryDigest('b'))
  expect(encodeMemory({ steps: [memory('a', memoryDigest('hunter2'))], image: undefined })).not.toContain(
    'hunter2',
  )
})
