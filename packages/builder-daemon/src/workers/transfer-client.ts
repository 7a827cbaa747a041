import { Worker } from 'node:worker_threads'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Logger } from '../ports/logger.js'
import type { Endpoint, RegistryCall, RegistryClient } from '../ports/registry.js'
import { decodeFailure, encodeFailure } from './layer-messages.js'
import type {
  OperationName,
  TransferOperations,
  TransferReply,
  TransferRequest,
  TransferThreadData,
} from './transfer-messages.js'

export interface TransferClientOptions {
  /** The built `transfer-worker`. */
  readonly entry: URL
  readonly http: TransferThreadData['http']
  readonly log: Logger
}

interface PendingCall {
  readonly operation: OperationName
  readonly endpoint: Endpoint
  readonly call: RegistryCall
  readonly onProgress: ((bytes: number) => void) | undefined
  settle(error: Error | undefined, result?: unknown): void
}

interface Thread {
  readonly worker: Worker
  readonly calls: Map<number, PendingCall>
  readonly ready: Promise<void>
  readonly ended: Promise<void>
  leaving: boolean
}

/** How long disposal waits for what is under way, milliseconds. */
const PATIENCE = 5000

/**
 * The registry client of the daemon: everything runs in one thread, which starts at the first call. Credentials are asked
 * for in this one. An aborted call rejects with ISB_CANCELLED when the thread has let go of its sockets and files. When
 * the thread dies its calls fail, and the next call starts another one. Disposal cancels everything.
 */
export function createTransferClient(options: TransferClientOptions): RegistryClient & AsyncDisposable {
  const { log } = options
  let current: Thread | undefined
  let disposed = false
  let lastId = 0

  function start(): Thread {
    const data: TransferThreadData = { http: options.http }
    const worker = new Worker(options.entry, {
      ...{ workerData: data, name: 'transfer', env: {} },
      // What comes off the sockets dies young, outside the heap; a small nursery keeps its wrappers from piling up.
      resourceLimits: { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 12 },
    })
    worker.unref()
    let failure: unknown
    let resolveReady: () => void = () => undefined
    const ready = new Promise<void>((resolve) => {
      resolveReady = resolve
    })
    const calls = new Map<number, PendingCall>()
    const ended = new Promise<void>((resolve) => {
      worker.on('exit', (code) => {
        resolveReady()
        buried(thread, code, failure)
        resolve()
      })
    })
    const thread: Thread = { worker, calls, ready, ended, leaving: false }
    worker.on('message', (reply: TransferReply) => {
      if (reply.kind === 'ready') resolveReady()
      else receive(thread, reply)
    })
    worker.on('error', (error) => {
      failure = error
    })
    return thread
  }

  function buried(thread: Thread, code: number, failure: unknown): void {
    if (current === thread) current = undefined
    const calls = [...thread.calls.values()]
    thread.calls.clear()
    if (!thread.leaving) {
      log.error('transfer.thread.died', { code, calls: calls.length, error: String(failure ?? '') })
    }
    for (const { call, operation, settle } of calls) {
      const died = new Error(`the transfer thread died during "${operation}"`, { cause: failure })
      settle(thread.leaving || call.signal.aborted ? cancelled() : died)
    }
  }

  function receive(thread: Thread, reply: Exclude<TransferReply, { readonly kind: 'ready' }>): void {
    switch (reply.kind) {
      case 'log':
        log[reply.level](reply.event, reply.fields)
        return
      case 'question':
        void answer(thread, reply)
        return
      case 'progress':
        thread.calls.get(reply.id)?.onProgress?.(reply.bytes)
        return
      case 'notice':
        thread.calls.get(reply.id)?.call.onNotice?.(reply.line)
        return
      case 'done':
      case 'failed': {
        const pending = thread.calls.get(reply.id)
        if (pending === undefined) return
        thread.calls.delete(reply.id)
        if (thread.calls.size === 0) thread.worker.unref()
        if (pending.call.signal.aborted) pending.settle(cancelled())
        else if (reply.kind === 'done') pending.settle(undefined, reply.result)
        else pending.settle(decodeFailure(reply.failure))
      }
    }
  }

  async function answer(
    thread: Thread,
    { id, question, host, repository }: Extract<TransferReply, { readonly kind: 'question' }>,
  ): Promise<void> {
    const pending = thread.calls.get(id)
    if (pending === undefined) return
    let request: TransferRequest
    try {
      const { endpoint, call } = pending
      const named = endpoint.mirror || endpoint.host !== host ? undefined : (endpoint.named ?? host)
      const credentials = await call.access.credentials(host, repository, named)
      request = {
        ...{ kind: 'credentials', question },
        answer: {
          ok: true,
          credentials: credentials && { username: credentials.username, password: credentials.password },
        },
      }
    } catch (error) {
      request = { kind: 'credentials', question, answer: { ok: false, failure: encodeFailure(error) } }
    }
    thread.worker.postMessage(request)
  }

  function run<N extends OperationName>(
    operation: N,
    params: TransferOperations[N]['params'],
    call: RegistryCall,
    onProgress?: ((bytes: number) => void) | undefined,
  ): Promise<TransferOperations[N]['result']> {
    if (call.signal.aborted) return Promise.reject(cancelled())
    if (disposed) return Promise.reject(new BuilderError('ISB_SHUTTING_DOWN', 'the daemon is stopping'))
    current ??= start()
    const { worker, calls } = current
    lastId += 1
    const id = lastId
    const { uid, tlsVerify, retries, insists, retryDelay } = call.access
    const post = (request: TransferRequest): void => worker.postMessage(request)
    return new Promise((resolve, reject) => {
      const onAbort = (): void => post({ kind: 'abort', id })
      calls.set(id, {
        ...{ operation, endpoint: params[0], call, onProgress },
        settle(error, result) {
          call.signal.removeEventListener('abort', onAbort)
          if (error === undefined) resolve(result as TransferOperations[N]['result'])
          else reject(error)
        },
      })
      worker.ref()
      try {
        post({
          ...{ kind: 'call', id, operation, params, progress: onProgress !== undefined },
          access: { uid, tlsVerify, retries, insists, retryDelay },
        })
        call.signal.addEventListener('abort', onAbort, { once: true })
      } catch (cause) {
        calls.delete(id)
        if (calls.size === 0) worker.unref()
        reject(new Error(`the parameters of "${operation}" cannot go to a thread`, { cause }))
      }
    })
  }

  async function dispose(): Promise<void> {
    disposed = true
    const thread = current
    if (thread === undefined) return
    thread.leaving = true
    const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE).unref())
    thread.worker.postMessage({ kind: 'close' } satisfies TransferRequest)
    // A thread that is ended while it starts can take the process with it.
    await thread.ready
    await Promise.race([thread.ended, patience])
    await thread.worker.terminate()
  }

  return {
    ping: (endpoint, call) => run('ping', [endpoint], call),
    manifest: (endpoint, reference, call) => run('manifest', [endpoint, reference], call),
    manifestHead: (endpoint, reference, call) => run('manifestHead', [endpoint, reference], call),
    readBlob: (endpoint, blob, limit, call) => run('readBlob', [endpoint, blob, limit], call),
    fetchBlob: (endpoint, blob, { path, onProgress }, call) =>
      run('fetchBlob', [endpoint, blob, path], call, onProgress),
    hasBlob: (endpoint, digest, call) => run('hasBlob', [endpoint, digest], call),
    mountBlob: (endpoint, digest, from, call) => run('mountBlob', [endpoint, digest, from], call),
    uploadBlob: (endpoint, { digest, size, path, onProgress }, call) =>
      run('uploadBlob', [endpoint, { digest, size, path }], call, onProgress),
    streamBlob: (endpoint, { memory, path, onProgress }, call) =>
      run('streamBlob', [endpoint, { memory, path }], call, onProgress),
    putManifest: (endpoint, reference, { mediaType, bytes }, call) =>
      run('putManifest', [endpoint, reference, { mediaType, bytes: new Uint8Array(bytes) }], call),
    tags: (endpoint, call) => run('tags', [endpoint], call),
    referrers: (endpoint, digest, call) => run('referrers', [endpoint, digest], call),
    [Symbol.asyncDispose]: dispose,
  }
}

function cancelled(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'cancelled')
}
