import { closeSync, readSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bytesOfText, textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { fstat } from '../../system/file-stat.js'
import { createFileSystemFinder } from '../../system/file-system-kind.js'
import { type ReceivedValue, sendValue, ValueReceiver } from '../../system/packets.js'
import { POLLIN, poll } from '../../system/processes.js'
import { reopen } from '../../system/rooted.js'
import { packetPair } from '../../system/sockets.js'
import { O_NONBLOCK, O_RDONLY } from '../../system/syscalls.js'
import { hasErrno } from '../../system/system-error.js'
import { type JobControl, uncontrolled } from '../job-control.js'
import { changed, openedFile } from './direct-reader.js'
import type { ReaderOptions, ScanRequest, SourceEntry, SourceFile, SourceReader } from './source-reader.js'
import {
  answerLimit,
  array,
  decodeEntry,
  decodeError,
  decodeState,
  integer,
  pathsPerOpen,
  questionLimit,
  record,
  type SourceRequest,
  wholeNumber,
} from './source-wire.js'

/** How long the caller's file system may keep a layer worker waiting, milliseconds. */
const patience = 60_000
/** How long a cancelled job may go on waiting, milliseconds. */
const wakeUp = 200

/**
 * Reads a context through the identity helper at the other end of `context`, over a socket of its own. The descriptors it hands
 * over are looked at again before they are read: a worker must never wait for a file system that a
 * user can stop.
 */
export function createHelperReader(
  context: number,
  control: JobControl = uncontrolled,
  options: ReaderOptions = {},
): SourceReader {
  const socket = openChannel(context)
  const receiver = new ValueReceiver(socket, answerLimit)
  const kindOf = createFileSystemFinder()
  let ahead = new Map<string, Opened>()

  /** Never sleeps in recvmsg: an answer may stop in its middle. */
  function receive(path: string): ReceivedValue {
    for (;;) {
      waitFor(socket, path, control)
      const received = receiveNow(path)
      if (received === 'closed') throw gone(path)
      if (received !== 'none') return received
    }
  }

  function receiveNow(path: string): ReceivedValue | 'none' | 'closed' {
    try {
      return receiver.receive(false)
    } catch (error) {
      throw hasErrno(error, 'ECONNRESET') ? gone(path, error) : error
    }
  }

  function ask(request: SourceRequest, path: string): ReceivedValue {
    try {
      sendValue(socket, request)
    } catch (error) {
      throw gone(path, error)
    }
    return receive(path)
  }

  function stat(path: string): SourceEntry | undefined {
    const { value } = plain(ask({ op: 'stat', path }, path))
    throwFailure(value, path)
    const { entry } = record(value)
    return entry === undefined ? undefined : decodeEntry(entry, path === '')
  }

  function list(path: string): SourceEntry[] {
    const entries: SourceEntry[] = []
    let { value } = plain(ask({ op: 'list', path, bare: options.bare === true }, path))
    for (;;) {
      throwFailure(value, path)
      for (const entry of array(record(value)['entries'])) entries.push(decodeEntry(entry, false))
      if (record(value)['more'] !== true) break
      value = plain(receive(path)).value
    }
    for (let at = 1; at < entries.length; at += 1) {
      if ((entries[at - 1]?.name ?? '') >= (entries[at]?.name ?? '')) throw new Error('unsorted directory')
    }
    return entries
  }

  function scan({ pattern, parents, excludes, ignore }: ScanRequest, check: () => void) {
    const question = { pattern, parents, excludes, ignore: ignore.map(bytesOfText) }
    if (JSON.stringify(question).length > questionLimit) return undefined
    let { value } = plain(ask({ op: 'scan', ...question }, ''))
    for (;;) {
      throwFailure(value, '')
      const state = decodeState(value)
      if (state !== 'busy') return state
      check()
      value = plain(receive('')).value
    }
  }

  function openMany(paths: readonly string[]): void {
    const { value, descriptors } = ask({ op: 'open', paths }, paths[0] ?? '')
    const unclaimed = [...descriptors]
    try {
      const results = array(record(value)['results'])
      for (const [index, path] of paths.entries()) {
        const result = record(results[index])
        const code = decodeError(result)?.code
        if (code !== undefined) ahead.set(path, { kind: 'failed', code })
        else if (result['kind'] === 'stream') ahead.set(path, { kind: 'stream' })
        else {
          const fd = unclaimed.shift()
          if (fd === undefined) throw new Error('the identity helper sent too few descriptors')
          ahead.set(path, { kind: 'descriptor', fd })
        }
      }
    } finally {
      for (const fd of unclaimed) closeSync(fd)
    }
  }

  function prefetch(paths: readonly string[]): void {
    forget()
    let batch: string[] = []
    let bytes = 0
    for (const path of paths) {
      if (batch.length === pathsPerOpen || (batch.length > 0 && bytes + path.length > questionLimit)) {
        openMany(batch)
        batch = []
        bytes = 0
      }
      batch.push(path)
      bytes += path.length
    }
    if (batch.length > 0) openMany(batch)
  }

  function open(path: string): SourceFile {
    if (!ahead.has(path)) openMany([path])
    const opened = ahead.get(path)
    ahead.delete(path)
    if (opened === undefined) throw new Error(`nothing was opened for ${path}`)
    if (opened.kind === 'failed') throw failure(opened.code, path)
    if (opened.kind === 'stream') return openStream(path)
    const kind = kindOf(opened.fd)
    if (kind === 'local') return openedFile(opened.fd, path)
    closeSync(opened.fd)
    throw failure(kind === 'kernel' ? 'REFUSED' : 'EIO', path)
  }

  function openStream(path: string): SourceFile {
    const { value, descriptors } = ask({ op: 'stream', path }, path)
    const [fd, ...more] = descriptors
    for (const extra of more) closeSync(extra)
    throwFailure(value, path)
    if (fd === undefined) throw new Error('the identity helper sent no pipe')
    if (fstat(fd).type !== 'fifo') {
      closeSync(fd)
      throw new Error('the identity helper sent no pipe')
    }
    const stream = ownEnd(fd)
    let after: { readonly size: number; readonly mtimeNs: bigint } | undefined
    let isOpen = true
    const file: SourceFile = {
      ...decodeFileState(value),
      confirms: () => false,
      read(buffer) {
        for (;;) {
          waitFor(stream, path, control)
          try {
            return readSync(stream, buffer, 0, buffer.length, null)
          } catch (error) {
            if (!hasErrno(error, 'EAGAIN')) throw error
          }
        }
      },
      finish() {
        if (isOpen) closeSync(stream)
        isOpen = false
        if (after === undefined) {
          const trailer = plain(receive(path)).value
          throwFailure(trailer, path)
          after = decodeFileState(trailer)
        }
        return after
      },
      close() {
        if (after === undefined) file.finish()
      },
    }
    return file
  }

  function forget(): void {
    for (const opened of ahead.values()) if (opened.kind === 'descriptor') closeSync(opened.fd)
    ahead = new Map()
  }

  function close(): void {
    forget()
    closeSync(socket)
  }

  return { stat, list, scan, prefetch, open, close }
}

/** Several workers may read one context at a time: each sends the helper the other end of its own socket. */
function openChannel(context: number): number {
  const [ours, theirs] = packetPair()
  try {
    sendValue(context, {}, [theirs])
    return ours
  } catch (error) {
    closeSync(ours)
    throw gone('', error)
  } finally {
    closeSync(theirs)
  }
}

/** The same pipe opened anew: whether a read of it sleeps is then for nobody else to say. */
function ownEnd(fd: number): number {
  try {
    return reopen(fd, O_RDONLY | O_NONBLOCK)
  } finally {
    closeSync(fd)
  }
}

type Opened =
  | { readonly kind: 'descriptor'; readonly fd: number }
  | { readonly kind: 'stream' }
  | { readonly kind: 'failed'; readonly code: string }

function plain(received: ReceivedValue): ReceivedValue {
  for (const fd of received.descriptors) closeSync(fd)
  return received
}

function decodeFileState(value: unknown): { readonly size: number; readonly mtimeNs: bigint } {
  const state = record(value)
  return {
    size: integer(state['size'], Number.MAX_SAFE_INTEGER),
    mtimeNs: wholeNumber(state['mtimeNs']),
  }
}

function waitFor(fd: number, path: string, control: JobControl): void {
  for (let waited = 0; waited < patience; waited += wakeUp) {
    control.check()
    const [ready = 0] = poll([{ fd, events: POLLIN }], wakeUp)
    if (ready !== 0) return
  }
  throw new BuilderError(
    'ISB_CONTEXT_INVALID',
    `the file system of the build context does not answer (at /${textOfBytes(path)})`,
  )
}

function throwFailure(value: unknown, path: string): void {
  const error = decodeError(value)
  if (error !== undefined) throw failure(error.code, path)
}

function failure(code: string, path: string): BuilderError {
  const shown = `/${textOfBytes(path)}`
  switch (code) {
    case 'EACCES':
    case 'EPERM':
      return new BuilderError('ISB_PERMISSION_DENIED', `you may not read ${shown} of the build context`)
    case 'REFUSED':
      return new BuilderError('ISB_PERMISSION_DENIED', `${shown} is on a file system of the kernel`)
    case 'ENOENT':
    case 'ENOTDIR':
    case 'ELOOP':
      return changed(path)
    default:
      return new BuilderError('ISB_CONTEXT_INVALID', `cannot read ${shown} of the build context: ${code}`)
  }
}

function gone(path: string, cause?: unknown): BuilderError {
  return new BuilderError(
    'ISB_CONTEXT_INVALID',
    `the process that reads the build context is gone (at /${textOfBytes(path)})`,
    { cause },
  )
}
