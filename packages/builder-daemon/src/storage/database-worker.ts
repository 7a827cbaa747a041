import type { MessagePort } from 'node:worker_threads'
import { isUsual, setNice, shortWork } from '../system/priority.js'
import { createFlushThread } from './flush-thread.js'
import { createLookThread } from './look-through.js'
import { createRemoveThread } from './remove-thread.js'
import {
  encodeFailure,
  type StoreThreadData,
  type ThreadReply,
  type ThreadRequest,
} from './thread-messages.js'
import { createWriter } from './writer.js'

/** How a role takes requests: all that are waiting at once, so that they can share a commit or a flush. */
export interface ThreadRole {
  /** Answers every request exactly once through `reply`. */
  serve(requests: readonly ThreadRequest[], reply: (reply: ThreadReply) => void): void
  close(): void
}

function createRole(data: StoreThreadData, report: (error: unknown) => void): ThreadRole {
  switch (data.role) {
    case 'database':
      if (isUsual()) setNice(0, shortWork)
      return createWriter(data.path, data.backups, report)
    case 'flush':
      return createFlushThread(data.fd)
    case 'look':
      return createLookThread(data.dataRoot, data.stop)
    case 'remove':
      return createRemoveThread(data.trash, data.stop)
  }
}

/** Body of a store thread; returns when listening, the thread ends after a `close` request. */
export function runStoreThread(port: MessagePort, data: StoreThreadData): void {
  const reply = (message: ThreadReply) => port.postMessage(message)
  const role = createRole(data, (error) => reply({ id: 0, ok: false, failure: encodeFailure(error) }))
  let waiting: ThreadRequest[] = []

  const drain = () => {
    const batch = waiting
    waiting = []
    const closing = batch.find((request) => request.name === 'close')
    const work = batch.filter((request) => request !== closing)
    if (work.length > 0) role.serve(work, reply)
    if (closing === undefined) return
    try {
      role.close()
      reply({ id: closing.id, ok: true, result: undefined })
    } catch (error) {
      reply({ id: closing.id, ok: false, failure: encodeFailure(error) })
    }
    port.close()
  }

  port.on('message', (request: ThreadRequest) => {
    waiting.push(request)
    // Everything that arrives while the last batch was being committed joins the next one.
    if (waiting.length === 1) setImmediate(drain)
  })
}
