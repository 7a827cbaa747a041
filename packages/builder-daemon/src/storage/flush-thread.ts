import { closeSync, openSync } from 'node:fs'
import { syncfs } from '../system/syscalls.js'
import type { ThreadRole } from './database-worker.js'
import { encodeFailure, type ThreadReply } from './thread-messages.js'

/**
 * Flushes the file system of the data root. The descriptor stays open for the life of the thread,
 * because the kernel reports write-back errors once per descriptor, since its opening (syncfs(2)).
 * All requests that are waiting share one call.
 */
export function createFlushThread(dataRoot: string): ThreadRole {
  const fd = openSync(dataRoot, 'r')

  const flush = (): ((id: number) => ThreadReply) => {
    try {
      syncfs(fd)
      return (id) => ({ id, ok: true, result: undefined })
    } catch (error) {
      const failure = encodeFailure(error)
      return (id) => ({ id, ok: false, failure })
    }
  }

  return {
    serve(requests, reply) {
      // `open` only makes the descriptor exist before the first write.
      const answer = requests.some((request) => request.name === 'flush')
        ? flush()
        : (id: number): ThreadReply => ({ id, ok: true, result: undefined })
      for (const request of requests) reply(answer(request.id))
    },
    close() {
      closeSync(fd)
    },
  }
}
