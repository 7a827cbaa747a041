import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { createStartTurns } from './start-turns.js'

test('as many as allowed go at once, the others in the order they came', async () => {
  const turns = createStartTurns(2, 60_000)
  const order: number[] = []
  const go = async (name: number): Promise<() => void> => {
    const end = await turns.take()
    order.push(name)
    return end
  }
  const [first, second, third, fourth] = [1, 2, 3, 4].map(go)
  const endFirst = await first
  await second
  await sleep(5)
  expect(order).toEqual([1, 2])
  endFirst?.()
  // An end that is told twice makes no room for another one.
  endFirst?.()
  const endThird = await third
  await sleep(5)
  expect(order).toEqual([1, 2, 3])
  endThird?.()
  await fourth
  expect(order).toEqual([1, 2, 3, 4])
})

test('who has waited for long goes although nobody has ended, and makes no room but his own', async () => {
  const turns = createStartTurns(1, 20)
  const endFirst = await turns.take()
  const endSecond = await turns.take()
  let isThird = false
  const third = turns.take().then((end) => {
    isThird = true
    return end
  })
  endSecond()
  await sleep(1)
  expect(isThird).toBe(false)
  endFirst()
  await third
  expect(isThird).toBe(true)
})
