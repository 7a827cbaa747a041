import { closeSync, mkdirSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type BytePath, bytesOfText, rootedPath, textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { lgetxattr, llistxattr, lsetxattr } from '../system/extended-attributes.js'
import { type FileStat, fstat, lstatIfExists } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
import {
  lastOf,
  lstatCanonical,
  openCanonical,
  openInRoot,
  parentOf,
  resolveInRoot,
} from '../system/rooted.js'
import {
  AT_REMOVEDIR,
  fchmodat,
  fchownat,
  mkdirat,
  mknodat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  openat,
  S_IFREG,
  unlinkat,
  utimensat,
} from '../system/syscalls.js'
import { hasErrno, SystemError } from '../system/system-error.js'

/**
 * Places in a root file system that somebody else filled where something is to be mounted. What is
 * missing comes from a layer of stubs under the upper directory, so that no trace of a mount point is
 * left in the result and nothing has to be removed afterwards (CVE-2024-23652).
 */

export type MountKind = 'directory' | 'file'

export interface MountPoint {
  /** Inside the root; no component is a symbolic link once the stubs are there. */
  readonly path: BytePath
  readonly kind: MountKind
  /** Nothing suitable is there yet. */
  readonly missing: boolean
}

export const kernelDirectories = ['proc', 'sys', 'dev']

/** True for /proc, /sys and /dev and everything below: the container's own, never mounted over. */
export function isKernelPath(path: string): boolean {
  return kernelDirectories.some((name) => path === name || path.startsWith(`${name}/`))
}

/** The three directories a runtime mounts on; a link or a file in their place is hidden (CVE-2026-41579). */
export function kernelMountPoints(rootFd: number): readonly MountPoint[] {
  return kernelDirectories.map((name) => {
    const missing = lstatIfExists(rootFd, name)?.type !== 'directory'
    return { path: name as BytePath, kind: 'directory', missing }
  })
}

/** Where the target of a RUN mount leads, links resolved inside the root. */
export function findMountPoint(rootFd: number, target: string, kind: MountKind): MountPoint {
  const found = resolveTarget(rootFd, target)
  if (found.path === '') throw refusedTarget(target, 'the root directory cannot be a mount target')
  if (isKernelPath(found.path)) throw refusedTarget(target, '/proc, /sys and /dev belong to the container')
  const { stat } = found
  if (stat !== undefined && (stat.type === 'directory') !== (kind === 'directory')) {
    const is = stat.type === 'directory' ? 'a directory' : 'not a directory'
    throw refusedTarget(target, `it is ${is} and a ${kind} is to be mounted there`)
  }
  return { path: found.path, kind, missing: stat === undefined }
}

/** Like `findMountPoint` for /etc/hosts and /etc/resolv.conf; undefined where there can be none. */
export function findSystemFile(rootFd: number, target: string): MountPoint | undefined {
  try {
    const { path, stat } = resolveInRoot(rootFd, bytesOfText(target), { followLast: true })
    if (path === '' || isKernelPath(path)) return undefined
    return { path, kind: 'file', missing: stat === undefined || stat.type === 'directory' }
  } catch (error) {
    if (hasErrno(error, 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG')) return undefined
    throw error
  }
}

function resolveTarget(
  rootFd: number,
  target: string,
): { readonly path: BytePath; readonly stat: FileStat | undefined } {
  try {
    return resolveInRoot(rootFd, bytesOfText(target), { followLast: true })
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
    throw refusedTarget(target, reason(error))
  }
}

function reason(error: SystemError): string {
  if (error.code === 'ENOTDIR') return 'a parent is not a directory'
  if (error.code === 'ELOOP') return 'too many symbolic links'
  if (error.code === 'EROFS') return 'it does not exist and its parent is read-only'
  return error.message
}

export function refusedTarget(target: string, why: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', `cannot mount on "${target}": ${why}`, {
    hint: 'Choose another `target` for the mount.',
  })
}

/** Fills the empty `directory` with stubs; directories that exist in the root keep their looks. */
export function makeStubLayer(directory: string, rootFd: number, points: readonly MountPoint[]): void {
  const made = new Set<string>()
  const cloned: { readonly path: string; readonly stat: FileStat }[] = []
  const makeParents = (path: string): void => {
    const parent = parentOf(path)
    if (parent === '' || made.has(parent)) return
    makeParents(parent)
    made.add(parent)
    const bytes = join(bytesOfText(directory), parent)
    mkdirSync(Buffer.from(bytes, 'latin1'), 0o755)
    const stat = lstatCanonical(rootFd, parent)
    if (stat?.type === 'directory') {
      cloneAttributes(rootFd, parent, bytes, stat)
      cloned.push({ path: bytes, stat })
    } else {
      fchmodat(AT_FDCWD, bytes, 0o755)
    }
  }
  for (const point of points) {
    makeParents(point.path)
    if (made.has(point.path)) continue
    made.add(point.path)
    const bytes = join(bytesOfText(directory), point.path)
    if (point.kind === 'directory') mkdirSync(Buffer.from(bytes, 'latin1'))
    else writeFileSync(Buffer.from(bytes, 'latin1'), '')
    fchmodat(AT_FDCWD, bytes, point.kind === 'directory' ? 0o755 : 0o644)
  }
  // Deepest first and last of all: making an entry changes its parent's time.
  for (const { path, stat } of cloned.reverse()) utimensat(AT_FDCWD, path, undefined, stat.mtimeNs)
}

// The stub's directory lies on top, so what is not copied would be lost when the RUN changes the directory.
function cloneAttributes(rootFd: number, path: string, copy: string, stat: FileStat): void {
  fchownat(AT_FDCWD, copy, stat.uid, stat.gid)
  fchmodat(AT_FDCWD, copy, stat.mode)
  const fd = openCanonical(rootFd, path)
  try {
    const original = `/proc/self/fd/${fd}/.`
    for (const name of llistxattr(original)) {
      if (name.startsWith('trusted.overlay.')) continue
      const value = lgetxattr(original, name)
      if (value !== undefined) lsetxattr(copy, name, value)
    }
  } finally {
    closeSync(fd)
  }
}

/** An opened place for a mount, and what had to be made for it, outermost first. */
export interface OpenedPoint {
  readonly fd: number
  readonly made: readonly string[]
}

/**
 * Opens the target as it is now, mounts included, and makes what is missing: below another mount of
 * the same RUN, or in an upper directory that hides the stubs. `rootfs` is where the root is mounted.
 */
export function openMountPoint(rootFd: number, rootfs: string, target: string, kind: MountKind): OpenedPoint {
  const path = rootedPath(bytesOfText(target))
  const made: string[] = []
  let fd: number
  try {
    fd = openOrMake(rootFd, rootfs, path, kind, made, target)
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
    throw refusedTarget(target, reason(error))
  }
  const isDirectory = fstat(fd).type === 'directory'
  if (isDirectory === (kind === 'directory')) return { fd, made }
  closeSync(fd)
  throw refusedTarget(
    target,
    `it is ${isDirectory ? 'a' : 'not a'} directory and a ${kind} is to be mounted there`,
  )
}

function openOrMake(
  rootFd: number,
  rootfs: string,
  path: string,
  kind: MountKind,
  made: string[],
  target: string,
): number {
  try {
    const fd = openInRoot(rootFd, path, O_PATH)
    try {
      placeInside(fd, rootfs, target)
    } catch (error) {
      closeSync(fd)
      throw error
    }
    return fd
  } catch (error) {
    if (path === '' || !hasErrno(error, 'ENOENT')) throw error
  }
  const parent = openOrMake(rootFd, rootfs, parentOf(path), 'directory', made, target)
  try {
    const name = lastOf(path)
    if (kind === 'directory') mkdirat(parent, name, 0o755)
    else mknodat(parent, name, S_IFREG | 0o644, 0, 0)
    made.push(join(placeInside(parent, rootfs, target), name))
    const flags = kind === 'directory' ? O_PATH | O_NOFOLLOW | O_DIRECTORY : O_PATH | O_NOFOLLOW
    const fd = openat(parent, name, flags)
    fchmodat(parent, name, kind === 'directory' ? 0o755 : 0o644)
    return fd
  } finally {
    closeSync(parent)
  }
}

/** Path inside the root of an open place, which a link may have brought to where nothing may be mounted. */
function placeInside(fd: number, rootfs: string, target: string): string {
  const place = readlinkSync(`/proc/self/fd/${fd}`, 'latin1')
  const root = bytesOfText(rootfs)
  const inside = place === root ? '' : place.startsWith(`${root}/`) ? place.slice(root.length + 1) : undefined
  if (inside === undefined) throw refusedTarget(target, 'it leads out of the container')
  if (isKernelPath(inside)) throw refusedTarget(target, '/proc, /sys and /dev belong to the container')
  return inside
}

/** Removes from an upper directory what `openMountPoint` had to make there, as far as it is still empty. */
export function removeMadePoints(upper: string, made: readonly string[]): void {
  const upperFd = openat(AT_FDCWD, bytesOfText(upper), O_PATH | O_DIRECTORY)
  try {
    for (const path of [...made].reverse()) removeMade(upperFd, path)
  } finally {
    closeSync(upperFd)
  }
}

function removeMade(upperFd: number, path: string): void {
  const stat = lstatCanonical(upperFd, path)
  if (stat === undefined || (stat.type !== 'directory' && (stat.type !== 'file' || stat.size > 0))) return
  const parent = openCanonical(upperFd, parentOf(path))
  try {
    const before = fstat(parent).mtimeNs
    unlinkat(parent, lastOf(path), stat.type === 'directory' ? AT_REMOVEDIR : 0)
    utimensat(AT_FDCWD, `/proc/self/fd/${parent}/.`, undefined, before)
  } catch (error) {
    if (!hasErrno(error, 'ENOTEMPTY', 'EEXIST', 'ENOENT')) throw error
  } finally {
    closeSync(parent)
  }
}

/** For messages about a path of the image. */
export function shownPath(path: BytePath): string {
  return `/${textOfBytes(path)}`
}
