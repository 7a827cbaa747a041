import { closeSync, ftruncateSync, openSync, unlinkSync, writeSync } from 'node:fs'
import { join } from 'node:path'

/** A nameless file that holds the files of archives until the layer is written. */
export interface Spool extends Disposable {
  readonly fd: number
  /** Room for `size` bytes; the offset where it begins. Unwritten parts read as zeros. */
  reserve(size: number): number
  write(bytes: Buffer, offset: number): void
}

/** Made on first use; `directory` is one that nobody else can write to. */
export function createSpool(directory: string): Spool {
  let fd: number | undefined
  let end = 0

  function open(): number {
    if (fd === undefined) {
      const path = join(directory, 'spool')
      fd = openSync(path, 'wx+', 0o600)
      unlinkSync(path)
    }
    return fd
  }

  return {
    get fd() {
      return open()
    },
    reserve(size) {
      const offset = end
      end += size
      if (size > 0) ftruncateSync(open(), end)
      return offset
    },
    write(bytes, offset) {
      const target = open()
      for (let at = 0; at < bytes.length; ) {
        at += writeSync(target, bytes, at, bytes.length - at, offset + at)
      }
    },
    [Symbol.dispose]() {
      if (fd !== undefined) closeSync(fd)
      fd = undefined
    },
  }
}
