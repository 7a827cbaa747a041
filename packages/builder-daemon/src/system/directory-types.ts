import { closeSync, openSync } from 'node:fs'
import { checked, libc } from './libc.js'
import { O_DIRECTORY, O_RDONLY } from './syscalls.js'

const getdents = libc('long getdents64(int, void *, size_t)')
const DT_UNKNOWN = 0

/** Whether reading this directory, which must not be empty, tells the type of each entry (overlayfs needs it). */
export function reportsEntryTypes(directory: string): boolean {
  const fd = openSync(directory, O_RDONLY | O_DIRECTORY)
  try {
    const buffer = Buffer.alloc(4096)
    const length = checked(getdents(fd, buffer, buffer.length), 'getdents64', directory)
    // struct linux_dirent64: d_ino 8, d_off 8, d_reclen 2, d_type 1, d_name (getdents(2)).
    for (let at = 0; at < length; at += buffer.readUInt16LE(at + 16)) {
      if (buffer[at + 18] === DT_UNKNOWN) return false
    }
    return length > 0
  } finally {
    closeSync(fd)
  }
}
