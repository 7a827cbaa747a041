import { closeSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { SealResult, WriteLayerParams } from '../ports/layer-worker.js'
import { fstat } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
import { POLLOUT, poll } from '../system/processes.js'
import { lastOf, openCanonical, parentOf } from '../system/rooted.js'
import { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, openat } from '../system/syscalls.js'
import { hasErrno } from '../system/system-error.js'
import { readHeaders } from './headers-file.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { sealTo } from './seal.js'
import { createCollector } from './tar/collector.js'

/**
 * Writes the tar of a layer directory: byte for byte as it came when its headers were kept, else the
 * canonical one. What does not match the diff ID fails with ISB_IMAGE_DAMAGED, but only at the end:
 * the bytes are written by then and the caller throws them away.
 */
export function writeLayerJob(params: WriteLayerParams, control: JobControl = uncontrolled): SealResult {
  return writeLayerTo(params, descriptorOutput(params.fd, control), control)
}

/** The same, giving the bytes to `output` as they come (valid during the call). */
export function writeLayerTo(
  params: Omit<WriteLayerParams, 'fd'>,
  output: (bytes: Buffer) => void,
  control: JobControl,
): SealResult {
  const result = params.keepsHeaders
    ? writeKept(params.layerDirectory, output, control)
    : sealTo({ upper: join(params.layerDirectory, 'diff'), fixedTime: undefined }, control, output)
  if (params.expectedDiffId !== undefined && result.diffId !== params.expectedDiffId) {
    throw damaged(`its content is ${result.diffId} instead of ${params.expectedDiffId}`)
  }
  return result
}

/** Writes everything to `fd`, waiting where it is a full pipe or socket. */
export function descriptorOutput(fd: number, control: JobControl): (bytes: Buffer) => void {
  return (bytes) => {
    for (let at = 0; at < bytes.length; ) {
      control.check()
      try {
        at += writeSync(fd, bytes, at)
      } catch (error) {
        if (!hasErrno(error, 'EAGAIN')) throw error
        poll([{ fd, events: POLLOUT }], 200)
      }
    }
  }
}

function writeKept(layerDirectory: string, output: (bytes: Buffer) => void, control: JobControl): SealResult {
  const collector = createCollector(output)
  const rootFd = openat(AT_FDCWD, join(layerDirectory, 'diff'), O_RDONLY | O_DIRECTORY)
  let parentPath = ''
  let parentFd = -1
  let entries = 0

  function openFile(path: string): number {
    const parent = parentOf(path)
    if (parentFd < 0 || parent !== parentPath) {
      if (parentFd >= 0) closeSync(parentFd)
      parentFd = -1
      parentFd = openCanonical(rootFd, parent)
      parentPath = parent
    }
    return openat(parentFd, lastOf(path), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  }
  function content(path: string, size: number): void {
    let fd: number
    try {
      fd = openFile(path)
    } catch (cause) {
      throw damaged(`"/${textOfBytes(path)}" cannot be opened`, cause)
    }
    try {
      const stat = fstat(fd)
      if (stat.type !== 'file' || stat.size !== size) {
        throw damaged(`"/${textOfBytes(path)}" is not the file of ${size} bytes it was`)
      }
      for (let left = size; left > 0; ) {
        const count = collector.fill(left, (target, offset, length) => {
          control.check()
          return readSync(fd, target, offset, length, null)
        })
        if (count === 0) throw damaged(`"/${textOfBytes(path)}" is too short`)
        left -= count
      }
    } finally {
      closeSync(fd)
    }
  }
  try {
    readHeaders(join(layerDirectory, 'headers.gz'), control, (record) => {
      if (record.kind === 'raw') collector.append(record.bytes)
      else if (record.kind === 'end') entries = record.entries
      else content(record.path, record.size)
    })
    return { ...collector.finish(), entries }
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) throw damaged('its kept headers are gone', error)
    throw error
  } finally {
    if (parentFd >= 0) closeSync(parentFd)
    closeSync(rootFd)
  }
}

function damaged(reason: string, cause?: unknown): BuilderError {
  return new BuilderError('ISB_IMAGE_DAMAGED', `a layer in the store is damaged: ${reason}`, { cause })
}
