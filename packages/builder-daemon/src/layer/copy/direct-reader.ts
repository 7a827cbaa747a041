import { closeSync, openSync, readSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { lgetxattr, llistxattr, pathBelow } from '../../system/extended-attributes.js'
import { type FileStat, fstat, lstatIfExists, readDirectory } from '../../system/file-stat.js'
import { lastOf, openCanonical, parentOf } from '../../system/rooted.js'
import { O_NOFOLLOW, O_NONBLOCK, O_RDONLY, openat, readlinkat } from '../../system/syscalls.js'
import { hasErrno } from '../../system/system-error.js'
import { hasWaited, readAhead } from '../read-ahead.js'
import {
  keepsXattr,
  type ReaderOptions,
  type SourceEntry,
  type SourceFile,
  type SourceReader,
} from './source-reader.js'
import { scanSource } from './source-scan.js'

/** Reads below a directory this process may read; `close` closes what the reader opened, not `rootFd`. */
export function createDirectReader(rootFd: number, options: ReaderOptions = {}): SourceReader {
  let cachedPath: string | undefined
  let cachedFd = -1
  /** What is opened next, in this order. */
  let next: readonly string[] = []

  function directory(path: string): number {
    if (path !== cachedPath) {
      // Down a deep tree every step is one more component, not all of them again.
      const isBelow = cachedPath !== undefined && cachedPath !== '' && path.startsWith(`${cachedPath}/`)
      const fd = isBelow
        ? openCanonical(cachedFd, path.slice((cachedPath?.length ?? 0) + 1), O_RDONLY)
        : openCanonical(rootFd, path, O_RDONLY)
      close()
      cachedPath = path
      cachedFd = fd
    }
    return cachedFd
  }

  function close(): void {
    if (cachedPath !== undefined) closeSync(cachedFd)
    cachedPath = undefined
  }

  function stat(path: string): SourceEntry | undefined {
    try {
      if (path === '') return describe(directory(''), '.', '', false)
      const name = lastOf(path)
      return describe(directory(parentOf(path)), name, name, false)
    } catch (error) {
      if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined
      throw error
    }
  }

  function list(path: string): SourceEntry[] {
    const fd = directory(path)
    const entries: SourceEntry[] = []
    for (const name of readDirectory(fd).sort()) {
      options.check?.()
      const entry = describe(fd, name, name, options.bare === true)
      if (entry !== undefined) entries.push(entry)
    }
    return entries
  }

  function open(path: string): SourceFile {
    try {
      const fd = openat(directory(parentOf(path)), lastOf(path), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
      const file = openedFile(fd, path)
      return next.length === 0 ? file : { ...file, read: (buffer) => readFirst(file, path, buffer) }
    } catch (error) {
      throw hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO') ? changed(path) : error
    }
  }

  /** One of those that are opened next. Had it to wait for the disk, the kernel begins to read the others. */
  function readFirst(file: SourceFile, path: string, buffer: Uint8Array): number {
    let count = 0
    const read = (): void => {
      count = file.read(buffer)
    }
    if (!hasWaited(read, buffer.length)) return count
    const place = next.indexOf(path)
    const others = place === -1 ? [] : next.slice(place + 1)
    if (place !== -1) next = []
    for (const other of others) {
      try {
        readAhead(directory(parentOf(other)), lastOf(other))
      } catch {
        // Its directory is gone, as whoever opens it will find.
      }
    }
    return count
  }

  return {
    ...{ stat, list, open, close },
    prefetch: (paths) => {
      next = paths
    },
    scan: (request, check, recorder) =>
      scanSource(
        { fd: rootFd, reader: createDirectReader(rootFd, { bare: true, check }), recorder },
        request,
        check,
      ),
  }
}

function describe(dirfd: number, path: string, name: string, isBare: boolean): SourceEntry | undefined {
  const stat = lstatIfExists(dirfd, path)
  if (stat === undefined) return undefined
  return entryOf(name, stat, {
    link: stat.type === 'symlink' ? readlinkat(dirfd, path) : '',
    xattrs: isBare ? noXattrs : readXattrs(pathBelow(dirfd, path)),
  })
}

export function entryOf(
  name: string,
  stat: FileStat,
  more: Pick<SourceEntry, 'link' | 'xattrs' | 'seen' | 'digest'>,
): SourceEntry {
  const shared = stat.nlink > 1 && stat.type !== 'directory'
  return {
    name,
    type: stat.type,
    mode: stat.mode,
    uid: stat.uid,
    gid: stat.gid,
    size: stat.size,
    mtimeNs: stat.mtimeNs,
    ctimeNs: stat.ctimeNs,
    dev: stat.dev,
    ino: stat.ino,
    nlink: stat.nlink,
    inode: shared ? `${stat.dev}:${stat.ino}` : undefined,
    rdevMajor: stat.rdevMajor,
    rdevMinor: stat.rdevMinor,
    link: more.link,
    xattrs: more.xattrs,
    seen: more.seen,
    digest: more.digest,
  }
}

const noXattrs: SourceEntry['xattrs'] = []

export function readXattrs(path: string): SourceEntry['xattrs'] {
  const names = llistxattr(path)
  if (names.length === 0) return noXattrs
  const xattrs: [string, string][] = []
  for (const name of names) {
    const value = keepsXattr(name) ? lgetxattr(path, name) : undefined
    if (value !== undefined) xattrs.push([name, value.toString('latin1')])
  }
  return xattrs.sort(([a], [b]) => (a < b ? -1 : 1))
}

/** Takes over the descriptor, and closes it when it is no regular file. */
export function openedFile(fd: number, path: string): SourceFile {
  const stat = fstat(fd)
  if (stat.type !== 'file') {
    closeSync(fd)
    throw changed(path)
  }
  let after: FileStat | undefined
  return {
    size: stat.size,
    mtimeNs: stat.mtimeNs,
    local: { fd, dev: stat.dev },
    read: (buffer) => readSync(fd, buffer, 0, buffer.length, null),
    finish() {
      after = fstat(fd)
      return after
    },
    confirms: ({ dev, ino, ctimeNs }) =>
      after !== undefined && after.dev === dev && after.ino === ino && after.ctimeNs === ctimeNs,
    close: () => closeSync(fd),
  }
}

/** A file of the daemon's own. */
export function openLocalFile(path: string): SourceFile {
  return openedFile(openSync(path, 'r'), path)
}

export function changed(path: string): BuilderError {
  return new BuilderError('ISB_CONTEXT_CHANGED', `/${textOfBytes(path)} changed while it was copied`)
}
