import { expect, test } from 'vitest'
import { BuildQueue } from './build-queue.js'

const signal = new AbortController().signal
const ignore = (): void => undefined

test('runs up to its limit at once and queues the next', async () => {
  const queue = new BuildQueue({ running: 2, waiting: 10 })
  const first = await queue.acquire(1, signal, ignore)
  await queue.acquire(1, signal, ignore)
  const positions: number[] = []
  const third = queue.acquire(1, signal, (position) => positions.push(position))
  expect(queue.runningCount).toBe(2)
  expect(positions).toEqual([1])
  first.release()
  first.release()
  await third
  expect(queue.runningCount).toBe(2)
})

test('gives users turns, so a backlog of one delays another by one slot', async () => {
  const queue = new BuildQueue({ running: 1, waiting: 10 })
  const order: string[] = []
  const holder = await queue.acquire(1, signal, ignore)
  const jobs = [
    [1, 'a1'],
    [1, 'a2'],
    [1, 'a3'],
    [2, 'b1'],
  ].map(async ([uid, name]) => {
    const slot = await queue.acquire(uid as number, signal, ignore)
    order.push(name as string)
    slot.release()
  })
  holder.release()
  await Promise.all(jobs)
  expect(order).toEqual(['a1', 'b1', 'a2', 'a3'])
})

test('refuses more waiters than allowed', async () => {
  const queue = new BuildQueue({ running: 1, waiting: 1 })
  await queue.acquire(1, signal, ignore)
  const waiting = queue.acquire(1, signal, ignore)
  await expect(queue.acquire(2, signal, ignore)).rejects.toMatchObject({ code: 'ISB_TOO_MANY_BUILDS' })
  waiting.catch(ignore)
})

test('a cancelled waiter leaves the queue', async () => {
  const queue = new BuildQueue({ running: 1, waiting: 1 })
  const holder = await queue.acquire(1, signal, ignore)
  const abort = new AbortController()
  const waiting = queue.acquire(1, abort.signal, ignore)
  abort.abort()
  await expect(waiting).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  const next = queue.acquire(2, signal, ignore)
  holder.release()
  await next
})
