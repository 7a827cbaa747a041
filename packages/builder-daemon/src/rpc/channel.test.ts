import { describe, expect, test } from 'vitest'
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
