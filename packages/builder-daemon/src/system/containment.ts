import { readdirSync } from 'node:fs'
import { addressOf, checked, cString, lastErrno, libc, otherCString, syscallNumber } from './libc.js'
import { SystemError } from './system-error.js'

/** Children, and what a process does to itself before it becomes a container's first process. */

const call = {
  waitid: libc('int waitid(int, uint, void *, int)'),
  pivotRoot: libc('long syscall(long, const void *, const void *)'),
  sethostname: libc('int sethostname(const void *, size_t)'),
  capset: libc('long syscall(long, const void *, const void *)'),
  setrlimit: libc('int setrlimit(int, const void *)'),
  setsid: libc('int setsid()'),
  signal: libc('long signal(int, long)'),
  sigmask: libc('int pthread_sigmask(int, const void *, void *)'),
  closeRange: libc('long syscall(long, long, long, long)'),
  fcntl: libc('int fcntl(int, int, long)'),
  socket: libc('int socket(int, int, int)'),
  ioctl: libc('int ioctl(int, ulong, void *)'),
  close: libc('int close(int)'),
  execve: libc('int execve(const void *, const void *, const void *)'),
  access: libc('int faccessat(int, const void *, int, int)'),
}

const ENOENT = 2
const ECHILD = 10
const ENOSYS = 38
const EINVAL = 22

const P_ALL = 0
const P_PID = 1
const WNOHANG = 1
const WEXITED = 4
const WNOWAIT = 0x0100_0000
const CLD_EXITED = 1

export type ChildStatus =
  | { readonly kind: 'exited'; readonly code: number }
  | { readonly kind: 'signalled'; readonly signal: number }

const info = Buffer.alloc(128)

/** Some child that has ended, which stays as it is (a zombie); undefined when there is none. */
export function peekEndedChild(): number | undefined {
  info.fill(0)
  if (call.waitid(P_ALL, 0, info, WNOHANG | WEXITED | WNOWAIT) < 0) {
    const errno = lastErrno()
    if (errno === ECHILD) return undefined
    throw new SystemError(errno, 'waitid')
  }
  // siginfo_t on 64-bit Linux: si_code at 8, si_pid at 16, si_status at 24.
  const pid = info.readInt32LE(16)
  return pid === 0 ? undefined : pid
}

/** Takes the status of a child that has ended; undefined when it has not, or is not ours. */
export function reapChild(pid: number): ChildStatus | undefined {
  info.fill(0)
  if (call.waitid(P_PID, pid, info, WNOHANG | WEXITED) < 0) {
    const errno = lastErrno()
    if (errno === ECHILD) return undefined
    throw new SystemError(errno, 'waitid')
  }
  if (info.readInt32LE(16) === 0) return undefined
  const status = info.readInt32LE(24)
  return info.readInt32LE(8) === CLD_EXITED
    ? { kind: 'exited', code: status }
    : { kind: 'signalled', signal: status }
}

/** pivot_root(2); `put` may be the new root itself, which then has the old one on top of it. */
export function pivotRoot(root: string, put: string): void {
  const result = call.pivotRoot(
    syscallNumber(155, 41),
    cString(root, 'pivot_root'),
    otherCString(put, 'pivot_root'),
  )
  checked(result, 'pivot_root', root)
}

export function sethostname(name: string): void {
  const bytes = Buffer.from(name, 'utf8')
  checked(call.sethostname(bytes, bytes.length), 'sethostname')
}

/** Of the calling thread, as bit masks. */
export function capset(effective: bigint, permitted: bigint, inheritable: bigint): void {
  const header = Buffer.alloc(8)
  header.writeUInt32LE(0x2008_0522, 0)
  const data = Buffer.alloc(24)
  for (const [index, mask] of [effective, permitted, inheritable].entries()) {
    data.writeUInt32LE(Number(mask & 0xffff_ffffn), index * 4)
    data.writeUInt32LE(Number(mask >> 32n), 12 + index * 4)
  }
  checked(call.capset(syscallNumber(126, 91), header, data), 'capset')
}

const resources = { RLIMIT_CORE: 4, RLIMIT_NOFILE: 7 } as const

export function setrlimit(resource: keyof typeof resources, soft: number, hard: number): void {
  const limit = Buffer.alloc(16)
  limit.writeBigUInt64LE(BigInt(soft), 0)
  limit.writeBigUInt64LE(BigInt(hard), 8)
  checked(call.setrlimit(resources[resource], limit), 'setrlimit')
}

export function setsid(): void {
  checked(call.setsid(), 'setsid')
}

/** Every signal back to its default and unblocked: ignored signals would stay ignored across execve. */
export function resetSignals(): void {
  for (let signal = 1; signal <= 64; signal += 1) call.signal(signal, 0)
  checked(call.sigmask(2, Buffer.alloc(128), null), 'pthread_sigmask')
}

/**
 * Descriptors 0 to 2, which Node.js marks close-on-exec at its start, survive execve, and no other
 * does. Needs /proc on kernels before 5.11.
 */
export function inheritOnlyStdio(): void {
  for (const fd of [0, 1, 2]) checked(call.fcntl(fd, 2, 0), 'fcntl')
  if (call.closeRange(436, 3, 0x7fff_ffff, 4) === 0) return
  const errno = lastErrno()
  if (errno !== ENOSYS && errno !== EINVAL) throw new SystemError(errno, 'close_range')
  for (const name of readdirSync('/proc/self/fd')) {
    if (Number(name) > 2) call.fcntl(Number(name), 2, 1)
  }
}

/** Brings `lo` up in a new network namespace (netdevice(7), SIOCSIFFLAGS). */
export function enableLoopback(): void {
  const fd = checked(call.socket(2, 2 | 0o2000000, 0), 'socket')
  try {
    const request = Buffer.alloc(40)
    request.write('lo', 'latin1')
    request.writeUInt16LE(0x41, 16)
    checked(call.ioctl(fd, 0x8914, request), 'ioctl SIOCSIFFLAGS')
  } finally {
    call.close(fd)
  }
}

/** True when the calling process, with its effective identity, may execute the file. */
export function mayExecute(path: string): boolean {
  const AT_FDCWD = -100
  const X_OK = 1
  const AT_EACCESS = 0x200
  return call.access(AT_FDCWD, cString(path, 'faccessat'), X_OK, AT_EACCESS) === 0
}

function pointers(texts: readonly string[]): { table: Buffer; strings: readonly Buffer[] } {
  const strings = texts.map((text) => Buffer.from(`${text}\0`, 'utf8'))
  const table = Buffer.alloc((strings.length + 1) * 8)
  for (const [index, text] of strings.entries()) table.writeBigUInt64LE(addressOf(text), index * 8)
  return { table, strings }
}

/** Replaces the process; returns only by throwing. The calling thread's identity and capabilities stay. */
export function execve(path: string, args: readonly string[], env: readonly string[]): never {
  const argv = pointers(args)
  const envp = pointers(env)
  const file = Buffer.from(`${path}\0`, 'utf8')
  call.execve(file, argv.table, envp.table)
  const errno = lastErrno()
  // Named here so that the memory the tables point to outlives the call.
  const alive = argv.strings.length + envp.strings.length
  throw new SystemError(alive < 0 ? ENOENT : errno, 'execve', Buffer.from(path, 'utf8').toString('latin1'))
}
