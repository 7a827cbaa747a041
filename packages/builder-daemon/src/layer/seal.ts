import { readSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { SealParams, SealResult } from '../ports/layer-worker.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { createTarWriter } from './tar/writer.js'
import { walkUpper } from './walk.js'

/** Hashes an upper as a canonical layer tar. Nobody may write to it meanwhile. */
export function sealJob(params: SealParams, control: JobControl = uncontrolled): SealResult {
  return sealTo(params, control, undefined)
}

/** The same, giving the bytes of the tar to `output` as they come (valid during the call). */
export function sealTo(
  params: SealParams,
  control: JobControl,
  output: ((bytes: Buffer) => void) | undefined,
): SealResult {
  const writer = createTarWriter(output)
  walkUpper(params.upper, params.fixedTime, control, {
    entry(entry, fd) {
      writer.entry(entry)
      if (fd === undefined || entry.size === 0) return
      const complete = writer.payloadFrom((target, offset, length) => {
        control.check()
        return readSync(fd, target, offset, length, null)
      })
      if (!complete) {
        throw new BuilderError(
          'ISB_INTERNAL',
          `"/${textOfBytes(entry.path)}" became shorter while the layer was read`,
        )
      }
    },
  })
  return writer.finish()
}
