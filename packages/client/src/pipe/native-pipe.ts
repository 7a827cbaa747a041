import { getSystemErrorName } from 'node:util'
import type { BytePipe, PipeEvents } from './byte-pipe.js'

/**
 * What `node:net` itself is made of, without the streams around it. Loading those and running them for the first time
 * takes as long as half of an empty Node.js, which is much for a client that says one thing and ends.
 *
 * `process.binding` is deprecated in the documentation (DEP0111), and works in silence unless told otherwise. Nothing
 * rests on it: where these objects are not what is described here, `node:net` is used.
 */
export interface NativeHandles {
  readonly Pipe: new (type: number) => PipeHandle
  readonly PipeConnectWrap: new () => Request
  readonly WriteWrap: new () => Request
  readonly socketType: number
  /** Numbers that a call leaves behind; at these places of it. */
  readonly state: Readonly<Record<number, number>>
  readonly bytesRead: number
  readonly isAsync: number
}

interface Request {
  oncomplete?: (status: number) => void
  /** Keeps what is written alive. */
  buffers?: readonly Uint8Array[]
}

interface PipeHandle {
  onread: (bytes: ArrayBuffer | undefined) => void
  connect(request: Request, path: string): number | undefined
  open(descriptor: number): number | undefined
  readStart(): number
  writeBuffer(request: Request, bytes: Uint8Array): number
  writev(request: Request, parts: readonly Uint8Array[], allBuffers: true): number
  close(): void
}

/** The only end of a stream that is none of the system's errors. */
const endOfFile = -4095
/** Bytes up to which parts are copied together. */
const joined = 1 << 14

/** Undefined where they are not to be had. */
export function nativeHandles(): NativeHandles | undefined {
  // Would be told to the user.
  if (process.env['NODE_PENDING_DEPRECATION'] === '1') return undefined
  if (process.execArgv.includes('--pending-deprecation')) return undefined
  try {
    const binding: unknown = Reflect.get(process, 'binding')
    if (typeof binding !== 'function') return undefined
    return handlesOf(binding.call(process, 'pipe_wrap'), binding.call(process, 'stream_wrap'))
  } catch {
    // Forbidden, as with --experimental-permission, or gone.
    return undefined
  }
}

type Members = Readonly<Record<string, unknown>>

function handlesOf(pipes: Members, streams: Members): NativeHandles | undefined {
  const { Pipe, PipeConnectWrap, constants } = pipes
  const { WriteWrap, streamBaseState: state, kReadBytesOrError, kLastWriteWasAsync } = streams
  const isKnown =
    [Pipe, PipeConnectWrap, WriteWrap].every((one) => typeof one === 'function') &&
    [kReadBytesOrError, kLastWriteWasAsync, state].every((one) => one !== undefined) &&
    typeof constants === 'object'
  if (!isKnown) return undefined
  return {
    Pipe,
    PipeConnectWrap,
    WriteWrap,
    socketType: (constants as { SOCKET: number }).SOCKET,
    state,
    bytesRead: kReadBytesOrError,
    isAsync: kLastWriteWasAsync,
    // What they are was looked at above as far as JavaScript can.
  } as NativeHandles
}

/** Connects to the socket at `path`, or writes to what is open as `descriptor` and hears nothing from there. */
export function pipeOverHandle(
  { Pipe, PipeConnectWrap, WriteWrap, socketType, state, bytesRead, isAsync }: NativeHandles,
  end: { readonly path: string } | { readonly descriptor: number },
  events: PipeEvents,
): BytePipe {
  const handle = new Pipe(socketType)
  let waiting = 0
  let isClosed = false
  let isEnding = false
  /** Written before the connection stands. */
  let early: Uint8Array[] | undefined = 'path' in end ? [] : undefined

  const close = (): void => {
    if (!isClosed) handle.close()
    isClosed = true
  }
  const fail = (call: string, status: number): void => {
    if (isClosed) return
    close()
    if (!isEnding) events.closed(status === endOfFile ? undefined : systemError(call, status))
  }
  // Callers hear of what fails at once as they do of everything else: later.
  const failLater = (call: string, status: number): void => process.nextTick(fail, call, status)

  handle.onread = (bytes) => {
    const count = state[bytesRead] ?? endOfFile
    if (count > 0 && bytes !== undefined) {
      if (!isEnding) events.data(Buffer.from(bytes, 0, count))
    } else if (count < 0) fail('read', count)
  }
  if ('path' in end) {
    const connecting = new PipeConnectWrap()
    connecting.oncomplete = connected
    const begun = handle.connect(connecting, end.path) ?? 0
    if (begun < 0) failLater('connect', begun)
  } else {
    const opened = handle.open(end.descriptor) ?? 0
    if (opened < 0) failLater('open', opened)
  }

  function connected(status: number): void {
    if (isClosed) return
    const started = status < 0 ? status : handle.readStart()
    if (started < 0) {
      fail('connect', started)
      return
    }
    const parts = early ?? []
    early = undefined
    waiting = 0
    send(parts)
    if (waiting === 0) settled()
  }

  function send(parts: readonly Uint8Array[]): void {
    const length = lengthOf(parts)
    const buffers = parts.length > 1 && length <= joined ? [Buffer.concat(parts)] : parts
    const [only] = buffers
    if (only === undefined) return
    const request = new WriteWrap()
    request.oncomplete = (status) => written(length, status)
    request.buffers = buffers
    const status =
      buffers.length === 1 ? handle.writeBuffer(request, only) : handle.writev(request, buffers, true)
    if (status < 0) failLater('write', status)
    else if (state[isAsync]) waiting += length
  }

  function written(bytes: number, status: number): void {
    waiting -= bytes
    if (isClosed) return
    if (status < 0) fail('write', status)
    else if (waiting === 0) settled()
  }

  function settled(): void {
    if (isEnding) close()
    else events.drained()
  }

  return {
    get waiting() {
      return waiting
    },
    write(parts) {
      if (isClosed || isEnding) return
      if (early === undefined) return send(parts)
      early.push(...parts)
      waiting += lengthOf(parts)
    },
    end() {
      isEnding = true
      if (waiting === 0) close()
    },
    destroy: close,
  }
}

function lengthOf(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, { length }) => sum + length, 0)
}

function systemError(call: string, status: number): NodeJS.ErrnoException {
  const code = getSystemErrorName(status)
  return Object.assign(new Error(`${call} ${code}`), { code, syscall: call, errno: status })
}
