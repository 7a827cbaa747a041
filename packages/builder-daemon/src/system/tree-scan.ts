import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import { addressOf, checked, libc, syscallNumber } from './libc.js'
import {
  AT_EMPTY_PATH,
  AT_SYMLINK_NOFOLLOW,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  openat,
} from './syscalls.js'
import { SystemError } from './system-error.js'

/** Looks at everything below directories with one system call per entry, and keeps nothing of it. */
export interface TreeScan {
  /**
   * The directory itself and what is below it; the descriptor stays open. Fails with a SystemError when something
   * vanishes meanwhile, or directories are deeper than any path leads.
   */
  add(fd: number, wanted?: Wanted): void
}

/** Whether an entry takes part, and what is below it; `path` relative to the directory that was given. */
export type Wanted = (path: string, isDirectory: boolean) => boolean

export interface ScanSink {
  /**
   * Names and stat records, in the order in which the file system lists them: equal bytes exactly when nothing
   * of it changed but times of access and how the file system stores it. Valid during the call.
   */
  bytes(chunk: Buffer): void
  /** The latest mtime or ctime of all, nanoseconds. */
  latest(timeNs: bigint): void
  /** Called once for every device, with a descriptor (perhaps O_PATH) on it. */
  device(fd: number): void
}

const statx = libc('int statx(int, uintptr_t, int, uint, uintptr_t)')
const getdents = libc('long syscall(long, long, uintptr_t, long)')
const lseek = libc('int64_t lseek(int, int64_t, int)')
const BASIC_STATS = 0x7ff
const S_IFDIR = 4

/** Of struct statx what is kept; the rest is spare, and identifies the mount. */
const KEPT = 144
const NAMES = 1 << 16
const RECORDS = 1 << 18
/** Directories in each other, as many as PATH_MAX has room for; each keeps a descriptor open. */
const deepest = 2048
/** The longest name with its padding, and a whole struct statx. */
const ROOM = 512 + 256

const names = Buffer.allocUnsafeSlow(NAMES)
const records = Buffer.allocUnsafeSlow(RECORDS + ROOM)
const longs = new Float64Array(records.buffer)
const words = new Uint32Array(records.buffer)
let namesAt = 0
let recordsAt = 0

export function createTreeScan(sink: ScanSink): TreeScan {
  if (namesAt === 0) {
    namesAt = Number(addressOf(names))
    recordsAt = Number(addressOf(records))
  }
  const number = syscallNumber(217, 61)
  const devices = new Set<number>()
  let lastDevice = -1
  let at = 0
  let seconds = 0
  let nanoseconds = 0

  function flush(): void {
    if (at > 0) sink.bytes(records.subarray(0, at))
    at = 0
  }

  /** Completes the record whose struct statx begins at `at`; gives its type as in d_type. */
  function take(): number {
    const long = at >> 3
    const word = at >> 2
    // Attributes, blocks, attributes' mask, atime, btime: they say nothing about the content.
    for (const index of [1, 6, 7, 8, 9, 10, 11]) longs[long + index] = 0
    noteTime(word + 24)
    noteTime(word + 28)
    at += KEPT
    return ((words[word + 7] ?? 0) >>> 12) & 15
  }

  function noteTime(word: number): void {
    const low = words[word] ?? 0
    const high = (words[word + 1] ?? 0) | 0
    const whole = high === 0 ? low : high * 0x1_0000_0000 + low
    if (whole < seconds) return
    const fraction = words[word + 2] ?? 0
    if (whole === seconds && fraction <= nanoseconds) return
    seconds = whole
    nanoseconds = fraction
  }

  function noteDevice(word: number, dirfd: number, name: () => string): void {
    const device = (words[word + 34] ?? 0) * 0x1_0000_0000 + (words[word + 35] ?? 0)
    if (device === lastDevice) return
    lastDevice = device
    if (devices.has(device)) return
    devices.add(device)
    const fd = openat(dirfd, name(), O_PATH | O_NOFOLLOW)
    try {
      sink.device(fd)
    } finally {
      closeSync(fd)
    }
  }

  /** What ends the list of a directory: no name begins with a zero. */
  function mark(count: number): void {
    if (at > RECORDS - ROOM) flush()
    longs[at >> 3] = 0
    longs[(at >> 3) + 1] = count
    at += 16
  }

  function list(dirfd: number, prefix: string, wanted: Wanted | undefined): string[] {
    const directories: string[] = []
    let count = 0
    for (;;) {
      const filled = checked(getdents(number, dirfd, namesAt, NAMES), 'getdents64')
      if (filled === 0) break
      for (let entry = 0; entry < filled; ) {
        const name = entry + 19
        entry += (names[entry + 16] ?? 0) | ((names[entry + 17] ?? 0) << 8)
        if (names[name] === 0x2e && isDots(name)) continue
        if (at > RECORDS - ROOM) flush()
        const start = at
        let end = name
        for (let byte = names[end] ?? 0; byte !== 0; byte = names[end] ?? 0) {
          records[at++] = byte
          end += 1
        }
        do records[at++] = 0
        while ((at & 7) !== 0)
        checked(statx(dirfd, namesAt + name, AT_SYMLINK_NOFOLLOW, BASIC_STATS, recordsAt + at), 'statx')
        const word = at >> 2
        const isDirectory = (((words[word + 7] ?? 0) >>> 12) & 15) === S_IFDIR
        if (wanted !== undefined && !wanted(prefix + text(name, end), isDirectory)) {
          at = start
          continue
        }
        noteDevice(word, dirfd, () => text(name, end))
        take()
        count += 1
        if (isDirectory) directories.push(text(name, end))
      }
    }
    mark(count)
    return directories
  }

  function below(dirfd: number, prefix: string, wanted: Wanted | undefined, depth: number): void {
    if (depth > deepest) throw new SystemError(constants.errno.ENAMETOOLONG, 'statx')
    checked(lseek(dirfd, 0, 0), 'lseek')
    for (const name of list(dirfd, prefix, wanted)) {
      const fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
      try {
        below(fd, wanted === undefined ? '' : `${prefix}${name}/`, wanted, depth + 1)
      } finally {
        closeSync(fd)
      }
    }
  }

  return {
    add(fd, wanted) {
      names[0] = 0
      checked(statx(fd, namesAt, AT_EMPTY_PATH, BASIC_STATS, recordsAt + at), 'statx')
      noteDevice(at >> 2, fd, () => '.')
      take()
      below(fd, '', wanted, 0)
      flush()
      sink.latest(BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds))
    },
  }
}

function isDots(name: number): boolean {
  return names[name + 1] === 0 || (names[name + 1] === 0x2e && names[name + 2] === 0)
}

function text(from: number, to: number): string {
  return names.toString('latin1', from, to)
}
