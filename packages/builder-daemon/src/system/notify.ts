import { checked, libc } from './libc.js'

/**
 * sd_notify(3): tells the service manager a state (`READY=1`, `STOPPING=1`) by a datagram to
 * `$NOTIFY_SOCKET`. Nothing happens where there is no manager.
 */
export function notifyManager(state: string, socketPath: string | undefined): void {
  if (socketPath === undefined || socketPath === '') return
  const socket = libc('int socket(int, int, int)')
  const sendto = libc('long sendto(int, const void *, size_t, int, const void *, uint)')
  const close = libc('int close(int)')
  const path = Buffer.from(socketPath, 'utf8')
  // A leading @ stands for the NUL byte of an abstract address (unix(7)).
  if (path[0] === 0x40) path[0] = 0
  const address = Buffer.alloc(2 + path.length + (path[0] === 0 ? 0 : 1))
  address.writeUInt16LE(1, 0)
  path.copy(address, 2)
  const message = Buffer.from(state, 'utf8')
  const fd = checked(socket(1, 2 | 0o2000000, 0), 'socket')
  try {
    checked(sendto(fd, message, message.length, 0, address, address.length), 'sendto', socketPath)
  } finally {
    close(fd)
  }
}
