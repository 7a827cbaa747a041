import { getHeapStatistics } from 'node:v8'
import { expect, test } from 'vitest'
import { createHeapCheck } from './heap-limit.js'

const mebibyte = 2 ** 20

function mebibytes(count: number): unknown[] {
  return Array.from({ length: count * 8 }, (_, index) => new Array(mebibyte / 64).fill(index))
}

test('what a job holds counts, garbage does not', () => {
  // Some 50 MiB more than there is now.
  const limit = Math.ceil(getHeapStatistics().used_heap_size / mebibyte / 0.6 + 80)
  const check = createHeapCheck('seal', limit)
  const often = (): void => {
    for (let call = 0; call < 512; call += 1) check()
  }
  // 20 MiB at a time, which come to more than there is room for.
  for (let round = 0; round < 10; round += 1) {
    const held: unknown[] = []
    for (let part = 0; part < 4; part += 1) {
      held.push(mebibytes(5))
      expect(often).not.toThrow()
    }
  }
  const held: unknown[] = []
  const fill = (): void => {
    for (let part = 0; part < 100; part += 1) {
      held.push(mebibytes(5))
      often()
    }
  }
  expect(fill).toThrowError(
    expect.objectContaining({
      code: 'ISB_LIMIT_EXCEEDED',
      message: `"seal" of a layer needs more than ${limit} MiB of memory`,
    }),
  )
  expect(held.length).toBeGreaterThan(4)
  held.length = 0
  expect(often).not.toThrow()
})
