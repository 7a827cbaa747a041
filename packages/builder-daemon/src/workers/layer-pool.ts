import { getHeapStatistics } from 'node:v8'
import { Worker } from 'node:worker_threads'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { closeAbandoned, tellLoss } from '../layer/pipe/head.js'
import type { JobName, LayerJobs, LayerWorkers } from '../ports/layer-worker.js'
import type { Logger } from '../ports/logger.js'
import { tooMuch } from './heap-limit.js'
import {
  decodeFailure,
  type HelpParams,
  type LayerMessage,
  type LayerRequest,
  type LayerThreadData,
} from './layer-messages.js'

export interface LayerPoolOptions {
  /** The built `layer-worker`. */
  readonly entry: URL
  /** Threads at most, for one lane; each starts when there is work for it. */
  readonly size: number
  readonly log: Logger
  /**
   * Directory for temporary files, there before the first job. Whoever made it empties it after a crash, so
   * it should not be the machine's own, which is the default.
   */
  readonly temporary?: string
  /**
   * MiB of heap that a thread may have; 2048, or what the main thread may have where that is less. A job ends by itself
   * when it fills a good half (see `heap-limit`).
   */
  readonly heap?: number
}

interface Task {
  readonly id: number
  readonly job: JobName | 'help'
  readonly params: unknown
  readonly lane: Lane
  settled: boolean
  cancelled: boolean
  resolve(result: unknown): void
  reject(error: Error): void
}

/** The user whose file systems a job may wait for; undefined when it waits for nobody. */
type Lane = number | undefined | 'help'

interface Thread {
  readonly worker: Worker
  readonly cancelled: Int32Array
  readonly ended: Promise<void>
  task: Task | undefined
  rest: NodeJS.Timeout | undefined
  /** What other threads help it with, or are about to notice is over. */
  readonly helped: Set<Help>
  /** It was told to end. */
  leaving: boolean
}

interface Help {
  readonly memory: SharedArrayBuffer
  /** Never rejects. */
  readonly over: Promise<void>
}

/** How long a thread beyond the size of a lane stays without work, milliseconds. */
const REST = 10_000
/** How long disposal waits for a thread that does not notice its cancellation, milliseconds. */
const PATIENCE = 5000
/** MiB. An archive of a million files takes some 400 when it is added, 100 when it is imported. */
const HEAP = Math.min(2048, Math.floor(getHeapStatistics().heap_size_limit / 2 ** 20))

/**
 * Threads for synchronous layer work; jobs of a lane start in the order they came. Jobs that read through a
 * user's helper may wait for him for ever, so each such user has a lane of his own: as many threads as all
 * others share, which nobody else ever waits for. A job that could do with another thread gets one when no more than
 * `size` help already, and does without otherwise. An abort takes a waiting job
 * out at once; a running one rejects with ISB_CANCELLED when its thread has stopped touching files,
 * so its directories can be removed then. A thread that dies fails its job only and is replaced; a job that needs more
 * heap than it may have rejects with ISB_LIMIT_EXCEEDED.
 * Disposal cancels everything and ends the threads.
 */
export function createLayerPool({
  entry,
  size,
  log,
  temporary,
  heap = HEAP,
}: LayerPoolOptions): LayerWorkers & AsyncDisposable {
  const threads = new Set<Thread>()
  const queue: Task[] = []
  let lastId = 0
  let disposed = false

  function start(): Thread {
    const shared = new SharedArrayBuffer(4)
    const data: LayerThreadData = { cancelled: shared }
    // Descriptors come from system calls of our own, of which Node's book-keeping knows nothing.
    const env = temporary === undefined ? {} : { TMPDIR: temporary }
    const worker = new Worker(entry, {
      ...{ workerData: data, name: 'layer', trackUnmanagedFds: false, env },
      // A third of it is the nursery. What a copy knows of files whose bytes are on their way outlives a smaller one, and
      // is moved twice then, which takes as long as the copy; jobs that know of little never let it grow.
      resourceLimits: { maxYoungGenerationSizeMb: 48, maxOldGenerationSizeMb: heap },
    })
    worker.unref()
    let failure: unknown
    const thread: Thread = {
      worker,
      cancelled: new Int32Array(shared),
      task: undefined,
      rest: undefined,
      helped: new Set(),
      leaving: false,
      ended: new Promise((resolve) => {
        worker.on('exit', (code) => {
          threads.delete(thread)
          resolve(buried(thread, code, failure))
        })
      }),
    }
    worker.on('message', (reply: LayerMessage) => {
      if (reply.ok === 'late') {
        log.warn('layer.afterwards.failed', { error: String(decodeFailure(reply.afterwards)) })
        return
      }
      const task = thread.task
      if (task === undefined || task.id !== reply.id) return
      if (reply.ok === 'help') {
        help(thread, reply)
        return
      }
      free(thread)
      if (task.cancelled) settle(task, cancelledError())
      else if (reply.ok) settle(task, undefined, reply.result)
      else settle(task, decodeFailure(reply.failure))
      dispatch()
    })
    worker.on('error', (error) => {
      failure = error
    })
    threads.add(thread)
    return thread
  }

  /** The job of a thread that died is over when nobody helps with it any more: its files can go then. */
  async function buried(thread: Thread, code: number, failure: unknown): Promise<void> {
    const task = thread.task
    thread.task = undefined
    for (const { memory } of thread.helped) closeAbandoned(memory)
    if (!disposed && !thread.leaving)
      log.error('layer.thread.died', { code, job: task?.job, error: String(failure ?? '') })
    dispatch()
    await Promise.all([...thread.helped].map(({ over }) => over))
    if (task !== undefined) {
      const died = isOutOfMemory(failure)
        ? tooMuch(task.job, heap)
        : new Error(`a layer thread died during "${task.job}"`, { cause: failure })
      settle(task, task.cancelled ? cancelledError() : died)
    }
  }

  function help(thread: Thread, { memory, feed }: HelpParams): void {
    const helping = [...threads].filter(({ task }) => task?.lane === 'help').length
    if (disposed || helping >= size) return
    lastId += 1
    const params: HelpParams = { memory, feed }
    const task = { id: lastId, job: 'help', params, lane: 'help', settled: false, cancelled: false } as const
    const over = new Promise<unknown>((resolve, reject) => give(idle(), { ...task, resolve, reject })).then(
      () => void thread.helped.delete(helped),
      (error: unknown) => {
        thread.helped.delete(helped)
        if (isBuilderError(error, 'ISB_CANCELLED')) return
        // The job that is helped must not wait for a thread that died with a part of its work.
        tellLoss(memory)
        if (!disposed) log.warn('layer.help.failed', { error: String(error) })
      },
    )
    const helped: Help = { memory, over }
    thread.helped.add(helped)
  }

  function settle(task: Task, error: Error | undefined, result?: unknown): void {
    if (task.settled) return
    task.settled = true
    if (error === undefined) task.resolve(result)
    else task.reject(error)
  }

  function free(thread: Thread): void {
    thread.task = undefined
    thread.worker.unref()
    if (threads.size <= size) return
    thread.rest = setTimeout(() => {
      if (threads.size <= size) return
      thread.leaving = true
      void thread.worker.terminate()
    }, REST)
    thread.rest.unref()
  }

  function idle(): Thread {
    for (const thread of threads) if (thread.task === undefined && !thread.leaving) return thread
    return start()
  }

  function dispatch(): void {
    if (disposed) return
    const busy = new Map<Lane, number>()
    for (const { task } of threads)
      if (task !== undefined) busy.set(task.lane, (busy.get(task.lane) ?? 0) + 1)
    const waiting = queue.splice(0)
    for (const task of waiting) {
      const before = busy.get(task.lane) ?? 0
      if (before >= size) queue.push(task)
      else {
        busy.set(task.lane, before + 1)
        give(idle(), task)
      }
    }
  }

  function give(thread: Thread, task: Task): void {
    clearTimeout(thread.rest)
    Atomics.store(thread.cancelled, 0, 0)
    thread.task = task
    thread.worker.ref()
    try {
      thread.worker.postMessage({ id: task.id, job: task.job, params: task.params })
    } catch (cause) {
      free(thread)
      settle(task, new Error(`the parameters of "${task.job}" cannot go to a thread`, { cause }))
    }
  }

  function cancel(task: Task): void {
    task.cancelled = true
    const waiting = queue.indexOf(task)
    if (waiting >= 0) {
      queue.splice(waiting, 1)
      settle(task, cancelledError())
      return
    }
    for (const thread of threads) if (thread.task === task) Atomics.store(thread.cancelled, 0, 1)
  }

  async function run<N extends JobName>(
    job: N,
    params: LayerJobs[N]['params'],
    signal?: AbortSignal,
  ): Promise<LayerJobs[N]['result']> {
    if (signal?.aborted === true) throw cancelledError()
    if (disposed) throw new BuilderError('ISB_SHUTTING_DOWN', 'the daemon is stopping')
    lastId += 1
    const request: LayerRequest<N> = { id: lastId, job, params }
    let onAbort: (() => void) | undefined
    try {
      return await new Promise<LayerJobs[N]['result']>((resolve, reject) => {
        const task: Task = {
          ...request,
          lane: laneOf(params),
          settled: false,
          cancelled: false,
          resolve: (result) => resolve(result as LayerJobs[N]['result']),
          reject,
        }
        onAbort = () => cancel(task)
        signal?.addEventListener('abort', onAbort, { once: true })
        queue.push(task)
        dispatch()
      })
    } finally {
      if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort)
    }
  }

  async function dispose(): Promise<void> {
    if (!disposed) {
      disposed = true
      const stopping = new BuilderError('ISB_SHUTTING_DOWN', 'the daemon is stopping')
      for (const task of queue.splice(0)) settle(task, stopping)
      for (const thread of threads) Atomics.store(thread.cancelled, 0, 1)
    }
    await Promise.all([...threads].map(end))
  }

  return { size, run, [Symbol.asyncDispose]: dispose }
}

function laneOf(params: LayerJobs[JobName]['params']): number | undefined {
  if (!('inputs' in params)) return undefined
  for (const input of params.inputs) {
    if (input.kind === 'tree' && input.root.access === 'helper') return input.root.helperOf
  }
  return undefined
}

/** Lets the job notice its cancellation, then ends the thread. */
async function end(thread: Thread): Promise<void> {
  const deadline = Date.now() + PATIENCE
  while (thread.task !== undefined && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  const terminated = thread.worker.terminate()
  // A thread inside a system call that never returns cannot be ended, only left behind.
  const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE).unref())
  await Promise.race([Promise.all([terminated, thread.ended]), patience])
}

function cancelledError(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'cancelled')
}

function isOutOfMemory(failure: unknown): boolean {
  return failure instanceof Error && 'code' in failure && failure.code === 'ERR_WORKER_OUT_OF_MEMORY'
}
