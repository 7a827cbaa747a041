import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { applyFileJob, applyJob } from '../layer/apply.js'
import { digestJob } from '../layer/digest-range.js'
import { sealJob } from '../layer/seal.js'
import { unpackJob } from '../layer/unpack-file.js'
import { writeLayerJob } from '../layer/write-layer.js'
import type { JobName, LayerJobs, LayerWorkers } from '../ports/layer-worker.js'

type Runner = { [N in JobName]?: (params: LayerJobs[N]['params']) => LayerJobs[N]['result'] }

/** For tests: the real jobs, run in this thread. `ran` lists their names. */
export function createFakeWorkers(): LayerWorkers & { readonly ran: readonly JobName[] } {
  const ran: JobName[] = []
  const jobs: Runner = {
    apply: (params) => applyJob(params),
    applyFile: (params) => applyFileJob(params),
    digest: (params) => digestJob(params),
    seal: (params) => sealJob(params),
    unpack: (params) => unpackJob(params),
    writeLayer: (params) => writeLayerJob(params),
  }
  return {
    ran,
    run: async (name, params, signal) => {
      if (signal?.aborted === true) throw new BuilderError('ISB_CANCELLED', 'cancelled')
      const job = jobs[name]
      if (job === undefined) throw new Error(`job ${name} is not part of this test`)
      ran.push(name)
      return job(params)
    },
  }
}
