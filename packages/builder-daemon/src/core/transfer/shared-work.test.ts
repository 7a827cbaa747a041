import { expect, test } from 'vitest'
import { createLimit } from './limit.js'
import { createSharedWork } from './shared-work.js'

const never = new AbortController().signal
const soon = (ms = 5): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

test('one does the work, the others come back when it is over', async () => {
  const shared = createSharedWork()
  const events: string[] = []
  const first = shared.run(
    'k',
    async () => {
      await soon()
      events.push('done')
      return 1
    },
    never,
  )
  const second = shared.run('k', async () => 2, never).then((result) => events.push(`second ${result}`))
  expect(await shared.run('other', async () => 3, never)).toBe(3)
  expect(await first).toBe(1)
  await second
  expect(events).toEqual(['done', 'second undefined'])
  expect(await shared.run('k', async () => 4, never)).toBe(4)
})

test('a failure is that of the one who worked, and one who waits may leave', async () => {
  const shared = createSharedWork()
  const failing = shared.run('k', () => soon(20).then(() => Promise.reject(new Error('no'))), never)
  const leaving = new AbortController()
  const waiting = shared.run('k', async () => 2, leaving.signal)
  leaving.abort()
  expect(await waiting).toBeUndefined()
  const patient = shared.run('k', async () => 3, never)
  await expect(failing).rejects.toThrow('no')
  expect(await patient).toBeUndefined()
})

test('a limit lets so many through at once, in order, also after failures', async () => {
  const limit = createLimit(2)
  let running = 0
  let most = 0
  const order: number[] = []
  const results = await Promise.allSettled(
    Array.from({ length: 10 }, (_, i) =>
      limit(async () => {
        order.push(i)
        running += 1
        most = Math.max(most, running)
        await soon(1)
        running -= 1
        if (i % 3 === 0) throw new Error('one of three')
        return i
      }),
    ),
  )
  expect([most, order]).toEqual([2, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
  expect(results.filter(({ status }) => status === 'rejected')).toHaveLength(4)
})
