import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { AT_FDCWD, checked, cString, lastErrno, libc, syscallNumber } from './libc.js'
import { AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW } from './syscalls.js'
import { SystemError } from './system-error.js'

export type FileType = 'file' | 'directory' | 'symlink' | 'character' | 'block' | 'fifo' | 'socket'

export interface FileStat {
  readonly type: FileType
  /** Permission bits with setuid, setgid and sticky (07777), without the type. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly size: number
  readonly nlink: number
  /** As in stat(2), so equal to what `fs.fstatSync(fd, { bigint: true })` gives. */
  readonly dev: bigint
  readonly ino: bigint
  readonly rdevMajor: number
  readonly rdevMinor: number
  readonly mtimeNs: bigint
  readonly ctimeNs: bigint
}

/** A character device 0:0 is how overlayfs stores a deletion in an upper directory. */
export function isWhiteoutDevice(stat: FileStat): boolean {
  return stat.type === 'character' && stat.rdevMajor === 0 && stat.rdevMinor === 0
}

const statxCall = libc('int statx(int, const void *, int, uint, void *)')
const BASIC_STATS = 0x7ff
const record = Buffer.alloc(256)

const types: readonly (FileType | undefined)[] = [
  undefined,
  'fifo',
  'character',
  undefined,
  'directory',
  undefined,
  'block',
  undefined,
  'file',
  undefined,
  'symlink',
  undefined,
  'socket',
]

let knownMajor = -1
let knownMinor = -1
let knownDev = 0n

function deviceNumber(major: number, minor: number): bigint {
  if (major !== knownMajor || minor !== knownMinor) {
    const high = BigInt(major)
    const low = BigInt(minor)
    knownDev =
      ((high & 0xfffff000n) << 32n) | ((high & 0xfffn) << 8n) | ((low & 0xffffff00n) << 12n) | (low & 0xffn)
    knownMajor = major
    knownMinor = minor
  }
  return knownDev
}

function nanoseconds(bytes: Buffer, at: number): bigint {
  return bytes.readBigInt64LE(at) * 1_000_000_000n + BigInt(bytes.readUInt32LE(at + 8))
}

/** What a struct statx (linux/stat.h) at `at` says. */
export function decodeStatx(bytes: Buffer, at: number): FileStat {
  const mode = bytes.readUInt16LE(at + 28)
  return {
    type: types[mode >> 12] ?? 'file',
    mode: mode & 0o7777,
    uid: bytes.readUInt32LE(at + 20),
    gid: bytes.readUInt32LE(at + 24),
    size: bytes.readUInt32LE(at + 40) + bytes.readUInt32LE(at + 44) * 0x1_0000_0000,
    nlink: bytes.readUInt32LE(at + 16),
    dev: deviceNumber(bytes.readUInt32LE(at + 136), bytes.readUInt32LE(at + 140)),
    ino: bytes.readBigUInt64LE(at + 32),
    rdevMajor: bytes.readUInt32LE(at + 128),
    rdevMinor: bytes.readUInt32LE(at + 132),
    mtimeNs: nanoseconds(bytes, at + 112),
    ctimeNs: nanoseconds(bytes, at + 96),
  }
}

function decode(): FileStat {
  return decodeStatx(record, 0)
}

/** Does not follow a symbolic link at `path` unless `flags` is 0. */
export function fstatat(dirfd: number, path: string, flags = AT_SYMLINK_NOFOLLOW): FileStat {
  checked(statxCall(dirfd, cString(path, 'statx'), flags, BASIC_STATS, record), 'statx', path)
  return decode()
}

/** Like `fstatat`, but undefined when there is no such entry. */
export function lstatIfExists(dirfd: number, path: string): FileStat | undefined {
  if (statxCall(dirfd, cString(path, 'statx'), AT_SYMLINK_NOFOLLOW, BASIC_STATS, record) < 0) {
    const errno = lastErrno()
    if (errno === 2) return undefined
    throw new SystemError(errno, 'statx', path)
  }
  return decode()
}

/** Of any descriptor, O_PATH ones too. */
export function fstat(fd: number): FileStat {
  checked(statxCall(fd, cString('', 'statx'), AT_EMPTY_PATH, BASIC_STATS, record), 'statx')
  return decode()
}

export interface FileStamp {
  readonly size: number
  /** Permission bits as in `FileStat`. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** The mtime: seconds since the epoch, whole, and nanoseconds of the next. */
  readonly seconds: number
  readonly nanoseconds: number
}

const S_IFREG = 0o100000
const ENOENT = 2
const ENOTDIR = 20

/** Whether the open file is a regular one that stat tells just this of. */
export function hasStamp(fd: number, stamp: FileStamp): boolean {
  checked(statxCall(fd, cString('', 'statx'), AT_EMPTY_PATH, BASIC_STATS, record), 'statx')
  return isRecordOf(stamp)
}

/** The same of an entry; false, too, where there is none. */
export function hasStampAt(dirfd: number, path: string, stamp: FileStamp): boolean {
  const bytes = cString(path, 'statx')
  if (statxCall(dirfd, bytes, AT_SYMLINK_NOFOLLOW, BASIC_STATS, record) >= 0) return isRecordOf(stamp)
  const errno = lastErrno()
  if (errno === ENOENT || errno === ENOTDIR) return false
  throw new SystemError(errno, 'statx', path)
}

function isRecordOf(stamp: FileStamp): boolean {
  return (
    record.readUInt16LE(28) === (S_IFREG | stamp.mode) &&
    record.readUInt32LE(20) === stamp.uid &&
    record.readUInt32LE(24) === stamp.gid &&
    record.readUInt32LE(40) + record.readUInt32LE(44) * 0x1_0000_0000 === stamp.size &&
    record.readUInt32LE(112) + record.readInt32LE(116) * 0x1_0000_0000 === stamp.seconds &&
    record.readUInt32LE(120) === stamp.nanoseconds
  )
}

/** Follows symbolic links; for paths the daemon itself made. */
export function statPath(path: string): FileStat {
  return fstatat(AT_FDCWD, path, 0)
}

const getdents = libc('long syscall(long, long, void *, long)')
const lseek = libc('int64_t lseek(int, int64_t, int)')
const entries = Buffer.allocUnsafeSlow(65536)

/** Names of one directory; as many as a thread can hold and sort. */
const maxNames = 4_000_000

/**
 * Names in the open directory (not O_PATH) but `.` and `..`, as latin1 bytes, in no particular order. Fails with
 * ISB_LIMIT_EXCEEDED when there are more than `most`.
 */
export function readDirectory(fd: number, most = maxNames): string[] {
  checked(lseek(fd, 0, 0), 'lseek')
  const names: string[] = []
  const number = syscallNumber(217, 61)
  for (;;) {
    const filled = checked(getdents(number, fd, entries, entries.length), 'getdents64')
    if (filled === 0) return names
    for (let at = 0; at < filled; ) {
      const length = entries.readUInt16LE(at + 16)
      const end = entries.indexOf(0, at + 19)
      const name = entries.toString('latin1', at + 19, end)
      if (name !== '.' && name !== '..') names.push(name)
      at += length
    }
    if (names.length > most) throw tooManyNames(most)
  }
}

function tooManyNames(most: number): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', `a directory has more than ${most} entries`, {
    hint: 'Divide its files among several directories.',
  })
}
