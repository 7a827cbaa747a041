import { closeSync, fstatSync, readSync } from 'node:fs'
import { type BytePath, rootedPath } from '@isula-build/shared/oci/byte-path.js'
import { type FileStat, fstat, fstatat, lstatIfExists } from './file-stat.js'
import { AT_FDCWD } from './libc.js'
import {
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  openat,
  openat2,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
  readlinkat,
} from './syscalls.js'
import { hasErrno, SystemError } from './system-error.js'

/**
 * Paths inside a root that somebody else filled. Nothing here ever looks outside the directory
 * `rootFd`: absolute links and `..` are taken relative to it. The only module that opens paths an
 * attacker controls. Paths are latin1 bytes; a leading slash means the root.
 */

const ELOOP = 40
const ENOENT = 2
const ENOTDIR = 20
/** As the kernel's MAXSYMLINKS. */
const MAX_LINKS = 40

let hasOpenat2 = true

/**
 * Opens `path` below the root; the last component is followed unless `flags` has O_NOFOLLOW. Magic
 * links of procfs are refused with ELOOP. Callers pass O_PATH, or O_NONBLOCK where a FIFO may lie.
 */
export function openInRoot(rootFd: number, path: string, flags: number, mode = 0): number {
  if (hasOpenat2) {
    try {
      return openWithKernel(rootFd, path, flags, mode)
    } catch (error) {
      if (!hasErrno(error, 'ENOSYS')) throw error
      hasOpenat2 = false
    }
  }
  return openByWalking(rootFd, path, flags, mode)
}

function openWithKernel(rootFd: number, path: string, flags: number, mode: number): number {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const inside = path === '' ? '.' : path
      return openat2(rootFd, inside, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    } catch (error) {
      // A rename anywhere on the machine may make the kernel give up a walk through `..`.
      if (!hasErrno(error, 'EAGAIN') || attempt >= 64) throw error
    }
  }
}

/** What `openInRoot` does on kernels without openat2 (before 5.6): resolves link by link, then opens. */
export function openByWalking(rootFd: number, path: string, flags: number, mode = 0): number {
  const followLast = (flags & O_NOFOLLOW) === 0
  const found = resolveInRoot(rootFd, path, { followLast })
  if (found.path === '') return openat(rootFd, '.', flags)
  const parent = openCanonical(rootFd, parentOf(found.path))
  try {
    return openat(parent, lastOf(found.path), flags | O_NOFOLLOW, mode)
  } finally {
    closeSync(parent)
  }
}

export interface Resolved {
  /** Without symbolic links, except a last one that was not to be followed. */
  readonly path: BytePath
  /** undefined when the entry, or one of its parents, does not exist. */
  readonly stat: FileStat | undefined
}

/**
 * Where `path` leads inside the root. Missing components are kept as they are written, so the result
 * is also the place where a file would be made. Fails with ENOTDIR when a parent is a file, ELOOP
 * after 40 links.
 */
export function resolveInRoot(
  rootFd: number,
  path: string,
  options: { readonly followLast: boolean },
): Resolved {
  const pending = components(path).reverse()
  // Descriptors of the directories on the way; the root's own is not in the list.
  const opened: number[] = []
  const names: string[] = []
  let links = 0
  let missing = false
  let stat: FileStat | undefined
  try {
    for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
      if (name === '..') {
        if (names.pop() !== undefined) {
          if (opened.length > names.length) closeSync(opened.pop() ?? -1)
          missing = opened.length < names.length
          stat = undefined
        }
        continue
      }
      if (missing) {
        names.push(name)
        stat = undefined
        continue
      }
      const dirfd = opened.at(-1) ?? rootFd
      stat = lstatIfExists(dirfd, name)
      if (stat?.type === 'symlink' && (pending.length > 0 || options.followLast)) {
        links += 1
        if (links > MAX_LINKS) throw new SystemError(ELOOP, 'resolve', path)
        const target = linkTarget(dirfd, name)
        if (target === undefined) {
          pending.push(name)
          continue
        }
        if (target.startsWith('/')) {
          while (opened.length > 0) closeSync(opened.pop() ?? -1)
          names.length = 0
        }
        pending.push(...components(target).reverse())
        stat = undefined
        continue
      }
      names.push(name)
      if (stat === undefined) missing = true
      else if (pending.length > 0) {
        if (stat.type !== 'directory') throw new SystemError(ENOTDIR, 'resolve', names.join('/'))
        opened.push(openat(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW))
      }
    }
    const resolved = names.join('/') as BytePath
    if (stat === undefined && !missing) stat = statCanonical(rootFd, opened, names)
    return { path: resolved, stat }
  } finally {
    for (const fd of opened) closeSync(fd)
  }
}

/** undefined when somebody has put something else in the link's place; the name is then looked at again. */
function linkTarget(dirfd: number, name: string): string | undefined {
  try {
    return readlinkat(dirfd, name)
  } catch (error) {
    if (hasErrno(error, 'EINVAL', 'ENOENT')) return undefined
    throw error
  }
}

// After `..` or a link that ended in a directory the last component has not been looked at.
function statCanonical(
  rootFd: number,
  opened: readonly number[],
  names: readonly string[],
): FileStat | undefined {
  const last = names.at(-1)
  if (last === undefined) return fstat(rootFd)
  const held = opened.length === names.length ? opened.at(-1) : undefined
  if (held !== undefined) return fstat(held)
  const parent = openCanonical(rootFd, names.slice(0, -1).join('/'))
  try {
    return lstatIfExists(parent, last)
  } finally {
    closeSync(parent)
  }
}

function components(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.')
}

/** Everything before the last slash; '' for a name in the root. */
export function parentOf(path: string): string {
  const slash = path.lastIndexOf('/')
  return slash < 0 ? '' : path.slice(0, slash)
}

/** The name after the last slash. */
export function lastOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

/** Opens a directory (O_PATH unless `flags` say otherwise) without following any link on the way. */
export function openCanonical(rootFd: number, path: string, flags = O_PATH): number {
  let current = openat(rootFd, '.', path === '' ? flags | O_DIRECTORY : O_PATH | O_DIRECTORY)
  const parts = components(path)
  for (const [index, part] of parts.entries()) {
    const last = index === parts.length - 1
    try {
      const next = openat(current, part, (last ? flags : O_PATH) | O_DIRECTORY | O_NOFOLLOW)
      closeSync(current)
      current = next
    } catch (error) {
      closeSync(current)
      throw error
    }
  }
  return current
}

/** undefined when there is nothing; ENOTDIR below a file also counts as nothing. */
export function statInRoot(
  rootFd: number,
  path: string,
  options: { readonly followLast: boolean },
): FileStat | undefined {
  try {
    const fd = openInRoot(rootFd, path, O_PATH | (options.followLast ? 0 : O_NOFOLLOW))
    try {
      return fstat(fd)
    } finally {
      closeSync(fd)
    }
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw error
  }
}

/** Target of the symbolic link `path`; EINVAL when it is something else. */
export function readlinkInRoot(rootFd: number, path: string): string {
  const fd = openInRoot(rootFd, path, O_PATH | O_NOFOLLOW)
  try {
    return readlinkat(fd, '')
  } finally {
    closeSync(fd)
  }
}

export interface OpenedRegular {
  readonly fd: number
  readonly stat: FileStat
}

/**
 * A regular file for reading. Anything else is looked at only, never opened (a FIFO would block, a
 * device act), and fails with ENXIO; undefined when there is nothing.
 */
export function openRegularInRoot(
  rootFd: number,
  path: string,
  options: { readonly followLast: boolean } = { followLast: true },
): OpenedRegular | undefined {
  let place: number
  try {
    place = openInRoot(rootFd, path, O_PATH | (options.followLast ? 0 : O_NOFOLLOW))
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw error
  }
  try {
    const stat = fstat(place)
    if (stat.type !== 'file') throw new SystemError(6, 'open', path)
    return { fd: reopen(place, O_RDONLY | O_NONBLOCK), stat }
  } finally {
    closeSync(place)
  }
}

/** Opens what an O_PATH descriptor is, without another look at its path. */
export function reopen(fd: number, flags: number): number {
  return openat(AT_FDCWD, `/proc/self/fd/${fd}`, flags)
}

/** Content of a regular file of at most `limit` bytes; EFBIG when it is larger. */
export function readInRoot(rootFd: number, path: string, limit: number): Buffer | undefined {
  const opened = openRegularInRoot(rootFd, path)
  if (opened === undefined) return undefined
  try {
    return readUpTo(opened.fd, limit, path)
  } finally {
    closeSync(opened.fd)
  }
}

/** What is left of an open regular file, at most `limit` bytes; EFBIG when it is more. `path` is for the error. */
export function readUpTo(fd: number, limit: number, path: string): Buffer {
  const { size } = fstatSync(fd)
  if (size > limit) throw new SystemError(27, 'read', path)
  // One byte more than there should be, to see the end.
  const chunks: Buffer[] = []
  for (let left = limit + 1; left > 0; ) {
    const chunk = Buffer.alloc(Math.min(left, size + 1))
    const count = readSync(fd, chunk, 0, chunk.length, null)
    if (count === 0) return chunks.length === 1 ? (chunks[0] ?? chunk) : Buffer.concat(chunks)
    chunks.push(chunk.subarray(0, count))
    left -= count
  }
  throw new SystemError(27, 'read', path)
}

/** The stat of an entry whose parents have no links; undefined when it or a parent is missing. */
export function lstatCanonical(rootFd: number, path: string): FileStat | undefined {
  const clean = rootedPath(path)
  if (clean === '') return fstat(rootFd)
  let parent: number
  try {
    parent = openCanonical(rootFd, parentOf(clean))
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined
    throw error
  }
  try {
    return fstatat(parent, lastOf(clean))
  } catch (error) {
    if (error instanceof SystemError && error.errno === ENOENT) return undefined
    throw error
  } finally {
    closeSync(parent)
  }
}
