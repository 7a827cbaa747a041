import { checked, cString, lastErrno, libc, libcLater, otherCString, retried } from './libc.js'
import { SystemError } from './system-error.js'

/** Mounts, identity, namespaces, pipes and processes. Failures are SystemErrors. */

export const MS_RDONLY = 1
export const MS_NOSUID = 2
export const MS_NODEV = 4
export const MS_NOEXEC = 8
export const MS_REMOUNT = 32
export const MS_BIND = 4096
export const MS_MOVE = 8192
export const MS_REC = 16384
export const MS_PRIVATE = 1 << 18
export const MS_SLAVE = 1 << 19
export const MS_SHARED = 1 << 20
export const MNT_FORCE = 1
export const MNT_DETACH = 2
export const UMOUNT_NOFOLLOW = 8

export const CLONE_FS = 0x200
export const CLONE_NEWNS = 0x20000
export const CLONE_NEWCGROUP = 0x2000000
export const CLONE_NEWUTS = 0x4000000
export const CLONE_NEWIPC = 0x8000000
export const CLONE_NEWPID = 0x20000000
export const CLONE_NEWNET = 0x40000000

export const PR_SET_PDEATHSIG = 1
export const PR_SET_DUMPABLE = 4
export const PR_SET_KEEPCAPS = 8
export const PR_CAPBSET_DROP = 24
export const PR_SET_CHILD_SUBREAPER = 36
export const PR_SET_NO_NEW_PRIVS = 38
export const PR_CAP_AMBIENT = 47
export const PR_CAP_AMBIENT_CLEAR_ALL = 4

const call = {
  mount: libc('int mount(const void *, const void *, const void *, ulong, const void *)'),
  umount2: libc('int umount2(const void *, int)'),
  unshare: libc('int unshare(int)'),
  umask: libc('uint umask(uint)'),
  setns: libc('int setns(int, int)'),
  setresuid: libc('int setresuid(uint, uint, uint)'),
  setresgid: libc('int setresgid(uint, uint, uint)'),
  setgroups: libc('int setgroups(size_t, const void *)'),
  prctl: libc('int prctl(int, ulong, ulong, ulong, ulong)'),
  pipe2: libc('int pipe2(void *, int)'),
  kill: libc('int kill(int, int)'),
  pidfdOpen: libc('long syscall(long, long, long)'),
  pidfdSendSignal: libc('long syscall(long, long, long, long, long)'),
  poll: libc('int poll(void *, ulong, int)'),
  fcntl: libc('int fcntl(int, int, long)'),
}

function cText(text: string): Buffer {
  return Buffer.from(`${text}\0`, 'latin1')
}

/** At most 4095 bytes of `data`; the kernel reads one page. */
export function mount(source: string, target: string, type: string, flags: number, data = ''): void {
  if (data.length > 4095) throw new SystemError(7, 'mount', target)
  const result = call.mount(
    otherCString(source, 'mount'),
    cString(target, 'mount'),
    cText(type),
    flags,
    data === '' ? null : cText(data),
  )
  checked(result, 'mount', target)
}

export function umount2(target: string, flags: number): void {
  checked(call.umount2(cString(target, 'umount2'), flags), 'umount2', target)
}

const unmountLater = libcLater('int umount2(const char *, int)')

/**
 * Takes what is mounted at `path`, a text, out of the tree with all below it, as MNT_DETACH does. Twice the kernel waits
 * until no processor can see it any more, which takes long when many processes run: somebody else's thread waits.
 * False when it could not be done.
 */
export async function detachLater(path: string): Promise<boolean> {
  return (await unmountLater(path, MNT_DETACH)) === 0
}

/** Per thread for CLONE_FS, and for CLONE_NEWNS with it. */
export function unshare(flags: number): void {
  checked(call.unshare(flags), 'unshare')
}

/** Of this thread alone after unshare(CLONE_FS); Node.js sets it for no thread but the main one. */
export function setUmask(mask: number): void {
  call.umask(mask)
}

export function setns(fd: number, kind: number): void {
  checked(call.setns(fd, kind), 'setns')
}

/** All threads of the process (glibc broadcasts it). */
export function setresuid(real: number, effective: number, saved: number): void {
  checked(call.setresuid(real, effective, saved), 'setresuid')
}

export function setresgid(real: number, effective: number, saved: number): void {
  checked(call.setresgid(real, effective, saved), 'setresgid')
}

export function setgroups(groups: readonly number[]): void {
  const list = Buffer.alloc(Math.max(4, groups.length * 4))
  groups.forEach((group, index) => {
    list.writeUInt32LE(group, index * 4)
  })
  checked(call.setgroups(groups.length, list), 'setgroups')
}

export function prctl(option: number, a = 0, b = 0, c = 0, d = 0): number {
  return checked(call.prctl(option, a, b, c, d), 'prctl')
}

const ends = Buffer.alloc(8)

/** Both ends close-on-exec; `flags` may add O_NONBLOCK. */
export function pipe2(flags = 0): { readonly read: number; readonly write: number } {
  checked(call.pipe2(ends, flags | 0o2000000), 'pipe2')
  return { read: ends.readInt32LE(0), write: ends.readInt32LE(4) }
}

const O_NONBLOCK = 0o4000

export function setNonBlocking(fd: number, on: boolean): void {
  const flags = checked(call.fcntl(fd, 3, 0), 'fcntl')
  checked(call.fcntl(fd, 4, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), 'fcntl')
}

/** F_SETPIPE_SZ; a refusal (EPERM above the user's limit) leaves the size as it is and gives false. */
export function trySetPipeSize(fd: number, bytes: number): boolean {
  return call.fcntl(fd, 1031, bytes) >= 0
}

/** False when there is no such process. */
export function kill(pid: number, signal: number): boolean {
  if (call.kill(pid, signal) === 0) return true
  const errno = lastErrno()
  if (errno === 3) return false
  throw new SystemError(errno, 'kill')
}

export function pidfdOpen(pid: number): number {
  return checked(call.pidfdOpen(434, pid, 0), 'pidfd_open')
}

/** False when the process has ended. */
export function pidfdSendSignal(pidfd: number, signal: number): boolean {
  if (call.pidfdSendSignal(424, pidfd, signal, 0, 0) === 0) return true
  const errno = lastErrno()
  if (errno === 3) return false
  throw new SystemError(errno, 'pidfd_send_signal')
}

export const POLLIN = 1
export const POLLOUT = 4
export const POLLERR = 8
export const POLLHUP = 16

export interface Polled {
  readonly fd: number
  readonly events: number
}

/** `revents` of each descriptor, in order; all 0 after the time-out (milliseconds, -1 = none). */
export function poll(descriptors: readonly Polled[], timeout: number): number[] {
  const list = Buffer.alloc(descriptors.length * 8)
  descriptors.forEach((one, index) => {
    list.writeInt32LE(one.fd, index * 8)
    list.writeInt16LE(one.events, index * 8 + 4)
  })
  retried(() => call.poll(list, descriptors.length, timeout), 'poll')
  return descriptors.map((_, index) => list.readInt16LE(index * 8 + 6))
}
