import { checked, cString, lastErrno, libc, otherCString } from './libc.js'
import { SystemError } from './system-error.js'

/**
 * Extended attributes with binary values; names are latin1 bytes. The path variants never follow a
 * symbolic link in the last component; paths are ones the caller made safe (`/proc/self/fd/N/name`).
 */

const call = {
  llist: libc('long llistxattr(const void *, void *, size_t)'),
  flist: libc('long flistxattr(int, void *, size_t)'),
  lget: libc('long lgetxattr(const void *, const void *, void *, size_t)'),
  fget: libc('long fgetxattr(int, const void *, void *, size_t)'),
  lset: libc('int lsetxattr(const void *, const void *, const void *, size_t, int)'),
  fset: libc('int fsetxattr(int, const void *, const void *, size_t, int)'),
  lremove: libc('int lremovexattr(const void *, const void *)'),
  fremove: libc('int fremovexattr(int, const void *)'),
}

// The kernel's limits for a list and for a value are 64 KiB each (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const scratch = Buffer.allocUnsafeSlow(65536)
const ENODATA = 61
const ENOTSUP = 95
const none: readonly string[] = []

function decodeList(length: number, errno: number, syscall: string, path?: string): readonly string[] {
  if (length === 0) return none
  if (length < 0) {
    if (errno === ENOTSUP) return none
    throw new SystemError(errno, syscall, path)
  }
  return scratch.toString('latin1', 0, length - 1).split('\0')
}

/** Names on the entry; none where the file system has no attributes. */
export function llistxattr(path: string): readonly string[] {
  const length = call.llist(cString(path, 'llistxattr'), scratch, scratch.length)
  return decodeList(length, length < 0 ? lastErrno() : 0, 'llistxattr', path)
}

export function flistxattr(fd: number): readonly string[] {
  const length = call.flist(fd, scratch, scratch.length)
  return decodeList(length, length < 0 ? lastErrno() : 0, 'flistxattr')
}

function decodeValue(length: number, errno: number, syscall: string, path?: string): Buffer | undefined {
  if (length >= 0) return Buffer.from(scratch.subarray(0, length))
  if (errno === ENODATA || errno === ENOTSUP) return undefined
  throw new SystemError(errno, syscall, path)
}

/** undefined when the entry has no such attribute. */
export function lgetxattr(path: string, name: string): Buffer | undefined {
  const bytes = cString(path, 'lgetxattr')
  const length = call.lget(bytes, otherCString(name, 'lgetxattr'), scratch, scratch.length)
  return decodeValue(length, length < 0 ? lastErrno() : 0, 'lgetxattr', path)
}

export function fgetxattr(fd: number, name: string): Buffer | undefined {
  const length = call.fget(fd, otherCString(name, 'fgetxattr'), scratch, scratch.length)
  return decodeValue(length, length < 0 ? lastErrno() : 0, 'fgetxattr')
}

export function lsetxattr(path: string, name: string, value: Buffer): void {
  const bytes = cString(path, 'lsetxattr')
  checked(call.lset(bytes, otherCString(name, 'lsetxattr'), value, value.length, 0), 'lsetxattr', path)
}

export function fsetxattr(fd: number, name: string, value: Buffer): void {
  checked(call.fset(fd, otherCString(name, 'fsetxattr'), value, value.length, 0), 'fsetxattr')
}

export function lremovexattr(path: string, name: string): void {
  const bytes = cString(path, 'lremovexattr')
  checked(call.lremove(bytes, otherCString(name, 'lremovexattr')), 'lremovexattr', path)
}

export function fremovexattr(fd: number, name: string): void {
  checked(call.fremove(fd, otherCString(name, 'fremovexattr')), 'fremovexattr')
}

/** Path of an entry below a directory descriptor for the `l*` calls, which take no descriptor. */
export function pathBelow(dirfd: number, name: string): string {
  return `/proc/self/fd/${dirfd}/${name}`
}
