import { closeSync, readSync, writeSync } from 'node:fs'
import { isMainThread, Worker, workerData } from 'node:worker_threads'
import {
  createDirectory,
  createFile,
  exchangeFile,
  openDirectory,
  openForReading,
  removeFile,
  replaceFile,
} from '../identity/helper-operations.js'
import {
  controlDescriptor,
  doorbellDescriptor,
  type HelperAnswer,
  type HelperRequest,
  type WireIdentity,
} from '../identity/helper-requests.js'
import { becomeUser, closeInherited, type UnixIdentity } from '../identity/privileges.js'
import { codeOf } from '../identity/refusal.js'
import { createDirectReader } from '../layer/copy/direct-reader.js'
import { type ServedSource, serveSource } from '../layer/copy/source-server.js'
import type { FileIdentity } from '../ports/caller.js'
import { fstat } from '../system/file-stat.js'
import { createFileSystemFinder } from '../system/file-system-kind.js'
import { sendValue, ValueReceiver } from '../system/packets.js'
import { POLLIN, pipe2, poll } from '../system/processes.js'
import { packetPair } from '../system/sockets.js'
import { O_DIRECTORY, O_RDONLY, openat } from '../system/syscalls.js'
import { hasErrno } from '../system/system-error.js'

/**
 * An identity helper: a process that is one user and opens files for the daemon. It answers on the
 * control socket (descriptor 3), rings by a byte on its standard output, and ends with the daemon.
 * Sockets of contexts are served in the same loop; a build context whose file system hangs keeps only
 * this user waiting.
 */

const requestLimit = 1 << 20

/** Where layer workers send their own socket of a context. */
interface Context {
  readonly socket: number
  readonly rootFd: number
}

interface Channel {
  readonly receiver: ValueReceiver
  readonly source: ServedSource
}

function serve(): void {
  const control = new ValueReceiver(controlDescriptor, requestLimit)
  const contexts: Context[] = []
  const channels: Channel[] = []

  function iterate(): void {
    const waiting = [
      control.fd,
      ...contexts.map(({ socket }) => socket),
      ...channels.map(({ source }) => source.socket),
    ]
    const ready = poll(
      waiting.map((fd) => ({ fd, events: POLLIN })),
      -1,
    )
    const isReady = (fd: number) => ready[waiting.indexOf(fd)] !== 0
    if (isReady(control.fd) && !answerControl()) {
      process.exit(0)
    }
    for (const context of [...contexts]) if (isReady(context.socket)) admit(context)
    for (const channel of [...channels]) if (isReady(channel.source.socket)) answerChannel(channel)
    // Streams run in threads of their own, whose end the event loop must see.
    setImmediate(iterate)
  }

  /** False when the daemon is gone. */
  function answerControl(): boolean {
    const received = control.receive(false)
    if (received === 'closed') return false
    if (received === 'none') return true
    const descriptors: number[] = []
    let answer: HelperAnswer
    try {
      answer = perform(received.value as HelperRequest, descriptors)
    } catch (error) {
      answer = { code: codeOf(error) }
    }
    sendValue(control.fd, answer, descriptors)
    for (const fd of descriptors) closeSync(fd)
    writeSync(doorbellDescriptor, '.')
    return true
  }

  function perform(request: HelperRequest, descriptors: number[]): HelperAnswer {
    switch (request.op) {
      case 'openRead': {
        const { fd, stat, mayHang } = openForReading(request.path)
        descriptors.push(mayHang ? stream(fd) : fd)
        if (!mayHang) return {}
        return { stream: { size: stat.size, dev: String(stat.dev), ino: String(stat.ino) } }
      }
      case 'create':
        descriptors.push(createFile(request.path, request.mode, identityOf(request.parent)).fd)
        return {}
      case 'replace':
        replaceFile(request.path, Buffer.from(request.base64, 'base64'), request.mode)
        return {}
      case 'exchange':
        exchangeFile(request.path, Buffer.from(request.base64, 'base64'), request.mode)
        return {}
      case 'remove':
        removeFile(request.path, identityOf(request))
        return {}
      case 'createDirectory':
        createDirectory(request.path, request.mode)
        return {}
      case 'openDirectory': {
        const rootFd = openDirectory(request.path)
        const [ours, theirs] = packetPair()
        contexts.push({ socket: ours, rootFd })
        descriptors.push(theirs)
        const { dev, ino } = fstat(rootFd)
        return { directory: { dev: String(dev), ino: String(ino) } }
      }
    }
  }

  /** Every layer worker brings a socket of its own, so that several can read one context at once. */
  function admit(context: Context): void {
    const received = new ValueReceiver(context.socket, requestLimit).receive(false)
    if (received === 'none') return
    if (received === 'closed') {
      contexts.splice(contexts.indexOf(context), 1)
      closeSync(context.socket)
      closeSync(context.rootFd)
      return
    }
    for (const socket of received.descriptors) {
      const rootFd = openat(context.rootFd, '.', O_RDONLY | O_DIRECTORY)
      channels.push({
        receiver: new ValueReceiver(socket, requestLimit),
        source: {
          ...{ socket, rootFd, kindOf: createFileSystemFinder() },
          reader: createDirectReader(rootFd),
          bareReader: createDirectReader(rootFd, { bare: true }),
        },
      })
    }
  }

  function answerChannel(channel: Channel): void {
    const { source, receiver } = channel
    try {
      const received = receiver.receive(false)
      if (received === 'none') return
      if (received !== 'closed') {
        serveSource(source, received.value)
        return
      }
    } catch (error) {
      // The worker went away in the middle of an answer.
      if (!hasErrno(error, 'EPIPE', 'ECONNRESET')) throw error
    }
    channels.splice(channels.indexOf(channel), 1)
    source.reader.close()
    source.bareReader.close()
    closeSync(source.rootFd)
    closeSync(source.socket)
  }

  iterate()
}

function identityOf(wire: WireIdentity): FileIdentity
function identityOf(wire: WireIdentity | undefined): FileIdentity | undefined
function identityOf(wire: WireIdentity | undefined): FileIdentity | undefined {
  return wire === undefined ? undefined : { dev: BigInt(wire.dev), ino: BigInt(wire.ino) }
}

/** The read end of a pipe that a thread fills with the file. */
function stream(from: number): number {
  const pipe = pipe2()
  const worker = new Worker(process.argv[1] ?? '', {
    workerData: { from, to: pipe.write },
    argv: [],
    trackUnmanagedFds: false,
  })
  worker.unref()
  return pipe.read
}

function pump({ from, to }: { readonly from: number; readonly to: number }): void {
  const buffer = Buffer.allocUnsafeSlow(1 << 18)
  try {
    for (;;) {
      const count = readSync(from, buffer, 0, buffer.length, null)
      if (count === 0) break
      for (let at = 0; at < count; ) at += writeSync(to, buffer, at, count - at)
    }
  } catch (error) {
    if (!hasErrno(error, 'EPIPE')) throw error
  } finally {
    closeSync(to)
    closeSync(from)
  }
}

if (isMainThread) {
  closeInherited([0, doorbellDescriptor, 2, controlDescriptor])
  process.chdir('/')
  becomeUser(JSON.parse(process.argv[2] ?? '') as UnixIdentity)
  process.umask(0o022)
  serve()
} else {
  pump(workerData as { from: number; to: number })
}
