import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { createChannel } from './channel.js'

describe('a channel', () => {
  test('holds its producers back until there is room', async () => {
    const channel = createChannel<number>(2)
    const pushed: number[] = []
    const producing = (async () => {
      for (let value = 0; value < 5; value++) {
        await channel.push(value)
        pushed.push(value)
      }
      channel.close()
    })()
    await new Promise((resolve) => setTimeout(resolve, 10))
    expect(pushed).toEqual([0, 1])
    const seen: number[] = []
    for await (const value of channel) seen.push(value)
    await producing
    expect(seen).toEqual([0, 1, 2, 3, 4])
  })

  test('gives what is queued before its error', async () => {
    const channel = createChannel<number>(5)
    await channel.push(1)
    channel.fail(new Error('broken'))
    channel.close()
    const seen: number[] = []
    const read = async (): Promise<void> => {
      for await (const value of channel) seen.push(value)
    }
    await expect(read()).rejects.toThrow('broken')
    expect(seen).toEqual([1])
    expect(await channel.push(2)).toBe(false)
  })

  test('wakes a consumer that waits, and releases producers when the consumer leaves', async () => {
    const channel = createChannel<number>(1)
    const leaving = (async () => {
      for await (const value of channel) return value
      return undefined
    })()
    await channel.push(7)
    expect(await leaving).toBe(7)
    expect(await channel.push(8)).toBe(false)
  })

  test('releases producers that wait when it is closed', async () => {
    const channel = createChannel<number>(1)
    await channel.push(1)
    const waiting = channel.push(2)
    channel.close()
    expect(await waiting).toBe(false)
  })
})

describe('a consumer that may go on sleeping', () => {
  beforeEach(() => {
    vi.useFakeTimers()
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  /** Small numbers can wait 40 ms, others cannot; a number weighs what it is. */
  function patientChannel() {
    const channel = createChannel<number>(100, {
      weigh: (value) => value,
      patience: (value) => (value < 50 ? 40 : 0),
    })
    const seen: number[] = []
    const reading = (async () => {
      for await (const value of channel) seen.push(value)
    })()
    return { channel, seen, reading }
  }

  test('is woken once for what came within the time, counted from the first', async () => {
    const { channel, seen } = patientChannel()
    await channel.push(1)
    await vi.advanceTimersByTimeAsync(30)
    await channel.push(2)
    await vi.advanceTimersByTimeAsync(9)
    expect(seen).toEqual([])
    await vi.advanceTimersByTimeAsync(1)
    expect(seen).toEqual([1, 2])
    await channel.push(3)
    await vi.advanceTimersByTimeAsync(39)
    expect(seen).toEqual([1, 2])
    await vi.advanceTimersByTimeAsync(1)
    expect(seen).toEqual([1, 2, 3])
  })

  test('gets what waits with the first that cannot, in order', async () => {
    const { channel, seen } = patientChannel()
    await channel.push(1)
    await channel.push(60)
    await vi.advanceTimersByTimeAsync(0)
    expect(seen).toEqual([1, 60])
    // The time of the first one is over: what comes now has all of its own.
    await channel.push(2)
    await vi.advanceTimersByTimeAsync(39)
    expect(seen).toEqual([1, 60])
  })

  test('is woken when there is no room for more', async () => {
    const { channel, seen } = patientChannel()
    for (const value of [40, 41]) await channel.push(value)
    await vi.advanceTimersByTimeAsync(0)
    expect(seen).toEqual([])
    await channel.push(42)
    await vi.advanceTimersByTimeAsync(0)
    expect(seen).toEqual([40, 41, 42])
  })

  test.each(['close', 'fail'] as const)('gets what waits before the end: %s', async (how) => {
    const { channel, seen, reading } = patientChannel()
    const ended = reading.catch((error: unknown) => error)
    await channel.push(1)
    if (how === 'fail') channel.fail('broken')
    else channel.close()
    expect(await ended).toBe(how === 'fail' ? 'broken' : undefined)
    expect(seen).toEqual([1])
    expect(vi.getTimerCount()).toBe(0)
  })

  test('leaves no timer behind', async () => {
    const channel = createChannel<number>(1, { patience: () => 40, weigh: () => 0 })
    await channel.push(1)
    await channel.push(2)
    for await (const value of channel) {
      expect(value).toBe(1)
      break
    }
    expect(vi.getTimerCount()).toBe(0)
  })
})
