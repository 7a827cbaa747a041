import { readSync } from 'node:fs'
import { dirname } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { IdentifiedLayer, SealParams } from '../ports/layer-worker.js'
import { hasSingleNames } from './copy/sources-log.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { createPipeline } from './pipe/pipeline.js'
import { createContentIdentity } from './tar/content-id.js'
import { createTarWriter, createTarWriterOn, type TarSummary } from './tar/writer.js'
import { type WalkOptions, walkUpper } from './walk.js'

/** Hashes an upper as a canonical layer tar. Nobody may write to it meanwhile. */
export function sealJob(params: SealParams, control: JobControl = uncontrolled): IdentifiedLayer {
  return params.identify === true
    ? identified(params, control)
    : { ...sealTo(params, control, undefined), contentId: null }
}

/** The same without a content ID, giving the bytes of the tar to `output` as they come (valid during the call). */
export function sealTo(
  { upper, fixedTime }: SealParams,
  control: JobControl,
  output: ((bytes: Buffer) => void) | undefined,
): TarSummary {
  const writer = createTarWriter(output)
  walkUpper(upper, optionsOf({ upper, fixedTime }, control), {
    entry(entry, fd) {
      writer.entry(entry)
      if (fd !== undefined && !writer.payloadFrom(readerOf(fd, control))) throw becameShorter(entry.path)
    },
  })
  return writer.finish()
}

/** The second hash of every file is the work of other threads, where there are any. */
function identified({ upper, fixedTime }: SealParams, control: JobControl): IdentifiedLayer {
  const identity = createContentIdentity()
  using pipeline = createPipeline(() => undefined, control)
  const writer = createTarWriterOn(pipeline.collector)
  walkUpper(upper, optionsOf({ upper, fixedTime }, control), {
    entry(entry, fd) {
      writer.entry(entry)
      pipeline.log(entry.type === 'file' ? entry.size : 'none', (digest) => {
        identity.entry(entry)
        if (digest !== undefined && entry.size > 0) identity.content(digest)
      })
      if (fd === undefined || entry.size === 0) return
      if (!pipeline.content(entry.size, readerOf(fd, control), () => undefined)) {
        throw becameShorter(entry.path)
      }
      writer.placed(entry.size)
    },
  })
  return { ...writer.finish(), contentId: identity.finish() }
}

/** A COPY says beside its layer that the many names of its files are names in other layers. */
function optionsOf({ upper, fixedTime }: SealParams, control: JobControl): WalkOptions {
  return { fixedTime, control, hasSingleNames: hasSingleNames(dirname(upper)) }
}

function readerOf(fd: number, control: JobControl) {
  return (target: Buffer, offset: number, length: number): number => {
    control.check()
    return readSync(fd, target, offset, length, null)
  }
}

function becameShorter(path: string): BuilderError {
  return new BuilderError('ISB_INTERNAL', `"/${textOfBytes(path)}" became shorter while the layer was read`)
}
