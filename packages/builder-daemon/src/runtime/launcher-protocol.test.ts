import { expect, test } from 'vitest'
import { processorTime } from '../../../../test/support/processor-time.js'
import { encodeMessage, type FromLauncher, maxMessage, messageDecoder } from './launcher-protocol.js'

const seconds = Number(process.env['ISULA_FUZZ_SECONDS'] ?? 5) / 5

test('messages survive any way of cutting the stream', () => {
  const end = processorTime() + seconds * 1000
  for (let seed = 1; processorTime() < end; seed += 1) {
    const random = randomFrom(seed)
    const messages: FromLauncher[] = Array.from({ length: 1 + random(20) }, (_, n) => ({
      type: 'stalled',
      id: 'ü'.repeat(random(300)),
      bytes: n,
    }))
    const stream = Buffer.concat(messages.map(encodeMessage))
    const received: FromLauncher[] = []
    const push = messageDecoder<FromLauncher>((message) => received.push(message))
    for (let at = 0; at < stream.length; ) {
      const next = at + 1 + random(64)
      push(stream.subarray(at, next))
      at = next
    }
    expect(received, `seed ${seed}`).toEqual(messages)
  }
})

test('a length beyond the limit is refused before it is waited for', () => {
  const head = Buffer.alloc(4)
  head.writeUInt32LE(maxMessage + 1)
  expect(() => messageDecoder(() => undefined)(head)).toThrow(RangeError)
})

/** The same numbers from 0 to `limit - 1` for the same seed (xorshift32). */
function randomFrom(seed: number): (limit: number) => number {
  let state = (seed * 2654435761) >>> 0 || 1
  return (limit) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state % Math.max(1, limit)
  }
}
