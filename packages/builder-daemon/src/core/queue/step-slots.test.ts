import { expect, test } from 'vitest'
import { seededRandom } from '../../../../../test/support/random-choices.js'
import type { Slot } from './build-queue.js'
import { createStepSlots } from './step-slots.js'

const never = new AbortController().signal
const calm = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('runs up to its limit at once; a slot given back twice is given back once', async () => {
  const slots = createStepSlots(2)
  const first = await slots.acquire({ uid: 1, order: 0 }, never)
  await slots.acquire({ uid: 1, order: 1 }, never)
  let started = 0
  for (const order of [2, 3]) void slots.acquire({ uid: 1, order }, never).then(() => started++)
  await calm()
  expect(started).toBe(0)
  first.release()
  first.release()
  await calm()
  expect(started).toBe(1)
})

test('steps of the oldest build go first', async () => {
  const slots = createStepSlots(1)
  const holder = await slots.acquire({ uid: 1, order: 0 }, never)
  const order: string[] = []
  const steps = ['2 a', '1 a', '2 b', '0 a', '1 b'].map(async (name) => {
    using _slot = await slots.acquire({ uid: 1, order: Number(name[0]) }, never)
    order.push(name)
  })
  holder.release()
  await Promise.all(steps)
  expect(order).toEqual(['0 a', '1 a', '1 b', '2 a', '2 b'])
})

test('users take turns, and one of whom nothing runs does not wait', async () => {
  const slots = createStepSlots(1)
  const holder = await slots.acquire({ uid: 1, order: 0 }, never)
  const other = await slots.acquire({ uid: 2, order: 9 }, never)
  const order: string[] = []
  const steps = ['1 a', '1 b', '1 c', '2 a', '2 b'].map(async (name, i) => {
    using _slot = await slots.acquire({ uid: Number(name[0]), order: i }, never)
    order.push(name)
    await calm()
  })
  holder.release()
  other.release()
  await Promise.all(steps)
  expect(order).toEqual(['1 a', '2 a', '1 b', '2 b', '1 c'])
})

test('who is cancelled takes no slot', async () => {
  const slots = createStepSlots(1)
  const holder = await slots.acquire({ uid: 1, order: 0 }, never)
  const impatient = new AbortController()
  const cancelled = slots.acquire({ uid: 1, order: 0 }, impatient.signal)
  const patient = slots.acquire({ uid: 1, order: 1 }, never)
  impatient.abort()
  await expect(cancelled).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  holder.release()
  await patient
  await expect(slots.acquire({ uid: 3, order: 0 }, impatient.signal)).rejects.toMatchObject({
    code: 'ISB_CANCELLED',
  })
})

/** Builds of several users whose steps take random times, in virtual time; some are cancelled. */
test.each([1, 2, 3, 4, 5, 6, 7, 8])(
  'every build ends, and no user is left behind (seed %i)',
  async (seed) => {
    const random = seededRandom(seed)
    const limit = 1 + random.next(6)
    const users = 1 + random.next(4)
    const slots = createStepSlots(limit)
    const running = new Map<number, number>()
    const busy: { readonly slot: Slot; readonly uid: number }[] = []
    const waitingOf = new Map<number, number>()
    let ended = 0

    const build = async (order: number): Promise<void> => {
      const uid = random.next(users)
      const abort = new AbortController()
      for (let step = 0; step < 5; step++) {
        if (random.next(30) === 0) abort.abort()
        waitingOf.set(uid, (waitingOf.get(uid) ?? 0) + 1)
        let slot: Slot
        try {
          slot = await slots.acquire({ uid, order }, abort.signal)
        } catch {
          break
        } finally {
          waitingOf.set(uid, (waitingOf.get(uid) ?? 0) - 1)
        }
        running.set(uid, (running.get(uid) ?? 0) + 1)
        const total = [...running.values()].reduce((sum, count) => sum + count, 0)
        expect(total).toBeLessThan(limit + users)
        await new Promise<void>((resolve) => {
          busy.push({
            uid,
            slot: {
              release() {
                running.set(uid, (running.get(uid) ?? 0) - 1)
                slot.release()
                resolve()
              },
              [Symbol.dispose]: () => undefined,
            },
          })
        })
      }
      ended++
    }
    const builds = Array.from({ length: 60 }, (_, order) => build(order))
    for (let round = 0; ended < builds.length; round++) {
      expect(round, 'stuck').toBeLessThan(2000)
      await calm()
      for (const [uid, count] of waitingOf) {
        if (count > 0) expect(running.get(uid), `of user ${uid} nothing runs`).toBeGreaterThan(0)
      }
      const [one] = busy.splice(random.next(Math.max(1, busy.length)), 1)
      one?.slot.release()
    }
    await Promise.all(builds)
  },
)
