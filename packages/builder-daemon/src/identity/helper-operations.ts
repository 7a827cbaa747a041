import { closeSync, writeSync } from 'node:fs'
import type { FileIdentity } from '../ports/caller.js'
import { type FileStat, fstat, fstatat } from '../system/file-stat.js'
import { createFileSystemFinder } from '../system/file-system-kind.js'
import { AT_FDCWD } from '../system/libc.js'
import { lastOf, parentOf, reopen } from '../system/rooted.js'
import {
  fchmod,
  fsync,
  mkdirat,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  O_TRUNC,
  O_WRONLY,
  openat,
  renameat2,
  unlinkat,
} from '../system/syscalls.js'
import { hasErrno } from '../system/system-error.js'
import { RefusalError } from './refusal.js'

/**
 * What an identity helper does for its user, synchronously and with his rights only. Paths are
 * absolute latin1 bytes. Failures are SystemErrors and RefusalErrors.
 */

export interface HelperFile {
  readonly fd: number
  readonly stat: FileStat
  /** The descriptor must not leave this process: whoever reads it may have to wait for ever. */
  readonly mayHang: boolean
}

const umask = 0o022

export function openForReading(path: string): HelperFile {
  const place = openat(AT_FDCWD, path, O_PATH)
  try {
    const stat = fstat(place)
    if (stat.type !== 'file') throw new RefusalError('NOT_FILE')
    const kind = createFileSystemFinder()(place)
    if (kind === 'kernel') throw new RefusalError('KERNEL_FILE')
    return { fd: reopen(place, O_RDONLY | O_NONBLOCK), stat, mayHang: kind !== 'local' }
  } finally {
    closeSync(place)
  }
}

/** The file system is looked at before anything is made on it: nothing has to be undone. */
export function createFile(path: string, mode: number, expected: FileIdentity | undefined): HelperFile {
  const parent = openat(AT_FDCWD, parentOf(path) || '/', O_PATH | O_DIRECTORY)
  try {
    const kind = createFileSystemFinder()(parent)
    if (kind === 'kernel') throw new RefusalError('KERNEL_FILE')
    if (kind === 'user') throw new RefusalError('USER_FILE_SYSTEM')
    if (expected !== undefined) {
      const { dev, ino } = fstat(parent)
      if (dev !== expected.dev || ino !== expected.ino) throw new RefusalError('OTHER_DIRECTORY')
    }
    const fd = openat(parent, lastOf(path), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
    fchmod(fd, mode & ~umask)
    return { fd, stat: fstat(fd), mayHang: false }
  } finally {
    closeSync(parent)
  }
}

export function replaceFile(path: string, content: Buffer, mode: number): void {
  const fd = openForReplacement(path, mode)
  try {
    for (let at = 0; at < content.length; ) at += writeSync(fd, content, at)
  } finally {
    closeSync(fd)
  }
}

function openForReplacement(path: string, mode: number): number {
  let place: number
  try {
    place = openat(AT_FDCWD, path, O_PATH)
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error
    return openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode & ~umask)
  }
  try {
    if (fstat(place).type !== 'file') throw new RefusalError('NOT_FILE')
    if (createFileSystemFinder()(place) === 'kernel') throw new RefusalError('KERNEL_FILE')
    return reopen(place, O_WRONLY | O_TRUNC)
  } finally {
    closeSync(place)
  }
}

export function exchangeFile(path: string, content: Buffer, mode: number): void {
  const directory = openat(AT_FDCWD, parentOf(path) || '/', O_PATH | O_DIRECTORY)
  const name = lastOf(path)
  const beside = newName(name)
  try {
    if (createFileSystemFinder()(directory) === 'kernel') throw new RefusalError('KERNEL_FILE')
    if (unlessMissing(() => fstatat(directory, name).type, 'file') !== 'file') {
      throw new RefusalError('NOT_FILE')
    }
    unlessMissing(() => unlinkat(directory, beside), undefined)
    const fd = openat(directory, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
    try {
      fchmod(fd, mode & ~umask)
      for (let at = 0; at < content.length; ) at += writeSync(fd, content, at)
      fsync(fd)
      renameat2(directory, beside, directory, name)
    } catch (error) {
      unlinkat(directory, beside)
      throw error
    } finally {
      closeSync(fd)
    }
  } finally {
    closeSync(directory)
  }
}

function unlessMissing<T>(look: () => T, otherwise: T): T {
  try {
    return look()
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return otherwise
    throw error
  }
}

/** What is left under it by a crash goes with the next `exchange`. */
function newName(name: string): string {
  return `.${name}.new`
}

export function removeFile(path: string, file: FileIdentity): void {
  const { dev, ino } = fstatat(AT_FDCWD, path)
  if (dev !== file.dev || ino !== file.ino) throw new RefusalError('REPLACED')
  unlinkat(AT_FDCWD, path)
}

export function createDirectory(path: string, mode: number): void {
  mkdirat(AT_FDCWD, path, mode & ~umask)
}

export function openDirectory(path: string): number {
  const fd = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY)
  if (createFileSystemFinder()(fd) !== 'kernel') return fd
  closeSync(fd)
  throw new RefusalError('KERNEL_FILE')
}
