import { closeSync } from 'node:fs'
import { fadvise, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, openat } from '../system/syscalls.js'

/**
 * Small files are read one after the other, so each waits for the disk alone where nothing of them is in memory: the kernel
 * reads ahead within a file only. Who notices such a wait asks for the files that come next, all at once. Where everything
 * is in memory, as it is most often, that would cost more than it saves.
 */

/** A small read from memory takes a few microseconds, one from the fastest of disks fifty; milliseconds. */
const waitTime = 0.03
/** And what a bigger one may take from memory, milliseconds for each byte. */
const copyTime = 1e-6
/** Of a longer file the kernel reads the rest ahead by itself. */
const aheadBytes = 1 << 17

/** True when `read`, of so many bytes, took so long that it has waited for a disk, or for something as slow. */
export function hasWaited(read: () => void, bytes: number): boolean {
  const begun = performance.now()
  read()
  return performance.now() - begun > waitTime + bytes * copyTime
}

/** Lets the kernel begin to read a file. A hint: whoever opens it afterwards says what is wrong with it. */
export function readAhead(dirfd: number, name: string): void {
  let fd: number
  try {
    fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  } catch {
    return
  }
  try {
    fadvise(fd, 0, aheadBytes, 'willneed')
  } catch {
    // Not a file by now, which is for its reader to find.
  } finally {
    closeSync(fd)
  }
}
