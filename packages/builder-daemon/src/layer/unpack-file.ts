import { writeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { UnpackParams, UnpackResult } from '../ports/layer-worker.js'
import { hasErrno } from '../system/system-error.js'
import { decompress, defaultRatio } from './decompress/decompress.js'
import { descriptorSource } from './decompress/descriptor-source.js'
import { type JobControl, uncontrolled } from './job-control.js'

const chunkSize = 1024 * 1024

/**
 * Job `unpack`. Fails with ISB_ARCHIVE_INVALID for data that is damaged or not compressed, ISB_LIMIT_EXCEEDED, ISB_NO_SPACE,
 * ISB_UNSUPPORTED when the machine cannot read the format.
 */
export function unpackJob(params: UnpackParams, control: JobControl = uncontrolled): UnpackResult {
  const source = descriptorSource(params.fd, params.range, control)
  const unpacked = decompress(source, { bytes: params.limit, ...defaultRatio }, control)
  if (unpacked.compression === 'none') {
    throw new BuilderError('ISB_ARCHIVE_INVALID', 'it is neither a tar archive nor compressed')
  }
  const buffer = Buffer.allocUnsafe(chunkSize)
  let size = 0
  try {
    for (;;) {
      const read = unpacked.read(buffer, 0, buffer.length)
      if (read === 0) return { size }
      writeAll(params.target, buffer.subarray(0, read))
      size += read
    }
  } finally {
    unpacked.close()
  }
}

function writeAll(fd: number, bytes: Buffer): void {
  try {
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done)
  } catch (error) {
    if (!hasErrno(error, 'ENOSPC') && !hasErrno(error, 'EDQUOT')) throw error
    throw new BuilderError('ISB_NO_SPACE', 'no space left to unpack the archive', { cause: error })
  }
}
