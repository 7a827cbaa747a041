import { expect, test } from 'vitest'
import { seededRandom } from '../../../../test/support/random-choices.js'
import { createFairLocks, type HeldLocks } from './fair-locks.js'

const never = new AbortController().signal
const alone = (name: string) => ({ name, isExclusive: () => true })
const shared = (name: string) => ({ name, isExclusive: () => false })

/** Lets everything happen that waits for nothing else. */
const calm = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('a lock is free when nobody has it or waits for it', async () => {
  const locks = createFairLocks()
  const holder = await locks.acquire([alone('a')], never)
  const waiting = locks.acquire([alone('a'), alone('b')], never)
  expect(['a', 'b', 'c'].map(locks.isFree)).toEqual([false, false, true])
  holder.release()
  holder.release()
  ;(await waiting).release()
  expect(['a', 'b'].map(locks.isFree)).toEqual([true, true])
})

test('who is cancelled makes room for those behind him', async () => {
  const locks = createFairLocks()
  const holder = await locks.acquire([shared('a')], never)
  const impatient = new AbortController()
  const cancelled = locks.acquire([alone('a')], impatient.signal)
  const behind = locks.acquire([shared('a')], never)
  impatient.abort()
  await expect(cancelled).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  await behind
  holder.release()
  await expect(locks.acquire([alone('x')], impatient.signal)).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
})

/** 200 operations that want some of five locks, and at times give up; none may be stuck or overtaken for long. */
test.each([1, 2, 3, 4, 5, 6, 7, 8])('nobody is stuck, starved or let in together (seed %i)', async (seed) => {
  const random = seededRandom(seed)
  const locks = createFairLocks()
  const inside = new Map<string, number>()
  const held = new Set<{ readonly locks: HeldLocks; readonly leave: () => void }>()
  let [done, cancelled] = [0, 0]
  /** How many that came later and want one of the same locks went first. */
  const overtaken: number[] = []
  const waiting = new Map<number, ReadonlySet<string>>()

  const operation = async (number: number): Promise<void> => {
    const names = ['a', 'b', 'c', 'd', 'e'].filter(() => random.next(3) === 0)
    const wishes = names.map((name) => (random.next(2) === 0 ? alone(name) : shared(name)))
    const abort = new AbortController()
    waiting.set(number, new Set(wishes.filter(({ isExclusive }) => isExclusive()).map(({ name }) => name)))
    overtaken[number] = 0
    const isImpatient = random.next(5) === 0
    const asked = locks.acquire(wishes, abort.signal)
    if (isImpatient) setImmediate(() => abort.abort())
    let got: HeldLocks
    try {
      got = await asked
    } catch {
      waiting.delete(number)
      cancelled++
      return
    }
    waiting.delete(number)
    for (const [earlier, wanted] of waiting) {
      if (earlier < number && names.some((name) => wanted.has(name)))
        overtaken[earlier] = (overtaken[earlier] ?? 0) + 1
    }
    for (const { name, isExclusive } of wishes) {
      const now = inside.get(name) ?? 0
      expect(isExclusive() ? now === 0 : now >= 0, `${name} of ${number}`).toBe(true)
      inside.set(name, isExclusive() ? -1 : now + 1)
    }
    held.add({
      locks: got,
      leave() {
        for (const { name, isExclusive } of wishes) {
          inside.set(name, isExclusive() ? 0 : (inside.get(name) ?? 0) - 1)
        }
      },
    })
    done++
  }

  const all: Promise<void>[] = []
  for (let number = 0; number < 200; number++) {
    all.push(operation(number))
    if (random.next(2) === 0) await calm()
    for (const one of held) {
      if (random.next(3) > 0) continue
      held.delete(one)
      one.leave()
      one.locks.release()
    }
  }
  for (let round = 0; done + cancelled < 200; round++) {
    expect(round, `stuck: ${[...waiting.keys()]}`).toBeLessThan(1000)
    await calm()
    for (const one of held) {
      held.delete(one)
      one.leave()
      one.locks.release()
    }
  }
  await Promise.all(all)
  expect(Math.max(...overtaken)).toBe(0)
  expect(done).toBeGreaterThan(100)
})
