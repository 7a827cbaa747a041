import { parentPort, resourceLimits, workerData } from 'node:worker_threads'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { applyFileJob, applyJob } from '../layer/apply.js'
import { compressLayerJob, helpCompressionJob, writeFileJob } from '../layer/compress-layer.js'
import { copyJob, digestSourcesJob } from '../layer/copy/copy.js'
import { explainSourcesJob } from '../layer/copy/sources-log.js'
import { performUpper } from '../layer/copy/upper-log.js'
import { digestJob } from '../layer/digest-range.js'
import { extractJob } from '../layer/extract.js'
import type { JobControl } from '../layer/job-control.js'
import { makeDirectoryJob } from '../layer/make-directory.js'
import { mergeLayers } from '../layer/merge.js'
import { feed } from '../layer/pipe/feed.js'
import { helpWithSlots } from '../layer/pipe/help.js'
import { sealJob } from '../layer/seal.js'
import { unpackJob } from '../layer/unpack-file.js'
import { resolveUserJob } from '../layer/users.js'
import { writeLayerJob } from '../layer/write-layer.js'
import { writeRootfsJob } from '../layer/write-rootfs.js'
import type { JobName, LayerJobs } from '../ports/layer-worker.js'
import { isUsual, setNice, shortWork } from '../system/priority.js'
import { createHeapCheck } from './heap-limit.js'
import {
  encodeFailure,
  type HelpRequest,
  type LayerMessage,
  type LayerReply,
  type LayerRequest,
  type LayerThreadData,
} from './layer-messages.js'

/** A layer thread: runs one job after the other, synchronously, and answers each. */

type JobTable = {
  readonly [N in JobName]: (params: LayerJobs[N]['params'], control: JobControl) => LayerJobs[N]['result']
}

const jobs: JobTable = {
  seal: sealJob,
  apply: applyJob,
  applyFile: applyFileJob,
  digest: digestJob,
  unpack: unpackJob,
  merge: mergeLayers,
  extract: extractJob,
  writeLayer: writeLayerJob,
  writeRootfs: writeRootfsJob,
  compressLayer: compressLayerJob,
  helpCompression: helpCompressionJob,
  writeFile: writeFileJob,
  copy: copyJob,
  digestSources: digestSourcesJob,
  makeDirectory: makeDirectoryJob,
  resolveUser: resolveUserJob,
  explainSources: explainSourcesJob,
}

const port = parentPort
if (port === null) throw new Error('this is the entry point of a worker thread')
const cancelled = new Int32Array((workerData as LayerThreadData).cancelled)

const later: (() => void)[] = []

/** MiB. */
const heap = resourceLimits.maxOldGenerationSizeMb ?? Number.POSITIVE_INFINITY

/** Milliseconds of a job after which it is no short work. */
const shortTime = 20
const goesFirst = isUsual()

function controlOf({ id, job }: LayerRequest | HelpRequest): JobControl {
  const begun = performance.now()
  // Whoever helps keeps little.
  const checkHeap = job === 'help' ? undefined : createHeapCheck(job, heap)
  let isShort = goesFirst && setNice(0, shortWork)
  return {
    check() {
      if (isShort && performance.now() - begun > shortTime) isShort = !setNice(0, 0)
      if (Atomics.load(cancelled, 0) !== 0) throw new BuilderError('ISB_CANCELLED', 'cancelled')
      checkHeap?.()
    },
    help: (memory, feed) => say({ id, ok: 'help', memory, feed }),
    afterwards: (work) => void later.push(work),
  }
}

function say(message: LayerMessage): void {
  port?.postMessage(message)
}

function run<N extends JobName>(request: LayerRequest<N>): LayerJobs[N]['result'] {
  return jobs[request.job](request.params, controlOf(request))
}

function answer(request: LayerRequest | HelpRequest): LayerReply {
  const { id } = request
  try {
    if (request.job !== 'help') return { id, ok: true, result: run(request) }
    const { memory, feed: asked } = request.params
    if (asked === undefined) helpWithSlots(memory, performUpper, controlOf(request))
    else feed(memory, asked, controlOf(request))
    return { id, ok: true, result: {} }
  } catch (error) {
    return { id, ok: false, failure: encodeFailure(error) }
  }
}

/** What is cancelled by now is the next job, which comes first. */
function finish(): void {
  for (const work of later.splice(0)) {
    try {
      work()
    } catch (error) {
      if (!isBuilderError(error, 'ISB_CANCELLED')) say({ ok: 'late', afterwards: encodeFailure(error) })
    }
  }
}

port.on('message', (request: LayerRequest | HelpRequest) => {
  say(answer(request))
  finish()
})
