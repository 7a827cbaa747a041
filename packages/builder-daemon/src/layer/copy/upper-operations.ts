import { closeSync, readSync, writeSync } from 'node:fs'
import { fsetxattr } from '../../system/extended-attributes.js'
import { type FileStamp, hasStamp, hasStampAt } from '../../system/file-stat.js'
import { lastOf, openCanonical, parentOf } from '../../system/rooted.js'
import {
  AT_EMPTY_PATH,
  fchmod,
  fchmodat,
  fchownat,
  linkat,
  linkDescriptor,
  mkdirat,
  mknodat,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  openat,
  setModified,
  setModifiedAt,
  symlinkat,
} from '../../system/syscalls.js'
import { hasErrno } from '../../system/system-error.js'
import { umask } from '../metadata.js'
import { OPAQUE_ATTRIBUTE, OPAQUE_VALUE } from '../overlay-form.js'
import { OWN_WORDS, type Slots } from '../pipe/slots.js'
import { hasWaited, readAhead } from '../read-ahead.js'
import { createPieceWriter } from './piece-writer.js'
import { UnlikeReuseError } from './reuse-errors.js'

/** Owner, permissions and time of something that is made. */
export type Stamp = Omit<FileStamp, 'size'>

/**
 * What is done to an upper directory, in the order of its tar. The directories on the way and a file that comes in pieces
 * are open between two calls; which they are is in shared memory, so that each call may come from another thread. A failure
 * leaves them to `closeAll`.
 */
export interface UpperState {
  enter(name: string, stamp: Stamp, opaque: boolean): void
  leave(stamp: Stamp): void
  putFile(name: string, stamp: Stamp, content: Buffer): void
  openFile(name: string, stamp: Stamp, size: number): void
  addToFile(content: Buffer): void
  closeFile(stamp: Stamp): void
  /**
   * A further name for the file that the earlier layer has at this place; a copy where it can have no more. Fails with
   * UnlikeReuseError when it has another stamp or size.
   */
  putLink(name: string, stamp: FileStamp): void
  /** The same, and reads it all into `content`; true when that had to wait for the disk. */
  bringFile(name: string, stamp: Stamp, content: Buffer): boolean
  /** `bringFile` comes for this name soon. */
  expectFile(name: string): void
  putSymlink(name: string, target: string, stamp: Stamp): void
  /** `format` is a type of mknod(2). */
  putNode(name: string, format: number, device: { major: number; minor: number }, stamp: Stamp): void
  readonly directory: number
  readonly file: number
  closeAll(): void
}

const FILE = OWN_WORDS
const DEPTH = OWN_WORDS + 1
const EXACT = OWN_WORDS + 2
const PIECE_WORDS = OWN_WORDS + 4
const DIRECTORIES = OWN_WORDS + 16
/** What the earlier layer has in place of these directories. */
const KEPT = DIRECTORIES + 2280

const NONE = -1

/** Of the root, which is there already. */
export function setOwnerModeAndTime(fd: number, stamp: Stamp): void {
  if (stamp.uid !== 0 || stamp.gid !== 0) fchownat(fd, '', stamp.uid, stamp.gid, AT_EMPTY_PATH)
  fchmod(fd, stamp.mode)
  setModified(fd, stamp.seconds, stamp.nanoseconds)
}

export interface UpperRoot {
  readonly fd: number
  /** Something above changes owner or mode of what is made below: nothing is taken for granted. */
  readonly exact: boolean
  /** The root of an earlier layer that files may be taken from. */
  readonly kept: number | undefined
}

/** To be called once for each job, before anything else. `root` stays the caller's. */
export function beginUpper({ words }: Slots, root: UpperRoot): void {
  words[FILE] = NONE
  words[DEPTH] = 0
  words[EXACT] = root.exact ? 1 : 0
  words.fill(0, PIECE_WORDS, DIRECTORIES)
  words[DIRECTORIES] = root.fd
  words[KEPT] = root.kept ?? NONE
}

/** Opens a file of a sealed layer for reading. Fails with UnlikeReuseError when it has another stamp. */
function openKept(dirfd: number, name: string, stamp: FileStamp): number {
  if (dirfd === NONE) throw new UnlikeReuseError(name)
  let fd = -1
  try {
    fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO')) throw new UnlikeReuseError(name)
    throw error
  }
  if (hasStamp(fd, stamp)) return fd
  closeSync(fd)
  throw new UnlikeReuseError(name)
}

/** The same for a path from the root of the layer, on which no link may be. */
export function openKeptPath(layer: number, path: string, stamp: FileStamp): number {
  let dirfd = NONE
  try {
    dirfd = openCanonical(layer, parentOf(path))
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) throw new UnlikeReuseError(path)
    throw error
  }
  try {
    return openKept(dirfd, lastOf(path), stamp)
  } finally {
    closeSync(dirfd)
  }
}

/** NONE where there is no such directory. */
function openKeptDirectory(dirfd: number, name: string): number {
  if (dirfd === NONE) return NONE
  try {
    return openat(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW)
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return NONE
    throw error
  }
}

/** Fails with UnlikeReuseError when there is less. */
function readWhole(fd: number, name: string, content: Buffer): void {
  for (let at = 0; at < content.length; ) {
    const count = readSync(fd, content, at, content.length - at, null)
    if (count === 0) throw new UnlikeReuseError(name)
    at += count
  }
}

/** False when the file can have no further name. */
function tryLinkOpen(fd: number, dirfd: number, name: string): boolean {
  try {
    linkDescriptor(fd, dirfd, name)
    return true
  } catch (error) {
    if (hasErrno(error, 'EMLINK')) return false
    throw error
  }
}

export function upperState({ words }: Slots): UpperState {
  const pieces = createPieceWriter(words.subarray(PIECE_WORDS, DIRECTORIES))
  const word = (index: number): number => words[index] ?? NONE
  const directory = (): number => word(DIRECTORIES + word(DEPTH))
  const kept = (): number => word(KEPT + word(DEPTH))

  /** Permissions that something can be made with, so that they need not be set again. */
  function firstMode(mode: number, otherwise: number): number {
    return word(EXACT) === 0 && (mode & (umask() | 0o7000)) === 0 ? mode : otherwise
  }
  function setOwner(fd: number, { uid, gid }: Stamp): void {
    if (uid !== 0 || gid !== 0 || word(EXACT) !== 0) fchownat(fd, '', uid, gid, AT_EMPTY_PATH)
  }
  function finish(fd: number, stamp: Stamp, made: number): void {
    setOwner(fd, stamp)
    // After the owner: a change of that takes setuid and setgid away.
    if (made !== stamp.mode) fchmod(fd, stamp.mode)
    setModified(fd, stamp.seconds, stamp.nanoseconds)
  }
  function create(name: string, mode: number): number {
    return openat(directory(), name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode)
  }

  function putFile(name: string, stamp: Stamp, content: Buffer): void {
    const made = firstMode(stamp.mode, 0o600)
    const fd = create(name, made)
    try {
      for (let at = 0; at < content.length; ) at += writeSync(fd, content, at, content.length - at)
      finish(fd, stamp, made)
    } finally {
      closeSync(fd)
    }
  }

  function copyKept(name: string, stamp: Stamp): void {
    const source = openat(kept(), name, O_RDONLY | O_NOFOLLOW)
    try {
      const made = firstMode(stamp.mode, 0o600)
      const fd = create(name, made)
      try {
        const buffer = Buffer.allocUnsafe(1 << 18)
        for (let count = 1; count > 0; ) {
          count = readSync(source, buffer, 0, buffer.length, null)
          for (let at = 0; at < count; ) at += writeSync(fd, buffer, at, count - at)
        }
        finish(fd, stamp, made)
      } finally {
        closeSync(fd)
      }
    } finally {
      closeSync(source)
    }
  }

  return {
    get directory() {
      return directory()
    },
    get file() {
      return word(FILE)
    },
    enter(name, stamp, opaque) {
      const parent = directory()
      mkdirat(parent, name, firstMode(stamp.mode, 0o700))
      const fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
      const before = kept()
      words[DEPTH] = word(DEPTH) + 1
      words[DIRECTORIES + word(DEPTH)] = fd
      words[KEPT + word(DEPTH)] = NONE
      words[KEPT + word(DEPTH)] = openKeptDirectory(before, name)
      if (opaque) fsetxattr(fd, OPAQUE_ATTRIBUTE, OPAQUE_VALUE)
    },
    leave(stamp) {
      // Only now: a setgid directory would hand its group down.
      const fd = directory()
      finish(fd, stamp, firstMode(stamp.mode, 0o700))
      const before = kept()
      words[DEPTH] = word(DEPTH) - 1
      closeSync(fd)
      if (before !== NONE) closeSync(before)
    },
    putFile,
    openFile(name, stamp, size) {
      words[FILE] = create(name, firstMode(stamp.mode, 0o600))
      pieces.begin(size)
    },
    addToFile: (content) => pieces.write(word(FILE), content),
    closeFile(stamp) {
      const fd = word(FILE)
      finish(fd, stamp, firstMode(stamp.mode, 0o600))
      words[FILE] = NONE
      closeSync(fd)
    },
    putLink(name, stamp) {
      if (kept() === NONE || !hasStampAt(kept(), name, stamp)) throw new UnlikeReuseError(name)
      try {
        linkat(kept(), name, directory(), name)
      } catch (error) {
        if (!hasErrno(error, 'EMLINK')) throw error
        copyKept(name, stamp)
      }
    },
    bringFile(name, stamp, content) {
      const fd = openKept(kept(), name, { size: content.length, ...stamp })
      let waited = false
      try {
        waited = hasWaited(() => readWhole(fd, name, content), content.length)
        if (tryLinkOpen(fd, directory(), name)) return waited
      } finally {
        closeSync(fd)
      }
      putFile(name, stamp, content)
      return waited
    },
    expectFile(name) {
      if (kept() !== NONE) readAhead(kept(), name)
    },
    putSymlink(name, target, stamp) {
      const parent = directory()
      symlinkat(target, parent, name)
      const { uid, gid } = stamp
      if (uid !== 0 || gid !== 0 || word(EXACT) !== 0) fchownat(parent, name, uid, gid)
      setModifiedAt(parent, name, stamp.seconds, stamp.nanoseconds)
    },
    putNode(name, format, { major, minor }, stamp) {
      const parent = directory()
      mknodat(parent, name, format | 0o600, major, minor)
      const { uid, gid } = stamp
      if (uid !== 0 || gid !== 0 || word(EXACT) !== 0) fchownat(parent, name, uid, gid)
      fchmodat(parent, name, stamp.mode)
      setModifiedAt(parent, name, stamp.seconds, stamp.nanoseconds)
    },
    closeAll() {
      if (word(FILE) !== NONE) closeSync(word(FILE))
      words[FILE] = NONE
      for (let depth = word(DEPTH); depth > 0; depth -= 1) {
        closeSync(word(DIRECTORIES + depth))
        if (word(KEPT + depth) !== NONE) closeSync(word(KEPT + depth))
      }
      words[DEPTH] = 0
    },
  }
}
