import { closeSync, ftruncateSync, writeSync } from 'node:fs'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { isWhiteoutDevice } from '../system/file-stat.js'
import { lastOf, lstatCanonical, openCanonical, parentOf, resolveInRoot } from '../system/rooted.js'
import { linkat, O_RDONLY } from '../system/syscalls.js'
import { hasErrno, SystemError } from '../system/system-error.js'
import type { JobControl } from './job-control.js'
import { OPAQUE_MARKER, WHITEOUT_PREFIX } from './overlay-form.js'
import type { ReadEntry, TarReader } from './tar/reader.js'
import { joined, type Upper } from './upper.js'

/** A tar being unpacked into an upper. */
export interface UnpackingJob {
  readonly reader: TarReader
  readonly upper: Upper
  readonly control: JobControl
  /** Bytes that sparse files may claim together. */
  readonly limit: number
  /** `.wh.` names mean deletions, as in a layer; else they are names. */
  readonly deletions: boolean
  /** The payload that follows becomes the whole content of the file at this place in the upper. */
  readonly onFile?: (path: string, size: number) => void
  /** Payload that is the content of no file as it stands: of sparse files, marks and skipped entries. */
  readonly onLoose?: (bytes: Buffer) => void
  /** Where an entry goes, cleaned; '' is the root. */
  readonly onPath?: (path: string) => void
}

/**
 * Unpacks all entries; gives their number. What an entry says applies inside the upper only: `..`
 * above the root is refused, links are followed inside, nothing is opened but what this makes.
 */
export function unpackEntries(job: UnpackingJob): number {
  let entries = 0
  let sparseBytes = 0
  for (let entry = job.reader.next(); entry !== undefined; entry = job.reader.next()) {
    job.control.check()
    entries += 1
    if (entry.sparse !== undefined) sparseBytes += entry.size
    if (sparseBytes > job.limit) {
      throw new BuilderError(
        'ISB_LIMIT_EXCEEDED',
        `sparse files in the tar claim more than ${job.limit} bytes`,
      )
    }
    try {
      place(job, entry)
    } catch (error) {
      throw inContext(error, entry.path)
    }
    job.reader.payload((bytes) => job.onLoose?.(bytes))
  }
  return entries
}

function inContext(error: unknown, path: string): unknown {
  if (isBuilderError(error) || !(error instanceof SystemError)) return error
  const shown = `"${textOfBytes(path)}"`
  if (error.code === 'ENOSPC' || error.code === 'EDQUOT') {
    return new BuilderError('ISB_NO_SPACE', `no space left to unpack ${shown}`, { cause: error })
  }
  if (error.code === 'ENAMETOOLONG' || error.code === 'EINVAL' || error.code === 'EFBIG') {
    return invalid(`${shown} cannot be unpacked: ${error.message}`, error)
  }
  return error
}

/** Cleaned as docker does it, lexically; above the root is refused, an absolute path is below it. */
export function entryPath(raw: string, what: string): string {
  const names: string[] = []
  for (const name of raw.split('/')) {
    if (name === '' || name === '.') continue
    if (name !== '..') names.push(name)
    else if (names.pop() === undefined) throw invalid(`${what} "${textOfBytes(raw)}" leads out of the layer`)
  }
  if (raw === '') throw invalid(`${what} is empty`)
  return names.join('/')
}

function place(job: UnpackingJob, entry: ReadEntry): void {
  const path = entryPath(entry.path, 'the name')
  job.onPath?.(path)
  if (path === '') {
    if (entry.type !== 'directory') throw invalid('the root of the layer is no directory')
    job.upper.putRoot(entry)
    return
  }
  const name = lastOf(path)
  if (job.deletions && path.includes(WHITEOUT_PREFIX)) {
    if (path.split('/').some((part) => part.startsWith('.wh..wh.') && part !== OPAQUE_MARKER)) return
    if (
      parentOf(path)
        .split('/')
        .some((part) => part.startsWith(WHITEOUT_PREFIX))
    ) {
      throw invalid(`"${textOfBytes(entry.path)}" lies below a deletion mark`)
    }
    if (name.startsWith(WHITEOUT_PREFIX)) {
      hide(job.upper, path, entry)
      return
    }
  }
  if (entry.type === 'hardlink') {
    link(job, path, entry)
    return
  }
  const parent = job.upper.directory(parentOf(path), entry.mtimeNs)
  if (parent === undefined) throw new Error('a directory that must be there is not')
  switch (entry.type) {
    case 'directory':
      job.upper.putDirectory(parent, name, entry)
      return
    case 'symlink':
      if (entry.linkName === '') throw invalid(`the symbolic link "${textOfBytes(entry.path)}" has no target`)
      job.upper.putSymlink(parent, name, entry.linkName, entry)
      return
    case 'character':
    case 'block':
    case 'fifo': {
      const { deviceMajor: major, deviceMinor: minor } = entry
      if (entry.type === 'character' && major === 0 && minor === 0) {
        throw invalid(`"${textOfBytes(entry.path)}" is the device 0:0, which marks a deletion on disk`)
      }
      if (major > 0xfff || minor > 0xfffff) {
        throw invalid(`"${textOfBytes(entry.path)}" has the impossible device number ${major}:${minor}`)
      }
      job.upper.putDevice(parent, name, { type: entry.type, major, minor }, entry)
      return
    }
    case 'file': {
      const fd = job.upper.createFile(parent, name, entry.mode)
      try {
        fill(job, joined(parent.path, name), entry, fd)
      } finally {
        job.upper.finishFile(fd, parent, name, entry)
      }
    }
  }
}

function fill(job: UnpackingJob, path: string, entry: ReadEntry, fd: number): void {
  if (entry.sparse !== undefined) {
    ftruncateSync(fd, entry.size)
    job.reader.payload((bytes, fileOffset) => {
      job.control.check()
      job.onLoose?.(bytes)
      for (let at = 0; at < bytes.length; ) {
        at += writeSync(fd, bytes, at, bytes.length - at, fileOffset + at)
      }
    })
    return
  }
  if (entry.size === 0) return
  job.onFile?.(path, entry.size)
  job.reader.payload((bytes) => {
    job.control.check()
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
  })
}

function hide(upper: Upper, path: string, entry: ReadEntry): void {
  const mark = lastOf(path)
  const directory = parentOf(path)
  const name = mark.slice(WHITEOUT_PREFIX.length)
  if (name === '' || name === '.' || name === '..') {
    throw invalid(`"${textOfBytes(entry.path)}" marks nothing as deleted`)
  }
  const parent = upper.directory(directory, entry.mtimeNs, true)
  // Below something this layer has deleted or replaced there is nothing left to hide.
  if (parent === undefined) return
  if (mark === OPAQUE_MARKER) upper.makeOpaque(parent.path)
  else upper.putWhiteout(parent, name, entry.mtimeNs)
}

function link(job: UnpackingJob, path: string, entry: ReadEntry): void {
  const wanted = entryPath(entry.linkName, `the target of the hard link "${textOfBytes(entry.path)}"`)
  const target = locate(job.upper, wanted)
  if (target === undefined) {
    throw invalid(
      `the hard link "${textOfBytes(entry.path)}" points to "${textOfBytes(entry.linkName)}", which is not there`,
    )
  }
  const parent = job.upper.directory(parentOf(path), entry.mtimeNs)
  if (parent === undefined) throw new Error('a directory that must be there is not')
  const name = lastOf(path)
  if (joined(parent.path, name) === target)
    throw invalid(`the hard link "${textOfBytes(entry.path)}" points to itself`)
  const from = openCanonical(job.upper.rootFd, parentOf(target), O_RDONLY)
  try {
    job.upper.clear(parent, name)
    linkat(from, lastOf(target), parent.fd, name)
  } catch (error) {
    if (hasErrno(error, 'ENOENT'))
      throw invalid(`the hard link "${textOfBytes(entry.path)}" replaces its own target`)
    throw error
  } finally {
    closeSync(from)
  }
}

/** Where in the upper the file is that a hard link names; what only the lowers have is copied up. */
function locate(upper: Upper, wanted: string): string | undefined {
  let path = wanted
  for (let attempt = 0; attempt < 3; attempt += 1) {
    path = throughUpper(upper, path)
    const own = lstatCanonical(upper.rootFd, path)
    if (own !== undefined) {
      if (isWhiteoutDevice(own) || own.type === 'directory') return undefined
      return path
    }
    const lower = upper.lower(path)
    if (lower !== undefined) {
      if (lower.type === 'directory' || lower.type === 'socket') return undefined
      upper.copyUp(path)
      return path
    }
    const next = upper.throughLowers(path)
    if (next === undefined || next === path) return undefined
    path = next
  }
  return undefined
}

function throughUpper(upper: Upper, path: string): string {
  try {
    return resolveInRoot(upper.rootFd, path, { followLast: false }).path
  } catch (error) {
    // Through a deletion mark or a file: nothing is there, and `lower` says so too.
    if (hasErrno(error, 'ENOTDIR', 'ELOOP')) return path
    throw error
  }
}

function invalid(message: string, cause?: unknown): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', message, { cause })
}
