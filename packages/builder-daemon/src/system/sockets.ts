import { addressOf, checked, lastErrno, libc, retried } from './libc.js'
import { SystemError } from './system-error.js'

/** Descriptor passing over unix sockets, and who is at the other end. */

const call = {
  socketpair: libc('int socketpair(int, int, int, void *)'),
  sendmsg: libc('long sendmsg(int, const void *, int)'),
  recvmsg: libc('long recvmsg(int, void *, int)'),
  getsockopt: libc('int getsockopt(int, int, int, void *, void *)'),
}

const AF_UNIX = 1
const SOCK_SEQPACKET = 5
const SOCK_CLOEXEC = 0o2000000
const SOL_SOCKET = 1
const SO_PEERCRED = 17
const SO_PEERGROUPS = 59
const SO_PEERPIDFD = 77
const SCM_RIGHTS = 1
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const MSG_CMSG_CLOEXEC = 0x40000000
const MSG_TRUNC = 0x20
const MSG_CTRUNC = 0x8
const EAGAIN = 11
const ENOPROTOOPT = 92

/** The kernel's SCM_MAX_FD. */
export const MAX_DESCRIPTORS = 253

/** A connected pair of SOCK_SEQPACKET sockets: messages keep their boundaries. Both close-on-exec. */
export function packetPair(): readonly [number, number] {
  const pair = Buffer.alloc(8)
  checked(call.socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 'socketpair')
  return [pair.readInt32LE(0), pair.readInt32LE(4)]
}

interface Message {
  readonly header: Buffer
  readonly vector: Buffer
  readonly control: Buffer
  readonly data: Buffer
}

// struct msghdr, struct iovec and struct cmsghdr of 64-bit Linux.
function message(data: Buffer, control: Buffer, controlLength: number): Message {
  const vector = Buffer.alloc(16)
  vector.writeBigUInt64LE(addressOf(data), 0)
  vector.writeBigUInt64LE(BigInt(data.length), 8)
  const header = Buffer.alloc(56)
  header.writeBigUInt64LE(addressOf(vector), 16)
  header.writeBigUInt64LE(1n, 24)
  if (controlLength > 0) {
    header.writeBigUInt64LE(addressOf(control), 32)
    header.writeBigUInt64LE(BigInt(controlLength), 40)
  }
  return { header, vector, control, data }
}

/**
 * Sends one message (not empty) with descriptors, which stay the sender's to close. With `wait`
 * false, false means the socket is full.
 */
export function sendMessage(
  fd: number,
  data: Buffer,
  descriptors: readonly number[] = [],
  wait = true,
): boolean {
  if (data.length === 0) throw new Error('an empty packet cannot be told from the end')
  const used = descriptors.length === 0 ? 0 : 16 + descriptors.length * 4
  const control = Buffer.alloc(Math.max(8, (used + 7) & ~7))
  if (used > 0) {
    control.writeBigUInt64LE(BigInt(used), 0)
    control.writeInt32LE(SOL_SOCKET, 8)
    control.writeInt32LE(SCM_RIGHTS, 12)
    descriptors.forEach((one, index) => {
      control.writeInt32LE(one, 16 + index * 4)
    })
  }
  const sent = message(data, control, used === 0 ? 0 : control.length)
  return send(fd, sent, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT))
}

function send(fd: number, sent: Message, flags: number): boolean {
  for (;;) {
    const written = call.sendmsg(fd, sent.header, flags)
    if (written >= 0) return true
    const errno = lastErrno()
    if (errno === EAGAIN && (flags & MSG_DONTWAIT) !== 0) return false
    if (errno !== 4) throw new SystemError(errno, 'sendmsg')
  }
}

export interface ReceivedMessage {
  /** Bytes put into the buffer; 0 = the other end is closed. */
  readonly length: number
  /** The receiver's to close. */
  readonly descriptors: readonly number[]
  /** The message was longer than the buffer, or had more descriptors than fit. */
  readonly truncated: boolean
}

/** Receives one message into `data`. With `wait` false, undefined means there is none now. */
export function receiveMessage(fd: number, data: Buffer, wait = true): ReceivedMessage | undefined {
  const control = Buffer.alloc(16 + MAX_DESCRIPTORS * 4 + 8)
  const received = message(data, control, control.length)
  const flags = MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT)
  let length: number
  for (;;) {
    length = call.recvmsg(fd, received.header, flags)
    if (length >= 0) break
    const errno = lastErrno()
    if (errno === EAGAIN) return undefined
    if (errno !== 4) throw new SystemError(errno, 'recvmsg')
  }
  const result = received.header.readInt32LE(48)
  return {
    length,
    descriptors: decodeDescriptors(control, Number(received.header.readBigUInt64LE(40))),
    truncated: (result & (MSG_TRUNC | MSG_CTRUNC)) !== 0,
  }
}

function decodeDescriptors(control: Buffer, length: number): number[] {
  const descriptors: number[] = []
  for (let at = 0; at + 16 <= length; ) {
    const size = Number(control.readBigUInt64LE(at))
    if (size < 16) break
    if (control.readInt32LE(at + 8) === SOL_SOCKET && control.readInt32LE(at + 12) === SCM_RIGHTS) {
      for (let one = at + 16; one + 4 <= at + size; one += 4) descriptors.push(control.readInt32LE(one))
    }
    at += (size + 7) & ~7
  }
  return descriptors
}

export interface PeerCredentials {
  readonly pid: number
  readonly uid: number
  readonly gid: number
}

/** SO_PEERCRED: as of the moment the peer connected. */
export function peerCredentials(fd: number): PeerCredentials {
  const value = Buffer.alloc(12)
  const length = Buffer.alloc(4)
  length.writeInt32LE(12)
  checked(call.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, length), 'getsockopt')
  return { pid: value.readInt32LE(0), uid: value.readUInt32LE(4), gid: value.readUInt32LE(8) }
}

/**
 * SO_PEERPIDFD: a descriptor of the process that connected, the caller's to close. Undefined where the kernel has none
 * (before Linux 6.5); fails when that process is gone.
 */
export function peerPidfd(fd: number): number | undefined {
  const value = Buffer.alloc(4)
  const length = Buffer.alloc(4)
  length.writeInt32LE(4)
  if (call.getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, value, length) === 0) return value.readInt32LE(0)
  const errno = lastErrno()
  if (errno === ENOPROTOOPT) return undefined
  throw new SystemError(errno, 'getsockopt')
}

/** SO_PEERGROUPS: supplementary groups of the peer (Linux 4.13). */
export function peerGroups(fd: number): number[] {
  let size = 256
  for (;;) {
    const value = Buffer.alloc(size)
    const length = Buffer.alloc(4)
    length.writeInt32LE(size)
    if (call.getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, value, length) === 0) {
      const groups: number[] = []
      for (let at = 0; at < length.readInt32LE(0); at += 4) groups.push(value.readUInt32LE(at))
      return groups
    }
    const errno = lastErrno()
    if (errno !== 34) throw new SystemError(errno, 'getsockopt')
    size = Math.max(length.readInt32LE(0), size * 2)
  }
}

const statfsCall = libc('int fstatfs(int, void *)')

/** `f_type` of the file system the descriptor is on (linux/magic.h). */
export function fileSystemType(fd: number): number {
  const record = Buffer.alloc(128)
  retried(() => statfsCall(fd, record), 'fstatfs')
  return Number(record.readBigUInt64LE(0) & 0xffffffffn)
}
