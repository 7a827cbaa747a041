import { fstatSync, readSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { POLLIN, poll } from '../../system/processes.js'
import { hasErrno } from '../../system/system-error.js'
import type { JobControl } from '../job-control.js'
import type { ByteSource } from '../tar/reader.js'

/** How long a read of a silent pipe may keep a cancelled job alive, milliseconds. */
const WAKE_UP = 200

/**
 * Bytes of `fd`, which stays the caller's: the range of a seekable file (its offset does not move), or
 * a stream to its end. A file shorter than the range fails with ISB_ARCHIVE_INVALID.
 */
export function descriptorSource(
  fd: number,
  range: { readonly offset: number; readonly length: number } | undefined,
  control: JobControl,
): ByteSource {
  if (range === undefined) return fstatSync(fd).isFile() ? wholeFile(fd, control) : stream(fd, control)
  let position = range.offset
  const end = range.offset + range.length
  return {
    read(target, offset, length) {
      control.check()
      const wanted = Math.min(length, end - position)
      if (wanted === 0) return 0
      const count = readSync(fd, target, offset, wanted, position)
      if (count === 0) {
        throw new BuilderError('ISB_ARCHIVE_INVALID', `the archive ends ${end - position} bytes early`)
      }
      position += count
      return count
    },
  }
}

function wholeFile(fd: number, control: JobControl): ByteSource {
  return {
    read(target, offset, length) {
      control.check()
      return readSync(fd, target, offset, length, null)
    },
  }
}

function stream(fd: number, control: JobControl): ByteSource {
  return {
    read(target, offset, length) {
      for (;;) {
        control.check()
        const [ready] = poll([{ fd, events: POLLIN }], WAKE_UP)
        if (ready === 0) continue
        try {
          return readSync(fd, target, offset, length, null)
        } catch (error) {
          if (!hasErrno(error, 'EAGAIN')) throw error
        }
      }
    },
  }
}
