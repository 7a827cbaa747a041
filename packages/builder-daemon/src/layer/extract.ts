import type { ExtractParams } from '../ports/layer-worker.js'
import { decompress, defaultRatio } from './decompress/decompress.js'
import { descriptorSource } from './decompress/descriptor-source.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { createTarReader } from './tar/reader.js'
import { unpackEntries } from './unpack-entries.js'
import { openUpper } from './upper.js'

/** Bytes a build context may unpack to. */
const contextLimit = 256 * 2 ** 30

/**
 * Unpacks a tar, perhaps compressed, into an empty directory and nowhere else. Every name is a name:
 * there are no deletions. Fails with ISB_ARCHIVE_INVALID, ISB_LIMIT_EXCEEDED, ISB_NO_SPACE.
 */
export function extractJob(params: ExtractParams, control: JobControl = uncontrolled): Record<never, never> {
  const input = descriptorSource(params.fd, undefined, control)
  const unpacked = decompress(input, { bytes: contextLimit, ...defaultRatio }, control)
  try {
    const upper = openUpper(params.directory, [])
    try {
      const reader = createTarReader(unpacked)
      unpackEntries({ reader, upper, control, limit: contextLimit, deletions: false })
      reader.drain()
      upper.finish()
    } finally {
      upper.close()
    }
  } finally {
    unpacked.close()
  }
  return {}
}
