import { constants } from 'node:fs'
import { AT_FDCWD, checked, cString, lastErrno, libc, otherCString, retried, syscallNumber } from './libc.js'
import { SystemError } from './system-error.js'

/**
 * File system calls relative to directory descriptors. Paths and link targets are bytes in latin1
 * strings. Every failure is a SystemError with errno's name as `code`. Descriptors are always
 * close-on-exec and are closed with `fs.closeSync`.
 */

export const O_RDONLY = 0
export const O_WRONLY = 1
export const O_RDWR = 2
export const O_CREAT = 0o100
export const O_EXCL = 0o200
export const O_TRUNC = 0o1000
export const O_APPEND = 0o2000
export const O_NONBLOCK = 0o4000
export const O_DIRECTORY = constants.O_DIRECTORY
export const O_NOFOLLOW = constants.O_NOFOLLOW
export const O_CLOEXEC = 0o2000000
export const O_PATH = 0o10000000

export const AT_SYMLINK_NOFOLLOW = 0x100
export const AT_REMOVEDIR = 0x200
export const AT_SYMLINK_FOLLOW = 0x400
export const AT_EMPTY_PATH = 0x1000

/** openat2(2) `resolve` flags. */
export const RESOLVE_NO_XDEV = 0x01
export const RESOLVE_NO_MAGICLINKS = 0x02
export const RESOLVE_NO_SYMLINKS = 0x04
export const RESOLVE_BENEATH = 0x08
export const RESOLVE_IN_ROOT = 0x10

export const RENAME_NOREPLACE = 1
export const RENAME_EXCHANGE = 2

export const S_IFMT = 0o170000
export const S_IFSOCK = 0o140000
export const S_IFLNK = 0o120000
export const S_IFREG = 0o100000
export const S_IFBLK = 0o060000
export const S_IFDIR = 0o040000
export const S_IFCHR = 0o020000
export const S_IFIFO = 0o010000

const ENOENT = 2

const call = {
  openat: libc('int openat(int, const void *, int, uint)'),
  openat2: libc('long syscall(long, long, const void *, const void *, long)'),
  mkdirat: libc('int mkdirat(int, const void *, uint)'),
  mknodat: libc('long syscall(long, long, const void *, long, long)'),
  symlinkat: libc('int symlinkat(const void *, int, const void *)'),
  linkat: libc('int linkat(int, const void *, int, const void *, int)'),
  unlinkat: libc('int unlinkat(int, const void *, int)'),
  renameat2: libc('int renameat2(int, const void *, int, const void *, uint)'),
  readlinkat: libc('long readlinkat(int, const void *, void *, size_t)'),
  fchownat: libc('int fchownat(int, const void *, uint, uint, int)'),
  fchmodat: libc('int fchmodat(int, const void *, uint, int)'),
  fchmod: libc('int fchmod(int, uint)'),
  utimensat: libc('int utimensat(int, const void *, const void *, int)'),
  futimens: libc('int futimens(int, const void *)'),
  copyFileRange: libc('long copy_file_range(int, void *, int, void *, size_t, uint)'),
  ioctl: libc('int ioctl(int, ulong, long)'),
  fcntl: libc('int fcntl(int, int, long)'),
  fsync: libc('int fsync(int)'),
  syncfs: libc('int syncfs(int)'),
  flock: libc('int flock(int, int)'),
  fadvise: libc('int posix_fadvise(int, int64_t, int64_t, int)'),
}

export function openat(dirfd: number, path: string, flags: number, mode = 0): number {
  const bytes = cString(path, 'openat')
  return retried(() => call.openat(dirfd, bytes, flags | O_CLOEXEC, mode), 'openat', path)
}

const openHow = Buffer.alloc(24)

/** openat2(2); ENOSYS before Linux 5.6, EAGAIN when a rename raced with `..`. */
export function openat2(dirfd: number, path: string, flags: number, mode: number, resolve: number): number {
  const bytes = cString(path, 'openat2')
  openHow.writeBigUInt64LE(BigInt(flags | O_CLOEXEC), 0)
  openHow.writeBigUInt64LE(BigInt(mode), 8)
  openHow.writeBigUInt64LE(BigInt(resolve), 16)
  return retried(() => call.openat2(437, dirfd, bytes, openHow, 24), 'openat2', path)
}

/** The mode is subject to the umask of the process. */
export function mkdirat(dirfd: number, path: string, mode: number): void {
  checked(call.mkdirat(dirfd, cString(path, 'mkdirat'), mode), 'mkdirat', path)
}

/** `mode` includes the type (S_IFCHR, S_IFBLK, S_IFIFO); subject to the umask. */
export function mknodat(dirfd: number, path: string, mode: number, major: number, minor: number): void {
  // The kernel's new_encode_dev: 12 bits of major between two parts of minor.
  const device = (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)
  const number = syscallNumber(259, 33)
  checked(call.mknodat(number, dirfd, cString(path, 'mknodat'), mode, device >>> 0), 'mknodat', path)
}

export function symlinkat(target: string, dirfd: number, path: string): void {
  const bytes = otherCString(target, 'symlinkat')
  checked(call.symlinkat(bytes, dirfd, cString(path, 'symlinkat')), 'symlinkat', path)
}

/** Never follows a symbolic link at `oldPath` unless `flags` has AT_SYMLINK_FOLLOW. */
export function linkat(
  oldDirfd: number,
  oldPath: string,
  newDirfd: number,
  newPath: string,
  flags = 0,
): void {
  const old = otherCString(oldPath, 'linkat')
  checked(call.linkat(oldDirfd, old, newDirfd, cString(newPath, 'linkat'), flags), 'linkat', newPath)
}

const emptyPath = Buffer.alloc(1)

/** Gives the open file another name. */
export function linkDescriptor(fd: number, newDirfd: number, newPath: string): void {
  // Without the capability to do it so, the answer is that there is no such file.
  if (call.linkat(fd, emptyPath, newDirfd, cString(newPath, 'linkat'), AT_EMPTY_PATH) >= 0) return
  const errno = lastErrno()
  if (errno !== ENOENT) throw new SystemError(errno, 'linkat', newPath)
  linkat(AT_FDCWD, `/proc/self/fd/${fd}`, newDirfd, newPath, AT_SYMLINK_FOLLOW)
}

/** AT_REMOVEDIR in `flags` removes an empty directory. */
export function unlinkat(dirfd: number, path: string, flags = 0): void {
  checked(call.unlinkat(dirfd, cString(path, 'unlinkat'), flags), 'unlinkat', path)
}

export function renameat2(
  oldDirfd: number,
  oldPath: string,
  newDirfd: number,
  newPath: string,
  flags = 0,
): void {
  const old = otherCString(oldPath, 'renameat2')
  checked(call.renameat2(oldDirfd, old, newDirfd, cString(newPath, 'renameat2'), flags), 'renameat2', oldPath)
}

const linkTarget = Buffer.allocUnsafeSlow(4096)

/** With '' as path, reads the link that `dirfd` (O_PATH|O_NOFOLLOW) is. */
export function readlinkat(dirfd: number, path: string): string {
  const bytes = cString(path, 'readlinkat')
  const length = checked(call.readlinkat(dirfd, bytes, linkTarget, 4096), 'readlinkat', path)
  return linkTarget.toString('latin1', 0, length)
}

export function fchownat(
  dirfd: number,
  path: string,
  uid: number,
  gid: number,
  flags = AT_SYMLINK_NOFOLLOW,
): void {
  checked(call.fchownat(dirfd, cString(path, 'fchownat'), uid, gid, flags), 'fchownat', path)
}

/** Follows a symbolic link at `path`; callers make sure there is none, or use `fchmod`. */
export function fchmodat(dirfd: number, path: string, mode: number): void {
  checked(call.fchmodat(dirfd, cString(path, 'fchmodat'), mode, 0), 'fchmodat', path)
}

export function fchmod(fd: number, mode: number): void {
  checked(call.fchmod(fd, mode), 'fchmod')
}

const times = Buffer.alloc(32)
const UTIME_OMIT = (1n << 30n) - 2n
const SECOND = 1_000_000_000n

/** Nanoseconds since the epoch; undefined leaves that time alone. '' with AT_EMPTY_PATH sets `dirfd`'s own. */
export function utimensat(
  dirfd: number,
  path: string,
  atimeNs: bigint | undefined,
  mtimeNs: bigint | undefined,
  flags = AT_SYMLINK_NOFOLLOW,
): void {
  putTime(0, atimeNs)
  putTime(16, mtimeNs)
  checked(call.utimensat(dirfd, cString(path, 'utimensat'), times, flags), 'utimensat', path)
}

/** Of an open, writable or owned descriptor (not O_PATH). */
export function futimens(fd: number, atimeNs: bigint | undefined, mtimeNs: bigint | undefined): void {
  putTime(0, atimeNs)
  putTime(16, mtimeNs)
  checked(call.futimens(fd, times), 'futimens')
}

function putTime(offset: number, ns: bigint | undefined): void {
  let seconds = 0n
  let rest = UTIME_OMIT
  if (ns !== undefined) {
    rest = ns % SECOND
    if (rest < 0n) rest += SECOND
    seconds = (ns - rest) / SECOND
  }
  times.writeBigInt64LE(seconds, offset)
  times.writeBigInt64LE(rest, offset + 8)
}

const modified = new Int32Array(8)
const modifiedBytes = Buffer.from(modified.buffer)
modified[2] = Number(UTIME_OMIT)

function putModified(seconds: number, nanoseconds: number): Buffer {
  modified[4] = seconds | 0
  modified[5] = Math.floor(seconds / 0x1_0000_0000)
  modified[6] = nanoseconds
  return modifiedBytes
}

/** Like `futimens` for the mtime alone, without the detour over big numbers. */
export function setModified(fd: number, seconds: number, nanoseconds: number): void {
  checked(call.futimens(fd, putModified(seconds, nanoseconds)), 'futimens')
}

/** The same for an entry; a symbolic link at `path` is not followed. */
export function setModifiedAt(dirfd: number, path: string, seconds: number, nanoseconds: number): void {
  const bytes = cString(path, 'utimensat')
  const times = putModified(seconds, nanoseconds)
  checked(call.utimensat(dirfd, bytes, times, AT_SYMLINK_NOFOLLOW), 'utimensat', path)
}

const F_SETFL = 4
const EINVAL = 22

/** Whether writes to the file go past the page cache from now on; false when its file system cannot do that. */
export function setDirect(fd: number, direct: boolean): boolean {
  if (call.fcntl(fd, F_SETFL, direct ? constants.O_DIRECT : 0) === 0) return true
  const errno = lastErrno()
  if (errno === EINVAL) return false
  throw new SystemError(errno, 'fcntl')
}

const EXDEV_LIKE = [18, 22, 38, 95]

/** Copies up to `length` bytes from the current offsets; 0 at the end of the source, -1 when the file systems cannot. */
export function copyFileRange(from: number, to: number, length: number): number {
  const copied = call.copyFileRange(from, null, to, null, length, 0)
  if (copied >= 0) return copied
  const errno = lastErrno()
  if (EXDEV_LIKE.includes(errno)) return -1
  throw new SystemError(errno, 'copy_file_range')
}

const ETXTBSY = 26
const ENOTTY = 25

/**
 * ioctl FICLONE: all of `to` becomes the extents of `from`. `not these` when there is something about the files, `never`
 * when the file systems cannot.
 */
export function cloneFile(from: number, to: number): 'cloned' | 'not these' | 'never' {
  if (call.ioctl(to, 0x40049409, from) === 0) return 'cloned'
  const errno = lastErrno()
  if (errno === EINVAL || errno === ETXTBSY) return 'not these'
  if (errno === ENOTTY || EXDEV_LIKE.includes(errno)) return 'never'
  throw new SystemError(errno, 'ioctl FICLONE')
}

export function fsync(fd: number): void {
  retried(() => call.fsync(fd), 'fsync')
}

/** Flushes the whole file system of `fd`; write errors since the last call are reported (Linux 5.8). */
export function syncfs(fd: number): void {
  checked(call.syncfs(fd), 'syncfs')
}

/** Takes the lock without waiting; false when another open file has it. */
export function tryFlock(fd: number, kind: 'shared' | 'exclusive'): boolean {
  if (call.flock(fd, (kind === 'shared' ? 1 : 2) | 4) === 0) return true
  const errno = lastErrno()
  if (errno === 11) return false
  throw new SystemError(errno, 'flock')
}

export function unlockFlock(fd: number): void {
  checked(call.flock(fd, 8), 'flock')
}

const advices = { sequential: 2, willneed: 3, dontneed: 4 } as const

/** A hint: `sequential` reads ahead, `willneed` begins to read now, `dontneed` drops clean pages. */
export function fadvise(fd: number, offset: number, length: number, advice: keyof typeof advices): void {
  const errno = call.fadvise(fd, offset, length, advices[advice])
  if (errno !== 0) throw new SystemError(errno, 'posix_fadvise')
}
