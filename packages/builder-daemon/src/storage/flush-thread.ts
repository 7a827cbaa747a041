import { syncfs } from '../system/syscalls.js'
import type { ThreadRole } from './database-worker.js'
import { encodeFailure, type ThreadReply } from './thread-messages.js'

/**
 * Flushes the file system of `fd`, a descriptor that the daemon keeps open from before its first write, because the
 * kernel reports write-back errors once per descriptor, since its opening (syncfs(2)). All requests that are waiting
 * share one call.
 */
export function createFlushThread(fd: number): ThreadRole {
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
      const answer = flush()
      for (const request of requests) reply(answer(request.id))
    },
    close: () => undefined,
  }
}
