import { expect, test } from 'vitest'
import { eventStream } from './event-stream.js'

const signal = new AbortController().signal

async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const event of stream) all.push(event)
  return all
}

test('gives events in order and ends with the work', async () => {
  const stream = eventStream<number>(signal, async (emit) => {
    await emit(1)
    void emit(2)
    void emit(3)
  })
  expect(await collect(stream)).toEqual([1, 2, 3])
})

test('fails with the error of the work, after its events', async () => {
  const seen: number[] = []
  const stream = eventStream<number>(signal, async (emit) => {
    void emit(1)
    throw new Error('broken')
  })
  const read = async (): Promise<void> => {
    for await (const event of stream) seen.push(event)
  }
  await expect(read()).rejects.toThrow('broken')
  expect(seen).toEqual([1])
})

test('a reader who leaves aborts the work', async () => {
  let aborted = false
  const stream = eventStream<number>(signal, async (emit, inner) => {
    await emit(1)
    aborted = inner.aborted
  })
  for await (const _ of stream) break
  expect(aborted).toBe(true)
})

test('a slow reader holds the work back', async () => {
  let made = 0
  const stream = eventStream<number>(signal, async (emit) => {
    for (let i = 0; i < 10; i++) {
      made = i
      await emit(i)
    }
  })
  for await (const event of stream) {
    await new Promise((resolve) => setTimeout(resolve, 1))
    expect(made - event).toBeLessThanOrEqual(1)
  }
})
