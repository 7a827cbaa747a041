import { constants } from 'node:os'
import { checked, lastErrno, libc } from './libc.js'
import { SystemError } from './system-error.js'

/** Unix stream sockets that listen while nobody takes the connections yet: the kernel keeps those that come. */

const call = {
  socket: libc('int socket(int, int, int)'),
  bind: libc('int bind(int, const void *, uint)'),
  listen: libc('int listen(int, int)'),
  connect: libc('int connect(int, const void *, uint)'),
  poll: libc('int poll(void *, unsigned long, int)'),
  close: libc('int close(int)'),
}

const AF_UNIX = 1
const SOCK_STREAM = 1
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const POLLIN = 1

/** Paths of sockets are text here, those of system errors bytes. */
function failure(errno: number, syscall: string, path: string): SystemError {
  return new SystemError(errno, syscall, Buffer.from(path, 'utf8').toString('latin1'))
}

/** sockaddr_un (unix(7)): the path and its NUL have 108 bytes. */
function addressOf(path: string): Buffer {
  const bytes = Buffer.from(path, 'utf8')
  if (bytes.length > 107) throw failure(constants.errno.ENAMETOOLONG, 'bind', path)
  const address = Buffer.alloc(2 + bytes.length + 1)
  address.writeUInt16LE(AF_UNIX, 0)
  bytes.copy(address, 2)
  return address
}

/** Makes a socket at `path` and binds it there; not yet listening. The descriptor is close-on-exec. */
export function bindSocket(path: string): number {
  const address = addressOf(path)
  const fd = checked(call.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'socket')
  try {
    checked(call.bind(fd, address, address.length), 'bind', path)
  } catch (error) {
    call.close(fd)
    throw error
  }
  return fd
}

/** From now on the kernel keeps up to `waiting` connections until they are taken (listen(2)). */
export function listenOn(fd: number, waiting: number): void {
  checked(call.listen(fd, waiting), 'listen')
}

/** Somebody has connected and was not taken yet. */
export function hasWaiting(fd: number): boolean {
  const record = Buffer.alloc(8)
  record.writeInt32LE(fd, 0)
  record.writeInt16LE(POLLIN, 4)
  return call.poll(record, 1, 0) > 0
}

/** Whether somebody listens at the socket; whose listener is gone refuses connections. */
export function isListening(path: string): boolean {
  const address = addressOf(path)
  const fd = checked(call.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'socket')
  try {
    if (call.connect(fd, address, address.length) === 0) return true
    const errno = lastErrno()
    if (errno === constants.errno.ECONNREFUSED) return false
    // As many as it lets wait do so.
    if (errno === constants.errno.EAGAIN) return true
    throw failure(errno, 'connect', path)
  } finally {
    call.close(fd)
  }
}
