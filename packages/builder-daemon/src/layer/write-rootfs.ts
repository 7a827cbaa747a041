import type { WriteRootfsParams, WriteRootfsResult } from '../ports/layer-worker.js'
import { openMerged } from '../system/detached-overlay.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { sealTo } from './seal.js'
import { createTarWriter } from './tar/writer.js'
import { descriptorOutput } from './write-layer.js'

/** Job `writeRootfs`. The overlay hides whiteouts and its own attributes, so what is left is a changeset over nothing. */
export function writeRootfsJob(
  { lowers, fd }: WriteRootfsParams,
  control: JobControl = uncontrolled,
): WriteRootfsResult {
  const output = descriptorOutput(fd, control)
  if (lowers.length === 0) return createTarWriter(output).finish()
  const merged = openMerged(lowers)
  try {
    const upper = `/proc/self/fd/${merged.fd}`
    const { tarSize, entries } = sealTo({ upper, fixedTime: undefined }, control, output)
    return { tarSize, entries }
  } finally {
    merged.close()
  }
}
