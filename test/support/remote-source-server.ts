import { openSync } from 'node:fs'
import { workerData } from 'node:worker_threads'
import { createDirectReader } from '../../packages/builder-daemon/src/layer/copy/direct-reader.js'
import { serveSource } from '../../packages/builder-daemon/src/layer/copy/source-server.js'
import { ValueReceiver } from '../../packages/builder-daemon/src/system/packets.js'

/** A thread that serves a directory as the identity helper would if it lay on a network file system. */
const { socket, directory } = workerData as { readonly socket: number; readonly directory: string }
const rootFd = openSync(directory, 'r')
const context = new ValueReceiver(socket, 1 << 20).receive(true)
if (typeof context === 'string') throw new Error('no channel')
const [channel = -1] = context.descriptors
const receiver = new ValueReceiver(channel, 1 << 20)
const source = {
  socket: channel,
  rootFd,
  reader: createDirectReader(rootFd),
  bareReader: createDirectReader(rootFd, { bare: true }),
  kindOf: () => 'remote' as const,
}
for (;;) {
  const received = receiver.receive(true)
  if (typeof received === 'string') break
  serveSource(source, received.value)
}
