import { expect, test } from 'vitest'
import type { BytePipe, PipeEvents } from '../pipe/byte-pipe.js'
import { frameType, largestWindow, numberFrame, setting, settingsFrame } from './frames.js'
import { openSession } from './http2-session.js'

/** A peer that takes everything at once, so that nothing is ever told to have drained. */
function greedyPeer() {
  let taken = 0
  const connect = (_path: string, events: PipeEvents): BytePipe => {
    const largest = settingsFrame([[setting.initialWindow, largestWindow]])
    setImmediate(() => events.data(largest))
    setImmediate(() => events.data(numberFrame(frameType.windowUpdate, 0, 1 << 30)))
    return {
      waiting: 0,
      write(parts) {
        for (const { length } of parts) taken += length
      },
      end: () => undefined,
      destroy: () => undefined,
    }
  }
  return { connect, taken: () => taken }
}

test('a peer that takes at once what fills a turn is sent the rest', async () => {
  const peer = greedyPeer()
  const session = await openSession('/nowhere', 5000, peer.connect)
  await new Promise((resolve) => setImmediate(resolve))
  const stream = session.open([[':path', '/a']], {
    headers: () => undefined,
    data: () => undefined,
    closed: () => undefined,
  })
  const size = 3 << 20
  await stream.send(Buffer.alloc(size), true)
  await new Promise((resolve) => setImmediate(resolve))
  expect(peer.taken()).toBeGreaterThan(size)
  session.close()
})
