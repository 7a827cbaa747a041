import { expect, test } from 'vitest'
import { createSlots } from './slots.js'

const never = new AbortController().signal
const settled = async (work: Promise<unknown>) => {
  let done = false
  work.then(
    () => {
      done = true
    },
    () => {},
  )
  await new Promise((resolve) => setImmediate(resolve))
  return done
}

test('slots are given up to the limit, then in the order of coming', async () => {
  const slots = createSlots(2)
  const first = await slots.take('h', 1, never)
  const second = await slots.take('h', 1, never)
  const order: string[] = []
  const waiting = ['a', 'b'].map((name) =>
    slots.take('h', 1, never).then((slot) => {
      order.push(name)
      return slot
    }),
  )
  expect(await settled(Promise.race(waiting))).toBe(false)
  first.release()
  first.release()
  expect(await settled(Promise.race(waiting))).toBe(true)
  expect(order).toEqual(['a'])
  second.release()
  await Promise.all(waiting)
  expect(order).toEqual(['a', 'b'])
})

test('hosts do not count for one another, and a user without a slot never waits', async () => {
  const slots = createSlots(1)
  await slots.take('h', 1, never)
  expect(await settled(slots.take('other', 1, never))).toBe(true)
  expect(await settled(slots.take('h', 2, never))).toBe(true)
  expect(await settled(slots.take('h', 2, never))).toBe(false)
})

test('who has fewer is served first', async () => {
  const slots = createSlots(3)
  const held = [
    await slots.take('h', 1, never),
    await slots.take('h', 1, never),
    await slots.take('h', 2, never),
  ]
  const order: number[] = []
  for (const uid of [1, 1, 2]) void slots.take('h', uid, never).then(() => order.push(uid))
  held[0]?.release()
  await new Promise((resolve) => setImmediate(resolve))
  expect(order).toEqual([1])
  held[1]?.release()
  await new Promise((resolve) => setImmediate(resolve))
  expect(order).toEqual([1, 1])
  held[2]?.release()
  await new Promise((resolve) => setImmediate(resolve))
  expect(order).toEqual([1, 1, 2])
})

test('a lent slot lets another in, and comes back without waiting', async () => {
  const slots = createSlots(1)
  const slot = await slots.take('h', 1, never)
  const next = slots.take('h', 1, never)
  slot.lend()
  slot.lend()
  const second = await next
  slot.resume()
  const third = slots.take('h', 1, never)
  second.release()
  expect(await settled(third)).toBe(false)
  slot.release()
  slot.lend()
  slot.resume()
  const last = await third
  last.lend()
  last.release()
  expect(await settled(slots.take('h', 1, never))).toBe(true)
})

test('who is cancelled no longer waits', async () => {
  const slots = createSlots(1)
  const slot = await slots.take('h', 1, never)
  const stop = new AbortController()
  const gone = slots.take('h', 1, stop.signal)
  const next = slots.take('h', 1, never)
  stop.abort()
  await expect(gone).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  await expect(slots.take('h', 1, stop.signal)).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  slot.release()
  expect(await settled(next)).toBe(true)
})
