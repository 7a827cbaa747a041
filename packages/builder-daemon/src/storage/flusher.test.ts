import { expect, test } from 'vitest'
import { createFlusher } from './flusher.js'
import type { StoreThread } from './thread.js'

/** A flush thread whose calls end when the test says so. */
function manualThread() {
  const calls: { resolve(): void; reject(error: Error): void }[] = []
  const thread: StoreThread = {
    call: () =>
      new Promise((resolve, reject) => {
        calls.push({ resolve: () => resolve(undefined), reject })
      }),
    close: () => Promise.resolve(),
  }
  return { thread, calls }
}

function setUp(delayMs = 0) {
  const { thread, calls } = manualThread()
  const flushed: string[][] = []
  const lost: string[][] = []
  const flusher = createFlusher({
    thread,
    delayMs,
    onFlushed: async (ids) => void flushed.push([...ids]),
    onLost: async (ids) => void lost.push([...ids]),
  })
  const nth = async (index: number) => {
    await expect.poll(() => calls.length).toBeGreaterThan(index)
    return calls[index] as (typeof calls)[number]
  }
  return { flusher, calls, nth, flushed, lost }
}

test('flushes for all callers that wait at the same time at once, but never too early', async () => {
  const { flusher, calls, nth } = setUp()
  const first = flusher.flush()
  const late = [flusher.flush(), flusher.flush(), flusher.flush()]
  expect(calls).toHaveLength(1)
  let lateDone = false
  Promise.all(late).then(() => {
    lateDone = true
  })
  calls[0]?.resolve()
  await first
  const second = await nth(1)
  expect(lateDone).toBe(false)
  second.resolve()
  await Promise.all(late)
  expect(calls).toHaveLength(2)
})

test('marks the layers that were published before the flush began', async () => {
  const { flusher, nth, flushed } = setUp()
  flusher.later('a')
  flusher.later('b')
  const first = await nth(0)
  flusher.later('c')
  first.resolve()
  await expect.poll(() => flushed).toEqual([['a', 'b']])
  ;(await nth(1)).resolve()
  await flusher.idle()
  expect(flushed).toEqual([['a', 'b'], ['c']])
})

test('takes everything written up to a failure for lost, also what came in meanwhile', async () => {
  const { flusher, nth, flushed, lost } = setUp()
  flusher.later('a')
  const first = await nth(0)
  flusher.later('b')
  expect(flusher.losses()).toBe(0)
  first.reject(new Error('EIO'))
  await expect.poll(() => lost).toEqual([['a', 'b']])
  await flusher.idle()
  expect(flushed).toEqual([])
  expect(flusher.losses()).toBe(1)
})

test('tells a caller of the failure of the flush he waited for only', async () => {
  const { flusher, nth } = setUp()
  const failing = flusher.flush()
  const fine = flusher.flush()
  ;(await nth(0)).reject(new Error('EIO'))
  await expect(failing).rejects.toThrow('EIO')
  ;(await nth(1)).resolve()
  await fine
})

test('is idle at once when nothing waits', async () => {
  const { flusher, calls } = setUp(1_000_000)
  await flusher.idle()
  expect(calls).toHaveLength(0)
})
