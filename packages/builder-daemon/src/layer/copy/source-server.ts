import { closeSync, readSync, writeSync } from 'node:fs'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { type FileStat, fstat } from '../../system/file-stat.js'
import type { FileSystemKind } from '../../system/file-system-kind.js'
import { sendValue } from '../../system/packets.js'
import { POLLERR, POLLHUP, POLLOUT, pipe2, poll, setNonBlocking } from '../../system/processes.js'
import { lastOf, openCanonical, parentOf, reopen } from '../../system/rooted.js'
import { O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, openat } from '../../system/syscalls.js'
import { hasErrno, SystemError } from '../../system/system-error.js'
import type { SourceReader } from './source-reader.js'
import {
  array,
  busy,
  encodeEntry,
  encodeState,
  entriesPerAnswer,
  pathsPerOpen,
  record,
  text,
} from './source-wire.js'

export interface ServedSource {
  /** The socket; its other end is a layer worker's. */
  readonly socket: number
  readonly rootFd: number
  readonly reader: SourceReader
  readonly bareReader: SourceReader
  readonly kindOf: (fd: number) => FileSystemKind
}

/** Answers one request for a context, with the rights this process has. */
export function serveSource(source: ServedSource, request: unknown): void {
  const { op, ...rest } = record(request)
  try {
    if (op === 'stat') answerStat(source, text(rest['path']))
    else if (op === 'list') answerList(source, text(rest['path']), rest['bare'] === true)
    else if (op === 'scan') answerScan(source, rest)
    else if (op === 'open') answerOpen(source, array(rest['paths']).map(text))
    else if (op === 'stream') answerStream(source, text(rest['path']))
    else throw new Error(`unknown request ${String(op)}`)
  } catch (error) {
    sendValue(source.socket, { code: errorCode(error) })
  }
}

function answerStat(source: ServedSource, path: string): void {
  const entry = source.reader.stat(path)
  sendValue(source.socket, entry === undefined ? {} : { entry: encodeEntry(entry) })
}

function answerList(source: ServedSource, path: string, bare: boolean): void {
  const entries = (bare ? source.bareReader : source.reader).list(path)
  for (let at = 0; at === 0 || at < entries.length; at += entriesPerAnswer) {
    const part = entries.slice(at, at + entriesPerAnswer)
    sendValue(source.socket, {
      entries: part.map(encodeEntry),
      more: at + part.length < entries.length,
    })
  }
}

/** Milliseconds; whoever waits looks about as often whether he still wants it. */
const busyInterval = 100

/** Tells between whiles that it is at work; whoever gave up waiting has closed the other end. */
function answerScan(source: ServedSource, request: Readonly<Record<string, unknown>>): void {
  let told = performance.now()
  const tell = (): void => {
    const now = performance.now()
    if (now - told < busyInterval) return
    told = now
    sendValue(source.socket, busy)
  }
  const scanned = source.reader.scan(
    {
      pattern: text(request['pattern']),
      parents: request['parents'] === true,
      excludes: array(request['excludes']).map(text),
      ignore: array(request['ignore']).map((line) => textOfBytes(text(line))),
    },
    tell,
  )
  sendValue(source.socket, encodeState(scanned))
}

function answerOpen(source: ServedSource, paths: readonly string[]): void {
  const descriptors: number[] = []
  try {
    const results = paths.slice(0, pathsPerOpen).map((path) => {
      try {
        const opened = openFile(source, path)
        if (opened.kind === 'local') {
          descriptors.push(opened.fd)
          return { kind: 'descriptor' }
        }
        closeSync(opened.fd)
        return { kind: 'stream' }
      } catch (error) {
        return { code: errorCode(error) }
      }
    })
    sendValue(source.socket, { results }, descriptors)
  } finally {
    for (const fd of descriptors) closeSync(fd)
  }
}

interface OpenedFile {
  readonly fd: number
  readonly kind: FileSystemKind
  readonly stat: FileStat
}

class RefusedError extends Error {
  readonly code = 'REFUSED'
}

/** Looked at before it is opened: opening a device acts, opening a FIFO waits. */
function openFile(source: ServedSource, path: string): OpenedFile {
  const parent = openCanonical(source.rootFd, parentOf(path))
  try {
    const place = openat(parent, lastOf(path), O_PATH | O_NOFOLLOW)
    try {
      const stat = fstat(place)
      if (stat.type !== 'file') throw new SystemError(40, 'open', path)
      const kind = source.kindOf(place)
      if (kind === 'kernel') throw new RefusedError(path)
      return { fd: reopen(place, O_RDONLY | O_NONBLOCK), kind, stat }
    } finally {
      closeSync(place)
    }
  } finally {
    closeSync(parent)
  }
}

/** The bytes through a pipe, then what became of the file; the latter also when the reader stopped early. */
function answerStream(source: ServedSource, path: string): void {
  const file = openFile(source, path)
  let after: FileStat
  try {
    const pipe = pipe2(O_NONBLOCK)
    try {
      setNonBlocking(pipe.read, false)
      const opened = { size: file.stat.size, mtimeNs: String(file.stat.mtimeNs) }
      try {
        sendValue(source.socket, opened, [pipe.read])
      } finally {
        closeSync(pipe.read)
      }
      pump(file.fd, pipe.write, source.socket)
    } finally {
      closeSync(pipe.write)
    }
    after = fstat(file.fd)
  } finally {
    closeSync(file.fd)
  }
  sendValue(source.socket, { size: after.size, mtimeNs: String(after.mtimeNs) })
}

/** Ends early when nobody reads any more, or when the other end of `socket` is gone. */
function pump(from: number, to: number, socket: number): void {
  for (;;) {
    const count = readSync(from, chunk, 0, chunk.length, null)
    if (count === 0) return
    for (let at = 0; at < count; ) {
      const [room = 0, gone = 0] = poll(
        [
          { fd: to, events: POLLOUT },
          { fd: socket, events: 0 },
        ],
        -1,
      )
      if ((room & (POLLERR | POLLHUP)) !== 0 || (gone & (POLLERR | POLLHUP)) !== 0) return
      try {
        at += writeSync(to, chunk, at, count - at)
      } catch (error) {
        if (hasErrno(error, 'EPIPE')) return
        if (!hasErrno(error, 'EAGAIN')) throw error
      }
    }
  }
}

const chunk = Buffer.allocUnsafeSlow(256 * 1024)

function errorCode(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (typeof code === 'string') return code
  throw error
}
