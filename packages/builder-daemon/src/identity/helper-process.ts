import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { Logger } from '../ports/logger.js'
import { type ReceivedValue, sendValue, ValueReceiver } from '../system/packets.js'
import { packetPair } from '../system/sockets.js'
import { controlDescriptor, decodeAnswer, type HelperAnswer, type HelperRequest } from './helper-requests.js'
import type { UnixIdentity } from './privileges.js'

/** How long a user's file system may take to answer, milliseconds. */
const patience = 60_000
/** How long a cancelled request may go on before its helper is killed, milliseconds. */
const grace = 2_000
const answerLimit = 1 << 20

export interface HelperReply {
  readonly answer: HelperAnswer
  /** The receiver's to close. */
  readonly descriptors: readonly number[]
}

interface Pending {
  readonly request: HelperRequest
  readonly resolve: (reply: HelperReply) => void
  readonly reject: (error: unknown) => void
  /** Nobody waits any more; what comes is thrown away. */
  abandoned: boolean
}

/**
 * One helper process and the requests to it, answered one after the other. The main thread never
 * waits: a byte on the helper's standard output says that an answer lies on the socket.
 */
export class HelperProcess {
  readonly #child: ChildProcess
  readonly #socket: number
  readonly #receiver: ValueReceiver
  readonly #queue: Pending[] = []
  #current: Pending | undefined
  #timer: NodeJS.Timeout | undefined
  #failure: Error | undefined
  readonly ended: Promise<void>

  constructor(entry: string, identity: UnixIdentity, log: Logger) {
    const [ours, theirs] = packetPair()
    this.#socket = ours
    this.#receiver = new ValueReceiver(ours, answerLimit)
    const stdio: ('ignore' | 'pipe' | number)[] = ['ignore', 'pipe', 'pipe']
    stdio[controlDescriptor] = theirs
    try {
      // The very program that runs here, with nothing of the daemon's environment.
      this.#child = spawn('/proc/self/exe', [entry, JSON.stringify(identity)], {
        argv0: 'isula-builder-identity',
        cwd: '/',
        env: {},
        stdio,
      })
    } finally {
      closeSync(theirs)
    }
    let complaint = ''
    this.#child.stderr?.on('data', (text: Buffer) => {
      if (complaint.length < 4096) complaint += text.toString('utf8')
    })
    this.#child.stdout?.on('data', () => this.#collect())
    this.ended = new Promise((resolve) => {
      let isOver = false
      const end = (reason: string) => {
        if (isOver) return
        isOver = true
        if (complaint !== '') log.warn('identity.helper.complaint', { uid: identity.uid, complaint })
        this.#fail(new Error(reason))
        closeSync(this.#socket)
        resolve()
      }
      this.#child.once('error', (error) => end(error.message))
      this.#child.once('close', (code, signal) => end(`the identity helper ended (${signal ?? code})`))
    })
  }

  get isIdle(): boolean {
    return this.#current === undefined && this.#queue.length === 0
  }

  get hasFailed(): boolean {
    return this.#failure !== undefined
  }

  /** Fails with ISB_CANCELLED at once when `signal` aborts. */
  request(request: HelperRequest, signal?: AbortSignal): Promise<HelperReply> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure)
        return
      }
      if (signal?.aborted) {
        reject(cancelled())
        return
      }
      const pending: Pending = {
        request,
        abandoned: false,
        resolve: (reply) => {
          signal?.removeEventListener('abort', abort)
          resolve(reply)
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abort)
          reject(error)
        },
      }
      const abort = () => {
        pending.abandoned = true
        reject(cancelled())
        if (pending === this.#current) this.#limit(grace)
      }
      signal?.addEventListener('abort', abort, { once: true })
      this.#queue.push(pending)
      this.#next()
    })
  }

  /** Its sockets are closed with it, also those of contexts. */
  kill(): void {
    this.#child.kill('SIGKILL')
  }

  #next(): void {
    if (this.#current !== undefined) return
    const pending = this.#queue.shift()
    if (pending === undefined) return
    if (pending.abandoned) {
      this.#next()
      return
    }
    this.#current = pending
    this.#limit(patience)
    try {
      // One request at a time lies on the socket, so it always has room.
      sendValue(this.#socket, pending.request)
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)))
    }
  }

  #collect(): void {
    for (;;) {
      let received: ReceivedValue | 'none' | 'closed'
      let reply: HelperReply
      try {
        if (this.#failure !== undefined) return
        received = this.#receiver.receive(false)
        if (received === 'none' || received === 'closed') return
        reply = { answer: decodeAnswer(received.value), descriptors: received.descriptors }
      } catch (error) {
        this.#fail(error instanceof Error ? error : new Error(String(error)))
        this.kill()
        return
      }
      const pending = this.#current
      this.#current = undefined
      clearTimeout(this.#timer)
      if (pending === undefined || pending.abandoned) for (const fd of reply.descriptors) closeSync(fd)
      else pending.resolve(reply)
      this.#next()
    }
  }

  #limit(milliseconds: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      const path = textOfBytes(this.#current?.request.path ?? '')
      this.#fail(
        new BuilderError('ISB_PATH_NOT_FOUND', `${path}: its file system does not answer`, {
          hint: 'Check the network or FUSE mount it is on.',
        }),
      )
      this.kill()
    }, milliseconds)
  }

  #fail(error: Error): void {
    this.#failure ??= error
    clearTimeout(this.#timer)
    const waiting = this.#current === undefined ? this.#queue : [this.#current, ...this.#queue]
    this.#current = undefined
    for (const pending of waiting.splice(0)) pending.reject(this.#failure)
    this.#queue.length = 0
  }
}

function cancelled(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'cancelled')
}
