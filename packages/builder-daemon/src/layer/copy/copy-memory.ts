import { dirname, join } from 'node:path'
import type { CopyParams } from '../../ports/layer-worker.js'
import type { JobControl } from '../job-control.js'
import type { ContentRecord, ObserveContent } from './content-log.js'
import { openSourceMemory } from './source-memory.js'
import { openSources } from './sources.js'
import { createSourcesLog, sourcesLogName, type WrittenLayer } from './sources-log.js'

/** What stays of a COPY beside its layer: the log of its sources, and what stat told of them. */
export interface CopyMemory extends Disposable {
  /** In any order, but as the sources are walked it is cheapest. */
  readonly add: ObserveContent
  /** Content digest of a source that did not change since it was read; asked for in the order of the sources. */
  readonly recall: (record: ContentRecord) => Buffer | undefined
  /** The copy is complete. Without that nothing stays. */
  finish(contentKey: string, layer: WrittenLayer): void
}

export function createCopyMemory(params: CopyParams, control: JobControl): CopyMemory {
  return params.seen === undefined ? learningMemory(params, control) : seenMemory(params)
}

/** What there is to be learnt was learnt when the sources were seen. */
function seenMemory(params: CopyParams): CopyMemory {
  const log = createSourcesLog(join(dirname(params.upper), sourcesLogName))
  return {
    add: log.add,
    recall: ({ source }) => source?.digest,
    finish: (_contentKey, layer) => log.commit(layer),
    [Symbol.dispose]: () => log[Symbol.dispose](),
  }
}

function learningMemory(params: CopyParams, control: JobControl): CopyMemory {
  // Apart from what the copy reads through: these stay open until all is looked at once more.
  const sources = openSources(params, control, { bare: true })
  const memory = openSourceMemory(params, sources, control)
  const log = createSourcesLog(join(dirname(params.upper), sourcesLogName))
  let isPending = false

  function release(): void {
    memory?.[Symbol.dispose]()
    sources[Symbol.dispose]()
  }

  return {
    add(record, digest, stamp) {
      log.add(record, digest, stamp)
      const { source, path } = record
      if (source !== undefined) memory?.learn(path, source, { digest, xattrs: source.xattrs })
    },
    recall: ({ path, source }) => (source === undefined ? undefined : memory?.recall(path, source)?.digest),
    finish(contentKey, layer) {
      log.commit(layer)
      if (memory === undefined) return
      const remember = (): void => {
        try {
          // What is remembered is asked before every copy: another key than the copy's would never be found.
          if (memory.scan().contentKey !== contentKey) memory.save(contentKey, 'scanned')
        } finally {
          release()
        }
      }
      isPending = true
      if (control.afterwards === undefined) remember()
      else control.afterwards(remember)
    },
    [Symbol.dispose]() {
      log[Symbol.dispose]()
      if (!isPending) release()
    },
  }
}
