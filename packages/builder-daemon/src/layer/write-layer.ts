import { closeSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { SealResult, WriteLayerParams } from '../ports/layer-worker.js'
import { fstat } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
import { POLLOUT, poll } from '../system/processes.js'
import { lastOf, openCanonical, parentOf } from '../system/rooted.js'
import { fadvise, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, openat } from '../system/syscalls.js'
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
  return writeLayerTo(params, descriptorOutput(params.fd, control, params.offset), control)
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

/** Writes everything to `fd`, from `offset` on or at its own offset, waiting where it is a full pipe or socket. */
export function descriptorOutput(fd: number, control: JobControl, offset?: number): (bytes: Buffer) => void {
  let position = offset ?? null
  return (bytes) => {
    for (let at = 0; at < bytes.length; ) {
      control.check()
      try {
        const count = writeSync(fd, bytes, at, bytes.length - at, position)
        at += count
        if (position !== null) position += count
      } catch (error) {
        if (!hasErrno(error, 'EAGAIN')) throw error
        poll([{ fd, events: POLLOUT }], 200)
      }
    }
  }
}

/** Files that are open ahead of being written, and their bytes: what lies on a slow disk is read side by side. */
const maxAhead = { files: 32, bytes: 8 << 20 }
/** Of a longer file the kernel reads the rest ahead by itself. */
const adviseBytes = 1 << 18

type Pending =
  | { readonly kind: 'raw'; readonly bytes: Buffer }
  | { readonly kind: 'file'; readonly path: string; readonly size: number; readonly fd: number }

function writeKept(layerDirectory: string, output: (bytes: Buffer) => void, control: JobControl): SealResult {
  const collector = createCollector(output)
  const rootFd = openat(AT_FDCWD, join(layerDirectory, 'diff'), O_RDONLY | O_DIRECTORY)
  const pending: Pending[] = []
  let files = 0
  let bytes = 0
  let parentPath = ''
  let parentFd = -1
  let entries = 0

  function openFile(path: string): number {
    const parent = parentOf(path)
    try {
      if (parentFd < 0 || parent !== parentPath) {
        if (parentFd >= 0) closeSync(parentFd)
        parentFd = -1
        parentFd = openCanonical(rootFd, parent)
        parentPath = parent
      }
      return openat(parentFd, lastOf(path), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    } catch (cause) {
      throw damaged(`"/${textOfBytes(path)}" cannot be opened`, cause)
    }
  }
  function prepare(path: string, size: number): void {
    const fd = openFile(path)
    pending.push({ kind: 'file', path, size, fd })
    files += 1
    bytes += Math.min(size, adviseBytes)
    if (pending.length > 1) fadvise(fd, 0, Math.min(size, adviseBytes), 'willneed')
  }
  function content(path: string, size: number, fd: number): void {
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
  }
  function writeFirst(): void {
    const [first] = pending
    if (first?.kind === 'raw') {
      bytes -= first.bytes.length
      collector.append(first.bytes)
    } else if (first?.kind === 'file') {
      files -= 1
      bytes -= Math.min(first.size, adviseBytes)
      content(first.path, first.size, first.fd)
      closeSync(first.fd)
    }
    pending.shift()
  }
  try {
    readHeaders(join(layerDirectory, 'headers.gz'), control, (record) => {
      if (record.kind === 'end') entries = record.entries
      else if (record.kind === 'file') prepare(record.path, record.size)
      else if (pending.length === 0) collector.append(record.bytes)
      else {
        pending.push({ kind: 'raw', bytes: Buffer.from(record.bytes) })
        bytes += record.bytes.length
      }
      while (files > maxAhead.files || bytes > maxAhead.bytes) writeFirst()
    })
    while (pending.length > 0) writeFirst()
    return { ...collector.finish(), entries }
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) throw damaged('its kept headers are gone', error)
    throw error
  } finally {
    for (const one of pending) if (one.kind === 'file') closeSync(one.fd)
    if (parentFd >= 0) closeSync(parentFd)
    closeSync(rootFd)
  }
}

function damaged(reason: string, cause?: unknown): BuilderError {
  return new BuilderError('ISB_IMAGE_DAMAGED', `a layer in the store is damaged: ${reason}`, { cause })
}
