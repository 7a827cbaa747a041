import { closeSync, readSync, writeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { FileStat } from '../system/file-stat.js'
import { O_NOFOLLOW, O_NONBLOCK, O_RDONLY, openat, readlinkat } from '../system/syscalls.js'

/** Makes the copy; the place and its metadata are known to it. */
export interface CopyTarget {
  createFile(): number
  finishFile(fd: number): void
  putSymlink(target: string): void
  putDevice(device: {
    readonly type: 'character' | 'block' | 'fifo'
    readonly major: number
    readonly minor: number
  }): void
}

/**
 * A file with its content, a link or a device at `name` in the directory `source`; directories and
 * sockets fail with ISB_ARCHIVE_INVALID.
 */
export function copyEntry(source: number, name: string, stat: FileStat, target: CopyTarget): void {
  if (stat.type === 'symlink') target.putSymlink(readlinkat(source, name))
  else if (stat.type === 'file') {
    const from = openat(source, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    try {
      const to = target.createFile()
      try {
        copyContent(from, to)
      } finally {
        target.finishFile(to)
      }
    } finally {
      closeSync(from)
    }
  } else if (stat.type === 'character' || stat.type === 'block' || stat.type === 'fifo') {
    target.putDevice({ type: stat.type, major: stat.rdevMajor, minor: stat.rdevMinor })
  } else {
    throw new BuilderError(
      'ISB_ARCHIVE_INVALID',
      `"${textOfBytes(name)}" is a ${stat.type}, which cannot be linked`,
    )
  }
}

function copyContent(from: number, to: number): void {
  const buffer = Buffer.allocUnsafe(1 << 20)
  for (;;) {
    const count = readSync(from, buffer, 0, buffer.length, null)
    if (count === 0) return
    for (let at = 0; at < count; ) at += writeSync(to, buffer, at, count - at)
  }
}
