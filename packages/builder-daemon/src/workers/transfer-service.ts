import type { Logger } from '../ports/logger.js'
import type { Credentials, RegistryAccess, RegistryCall, RegistryClient } from '../ports/registry.js'
import { createRegistryClient } from '../registry/client.js'
import { cancellation } from '../registry/http/cancellation.js'
import type { RegistryHttp } from '../registry/http/exchange.js'
import { decodeFailure, encodeFailure } from './layer-messages.js'
import type {
  CredentialAnswer,
  OperationName,
  TransferOperations,
  TransferReply,
  TransferRequest,
} from './transfer-messages.js'

export interface TransferService {
  receive(request: TransferRequest): void
}

/** Milliseconds between two reports of one transfer. */
const reportInterval = 50

type Post = (reply: TransferReply, transfer?: readonly ArrayBuffer[]) => void
type CallRequest = Extract<TransferRequest, { readonly kind: 'call' }>
type Report = ((bytes: number) => void) | undefined

type OperationTable = {
  readonly [N in OperationName]: (
    client: RegistryClient,
    params: TransferOperations[N]['params'],
    call: RegistryCall,
    onProgress: Report,
  ) => Promise<unknown>
}

const operations: OperationTable = {
  ping: (client, [endpoint], call) => client.ping(endpoint, call),
  manifest: async (client, [endpoint, reference], call) => {
    const manifest = await client.manifest(endpoint, reference, call)
    return { ...manifest, bytes: ownBytes(manifest.bytes) }
  },
  manifestHead: (client, [endpoint, reference], call) => client.manifestHead(endpoint, reference, call),
  readBlob: async (client, [endpoint, blob, limit], call) =>
    ownBytes(await client.readBlob(endpoint, blob, limit, call)),
  fetchBlob: (client, [endpoint, blob, path], call, onProgress) =>
    client.fetchBlob(endpoint, blob, { path, onProgress }, call),
  hasBlob: (client, [endpoint, digest], call) => client.hasBlob(endpoint, digest, call),
  mountBlob: (client, [endpoint, digest, from], call) => client.mountBlob(endpoint, digest, from, call),
  uploadBlob: (client, [endpoint, blob], call, onProgress) =>
    client.uploadBlob(endpoint, { ...blob, onProgress }, call),
  streamBlob: (client, [endpoint, stream], call, onProgress) =>
    client.streamBlob(endpoint, { ...stream, onProgress }, call),
  putManifest: (client, [endpoint, reference, manifest], call) =>
    client.putManifest(endpoint, reference, manifest, call),
  tags: (client, [endpoint], call) => client.tags(endpoint, call),
  referrers: (client, [endpoint, digest], call) => client.referrers(endpoint, digest, call),
}

/** Serves calls of the other thread; `onClosed` is called when the last one has ended after `close`. */
export function createTransferService(
  createHttp: (log: Logger) => RegistryHttp,
  post: Post,
  onClosed: () => void,
): TransferService {
  const http = createHttp(forwardingLogger(post))
  const client = createRegistryClient(http)
  const calls = new Map<number, AbortController>()
  const questions = new Map<number, (answer: CredentialAnswer) => void>()
  let lastQuestion = 0
  let closing = false

  function ask(
    id: number,
    host: string,
    repository: string,
    signal: AbortSignal,
  ): Promise<Credentials | undefined> {
    lastQuestion += 1
    const question = lastQuestion
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        questions.delete(question)
        reject(cancellation(signal))
      }
      if (signal.aborted) {
        onAbort()
        return
      }
      signal.addEventListener('abort', onAbort, { once: true })
      questions.set(question, (answer) => {
        signal.removeEventListener('abort', onAbort)
        questions.delete(question)
        if (answer.ok) resolve(answer.credentials)
        else reject(decodeFailure(answer.failure))
      })
      post({ kind: 'question', question, id, host, repository })
    })
  }

  async function run(request: CallRequest): Promise<void> {
    const { id } = request
    const abort = new AbortController()
    calls.set(id, abort)
    const { signal } = abort
    const access: RegistryAccess = {
      ...request.access,
      credentials: (host, repository) => ask(id, host, repository, signal),
    }
    const progress = request.progress ? reporter((bytes) => post({ kind: 'progress', id, bytes })) : undefined
    try {
      const onNotice = (line: string): void => post({ kind: 'notice', id, line })
      const result = await perform(client, request, { access, signal, onNotice }, progress?.report)
      progress?.last()
      post({ kind: 'done', id, result }, buffersOf(result))
    } catch (error) {
      progress?.last()
      post({ kind: 'failed', id, failure: encodeFailure(error) })
    } finally {
      calls.delete(id)
      if (closing && calls.size === 0) onClosed()
    }
  }

  return {
    receive(request) {
      switch (request.kind) {
        case 'call':
          void run(request)
          return
        case 'abort':
          calls.get(request.id)?.abort()
          return
        case 'credentials':
          questions.get(request.question)?.(request.answer)
          return
        case 'close':
          closing = true
          for (const call of calls.values()) call.abort()
          http.close()
          if (calls.size === 0) onClosed()
          return
      }
    },
  }
}

/** The params are what `transfer-client` made for this operation. */
function perform<N extends OperationName>(
  client: RegistryClient,
  request: CallRequest & { readonly operation: N },
  call: RegistryCall,
  onProgress: Report,
): Promise<unknown> {
  return operations[request.operation](
    client,
    request.params as unknown as TransferOperations[N]['params'],
    call,
    onProgress,
  )
}

/** At most one message per interval, and the last state always. */
function reporter(send: (bytes: number) => void): {
  readonly report: (bytes: number) => void
  readonly last: () => void
} {
  let latest: number | undefined
  let sentAt = Number.NEGATIVE_INFINITY
  let timer: NodeJS.Timeout | undefined
  const last = (): void => {
    clearTimeout(timer)
    timer = undefined
    if (latest === undefined) return
    sentAt = performance.now()
    send(latest)
    latest = undefined
  }
  return {
    report(bytes) {
      latest = bytes
      if (timer !== undefined) return
      const wait = sentAt + reportInterval - performance.now()
      if (wait <= 0) last()
      else timer = setTimeout(last, wait)
    },
    last,
  }
}

/** A copy with a buffer of its own: a message would take along all of a shared one. */
function ownBytes(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

function buffersOf(result: unknown): readonly ArrayBuffer[] {
  const bytes = typeof result === 'object' && result !== null && 'bytes' in result ? result.bytes : result
  return bytes instanceof Uint8Array && bytes.buffer instanceof ArrayBuffer ? [bytes.buffer] : []
}

function forwardingLogger(post: Post): Logger {
  const forward =
    (level: keyof Logger) =>
    (event: string, fields?: Record<string, unknown>): void =>
      post({ kind: 'log', level, event, fields: fields && plain(fields) })
  return { debug: forward('debug'), info: forward('info'), warn: forward('warn'), error: forward('error') }
}

/** Only what can cross threads. */
function plain(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([key, value]) => [
      key,
      value === undefined || ['string', 'number', 'boolean'].includes(typeof value) ? value : String(value),
    ]),
  )
}
