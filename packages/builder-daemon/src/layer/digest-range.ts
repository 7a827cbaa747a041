import { createHash } from 'node:crypto'
import { readSync } from 'node:fs'
import { digestFromHex } from '@isula-build/shared/oci/digest.js'
import type { DigestParams, DigestResult } from '../ports/layer-worker.js'
import { type JobControl, uncontrolled } from './job-control.js'

const chunkSize = 1024 * 1024

/** Job `digest`: hashes the range without touching the file's offset. */
export function digestJob({ fd, range }: DigestParams, control: JobControl = uncontrolled): DigestResult {
  const hash = createHash('sha256')
  const buffer = Buffer.allocUnsafe(Math.min(chunkSize, Math.max(range.length, 1)))
  let done = 0
  while (done < range.length) {
    control.check()
    const wanted = Math.min(buffer.length, range.length - done)
    const read = readSync(fd, buffer, 0, wanted, range.offset + done)
    if (read === 0) break
    hash.update(buffer.subarray(0, read))
    done += read
  }
  return { digest: digestFromHex(hash.digest('hex')), size: done }
}
