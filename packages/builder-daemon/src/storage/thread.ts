import { Worker } from 'node:worker_threads'
import {
  decodeFailure,
  type StoreThreadData,
  type ThreadReply,
  type ThreadRequest,
} from './thread-messages.js'

/**
 * A thread of the store, started on first use and again after it died. It is never
 * terminated from outside: a native module that is just being loaded would take the process along.
 */
export interface StoreThread {
  /** Rejects with the thread's own error, or with a plain one when the thread died on the way. */
  call(name: string, params: unknown): Promise<unknown>
  /** Lets the thread finish what it was given, then ends it. */
  close(): Promise<void>
}

interface Waiting {
  resolve(result: unknown): void
  reject(error: Error): void
}

interface Running {
  readonly worker: Worker
  readonly waiting: Map<number, Waiting>
  readonly ended: Promise<void>
  /** Keeps the process alive until the thread has ended. */
  keepAlive(): void
}

function start(entry: URL, data: StoreThreadData, on: { notice(error: Error): void; end(): void }): Running {
  const worker = new Worker(entry, {
    ...{ workerData: data, name: `store-${data.role}` },
    // What it makes is short-lived and small; a small nursery is memory saved, once for each thread.
    resourceLimits: { maxYoungGenerationSizeMb: 12 },
  })
  const waiting = new Map<number, Waiting>()
  let isClosing = false
  let cause: Error | undefined
  worker.on('message', (reply: ThreadReply) => {
    if (reply.id === 0 && !reply.ok) return on.notice(decodeFailure(reply.failure))
    const request = waiting.get(reply.id)
    if (request === undefined) return
    waiting.delete(reply.id)
    if (waiting.size === 0 && !isClosing) worker.unref()
    if (reply.ok) request.resolve(reply.result)
    else request.reject(decodeFailure(reply.failure))
  })
  worker.on('error', (error: Error) => {
    cause = error
  })
  const ended = new Promise<void>((resolve) => {
    worker.on('exit', () => {
      on.end()
      const error = new Error(`the ${data.role} thread of the store ended unexpectedly`, { cause })
      for (const request of waiting.values()) request.reject(error)
      waiting.clear()
      resolve()
    })
  })
  worker.unref()
  const keepAlive = () => {
    isClosing = true
    worker.ref()
  }
  return { worker, waiting, ended, keepAlive }
}

/** `onNotice` hears of what failed in the background of the thread. */
export function openThread(entry: URL, data: StoreThreadData, onNotice: (error: Error) => void): StoreThread {
  let running: Running | undefined
  let closed = false
  let lastId = 0

  const call = (name: string, params: unknown): Promise<unknown> => {
    if (closed) return Promise.reject(new Error(`the ${data.role} thread of the store is closed`))
    const current =
      running ??
      start(entry, data, {
        notice: onNotice,
        end: () => {
          running = undefined
        },
      })
    running = current
    return new Promise((resolve, reject) => {
      const request: ThreadRequest = { id: ++lastId, name, params }
      current.waiting.set(request.id, { resolve, reject })
      current.worker.ref()
      current.worker.postMessage(request)
    })
  }

  const close = async (): Promise<void> => {
    if (closed) return
    const finished = running === undefined ? undefined : call('close', undefined)
    running?.keepAlive()
    const ended = running?.ended
    closed = true
    await finished
    await ended
  }

  return { call, close }
}
