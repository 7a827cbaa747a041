import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { planLines } from './plan-fixture.js'
import { createTurns, stageWork } from './turns.js'

/** True when `work` waits for no more than promises. */
async function isOneTurn(work: () => Promise<unknown>): Promise<boolean> {
  const next = nextTurn(false)
  return await Promise.race([work().then(() => true), next])
}

test('little work is done in one turn, much of it lets others go first', async () => {
  const turns = createTurns(new AbortController().signal)
  expect(await isOneTurn(() => turns.spend(63))).toBe(true)
  expect(await isOneTurn(() => turns.spend(1))).toBe(false)
  expect(await isOneTurn(() => turns.spend(63))).toBe(true)
})

test('a cancel that came meanwhile is heard', async () => {
  const cancel = new AbortController()
  const turns = createTurns(cancel.signal)
  await turns.spend(10)
  setImmediate(() => cancel.abort())
  await expect(turns.spend(100)).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
})

test('large states count as many steps', () => {
  expect([0, 299, 300, 20_000].map(stageWork)).toEqual([1, 1, 2, 67])
})

test('a long plan takes several turns', async () => {
  const lines = (count: number) => ['FROM scratch', ...Array.from({ length: count }, (_, i) => `ENV a${i}=1`)]
  expect(await isOneTurn(() => planLines(lines(20)))).toBe(true)
  expect(await isOneTurn(() => planLines(lines(200)))).toBe(false)
})
