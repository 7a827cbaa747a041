import { createHash } from 'node:crypto'
import { readSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { IdentifiedLayer, SealParams } from '../ports/layer-worker.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { createContentIdentity } from './tar/content-id.js'
import { createTarWriter } from './tar/writer.js'
import { walkUpper } from './walk.js'

/** Hashes an upper as a canonical layer tar. Nobody may write to it meanwhile. */
export function sealJob(params: SealParams, control: JobControl = uncontrolled): IdentifiedLayer {
  return sealTo(params, control, undefined)
}

/** The same, giving the bytes of the tar to `output` as they come (valid during the call). */
export function sealTo(
  params: SealParams,
  control: JobControl,
  output: ((bytes: Buffer) => void) | undefined,
): IdentifiedLayer {
  const writer = createTarWriter(output)
  const identity = params.identify ? createContentIdentity() : undefined
  walkUpper(params.upper, params.fixedTime, control, {
    entry(entry, fd) {
      writer.entry(entry)
      identity?.entry(entry)
      if (fd === undefined || entry.size === 0) return
      const digest = identity === undefined ? undefined : createHash('sha256')
      const complete = writer.payloadFrom((target, offset, length) => {
        control.check()
        const count = readSync(fd, target, offset, length, null)
        digest?.update(target.subarray(offset, offset + count))
        return count
      })
      if (!complete) {
        throw new BuilderError(
          'ISB_INTERNAL',
          `"/${textOfBytes(entry.path)}" became shorter while the layer was read`,
        )
      }
      if (digest !== undefined) identity?.content(digest.digest())
    },
  })
  return { ...writer.finish(), contentId: identity?.finish() ?? null }
}
