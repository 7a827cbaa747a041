import { once } from 'node:events'
import type {
  Metadata,
  ServerDuplexStream,
  ServerUnaryCall,
  ServerWritableStream,
  sendUnaryData,
  UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Decoded, Encodable } from '@isula-build/shared/rpc/codec.js'
import type { AnyMethod, Method, Service } from '@isula-build/shared/rpc/service.js'
import type { AuditFacts } from '../ports/audit.js'
import type { Caller } from '../ports/caller.js'
import type { Logger } from '../ports/logger.js'
import type { CallAudit, CallRecord } from './call-audit.js'
import type { CallGate } from './call-gate.js'
import type { Peer } from './peers.js'
import { statusOf } from './status.js'

export interface CallContext {
  readonly caller: Caller
  /** Aborts with a BuilderError: the client cancelled or went away, or the daemon stops. */
  readonly signal: AbortSignal
  /** For the audit log: what the request alone does not say. */
  readonly note: (facts: AuditFacts) => void
}

type Awaitable<T> = T | Promise<T>

/** A method as the services write it: plain values in, plain values or an iterable out. */
export type Handler<M> =
  M extends Method<infer Req, infer Res, infer RS, infer PS>
    ? (
        request: RS extends true ? AsyncIterable<Decoded<Req>> : Decoded<Req>,
        context: CallContext,
      ) => PS extends true ? AsyncIterable<Encodable<Res>> : Awaitable<Encodable<Res>>
    : never

export type Handlers<S extends Service> = { readonly [K in keyof S]: Handler<S[K]> }

/** A service with its handlers, its types erased for the server. */
export interface BoundService {
  readonly service: Service
  readonly handlers: Readonly<Record<string, (request: never, context: CallContext) => unknown>>
}

export function bindService<S extends Service>(service: S, handlers: Handlers<S>): BoundService {
  // Each handler takes exactly its method's request: that is what Handlers<S> says.
  return { service, handlers: handlers as unknown as BoundService['handlers'] }
}

export interface AdapterOptions {
  readonly gate: CallGate
  /** Of the connection a call came in on; undefined denies it. */
  readonly peerOf: (peer: string) => Peer | undefined
  /** The caller as he may call now. Fails with ISB_PERMISSION_DENIED. */
  readonly admit: (caller: Caller) => Promise<Caller>
  readonly audit: CallAudit
  readonly log: Logger
}

type Unary = ServerUnaryCall<unknown, unknown>
type ServerStream = ServerWritableStream<unknown, unknown>
type Duplex = ServerDuplexStream<unknown, unknown>
type Run = (request: unknown, context: CallContext) => unknown

/** The implementation object of @grpc/grpc-js. Nothing a handler does escapes as an exception. */
export function implementation(bound: BoundService, options: AdapterOptions): UntypedServiceImplementation {
  const result: UntypedServiceImplementation = {}
  for (const [name, method] of Object.entries(bound.service)) {
    const run = bound.handlers[name] as Run | undefined
    if (run === undefined) throw new Error(`${method.path} has no handler`)
    result[name] = adapt(method, run, options)
  }
  return result
}

function adapt(method: AnyMethod, run: Run, options: AdapterOptions) {
  if (!method.responseStream) {
    return (call: Unary, callback: sendUnaryData<unknown>): void => {
      admit(call, method, options, (context) => Promise.resolve(run(call.request, context))).then(
        (value) => callback(null, value),
        (error: unknown) => callback(statusOf(error, method.path, options.log)),
      )
    }
  }
  return (call: ServerStream | Duplex): void => {
    admit(call, method, options, async (context, record) => {
      const request = 'request' in call ? call.request : requestsOf(call, context.signal, record)
      await pump(run(request, context), call, context.signal)
    }).then(
      () => call.end(),
      (error: unknown) => call.emit('error', statusOf(error, method.path, options.log)),
    )
  }
}

/** What all kinds of calls have in common. */
interface AnyCall {
  readonly cancelled: boolean
  readonly metadata: Metadata
  getPeer(): string
  on(event: 'cancelled', listener: () => void): unknown
  off(event: 'cancelled', listener: () => void): unknown
}

async function admit<T>(
  call: AnyCall,
  method: AnyMethod,
  options: AdapterOptions,
  body: (context: CallContext, record: CallRecord) => Promise<T>,
): Promise<T> {
  const peer = options.peerOf(call.getPeer())
  if (peer === undefined) {
    throw new BuilderError('ISB_PERMISSION_DENIED', 'the connection has no peer credentials')
  }
  const { uid, pid } = peer.caller
  const startedAt = performance.now()
  const record = options.audit.begin(call.metadata, method.path, peer)
  if ('request' in call) record.requested(call.request)
  try {
    const value = await enter(call, method, options, peer.caller, (context) =>
      body({ ...context, note: record.note }, record),
    )
    record.end()
    return value
  } catch (reason) {
    record.end({ reason })
    throw reason
  } finally {
    const ms = Math.round(performance.now() - startedAt)
    options.log.debug('rpc.call', { method: method.path, uid, pid, ms })
  }
}

async function enter<T>(
  call: AnyCall,
  method: AnyMethod,
  options: AdapterOptions,
  connected: Caller,
  body: (context: Omit<CallContext, 'note'>) => Promise<T>,
): Promise<T> {
  const admission = options.gate.enter(connected.uid, method.requestStream)
  const cancelled = (): void => admission.abort(new BuilderError('ISB_CANCELLED', 'the client went away'))
  call.on('cancelled', cancelled)
  if (call.cancelled) cancelled()
  try {
    const caller = await options.admit(connected)
    return await body({ caller, signal: admission.signal })
  } finally {
    call.off('cancelled', cancelled)
    admission.leave()
  }
}

async function pump(values: unknown, call: ServerStream | Duplex, signal: AbortSignal): Promise<void> {
  if (!isAsyncIterable(values)) throw new Error('a streaming handler returns an iterable')
  for await (const value of values) {
    signal.throwIfAborted()
    if (!call.write(value)) await drained(call, signal)
  }
}

async function drained(call: ServerStream | Duplex, signal: AbortSignal): Promise<void> {
  try {
    await once(call, 'drain', { signal })
  } catch (error) {
    signal.throwIfAborted()
    throw error
  }
}

function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value
}

/**
 * The messages of a client. Unlike the stream's own iterator, leaving the loop early does not end the
 * call, which still has a response to give.
 */
async function* requestsOf(
  call: Duplex,
  signal: AbortSignal,
  record: CallRecord,
): AsyncGenerator<unknown, void, undefined> {
  readOneAhead(call)
  let ended = false
  let failure: unknown
  let wake: (() => void) | undefined
  const signalled = (): void => wake?.()
  const onEnd = (): void => {
    ended = true
    wake?.()
  }
  const onError = (error: unknown): void => {
    failure = error
    wake?.()
  }
  call.on('readable', signalled)
  call.on('end', onEnd)
  call.on('error', onError)
  signal.addEventListener('abort', signalled)
  try {
    for (;;) {
      signal.throwIfAborted()
      if (failure !== undefined) throw failure
      const message: unknown = call.read()
      if (message !== null) {
        record.requested(message)
        yield message
      } else if (ended) return
      else {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
  } finally {
    call.off('readable', signalled)
    call.off('end', onEnd)
    call.off('error', onError)
    signal.removeEventListener('abort', signalled)
    // What nobody reads any more is dropped, so that the client can finish sending.
    call.resume()
  }
}

/** Streams of objects read 16 ahead, and an object here may be megabytes. There is no public setting. */
function readOneAhead(call: Duplex): void {
  const state: unknown = Reflect.get(call, '_readableState')
  if (typeof state === 'object' && state !== null) Reflect.set(state, 'highWaterMark', 1)
}
