import { dirname, join } from 'node:path'
import type { CopyParams } from '../../ports/layer-worker.js'
import type { JobControl } from '../job-control.js'
import type { ContentRecord } from './content-log.js'
import { openSourceMemory } from './source-memory.js'
import { openSources } from './sources.js'
import { createSourcesLog, sourcesLogName } from './sources-log.js'
import type { StatRow } from './stat-table.js'

/** What stays of a COPY beside its layer: the log of its sources, and what stat told of them. */
export interface CopyMemory extends Disposable {
  /** In any order, but as the sources are walked it is cheapest. */
  readonly add: (record: ContentRecord, digest: Buffer | undefined) => void
  /** What is known of a source that did not change since; asked for in the order of the sources. */
  readonly recall: (record: ContentRecord) => StatRow | undefined
  /** The copy is complete. Without that nothing stays. */
  finish(contentKey: string): void
}

export function createCopyMemory(params: CopyParams, control: JobControl): CopyMemory {
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
    add(record, digest) {
      log.add(record, digest)
      const { source, path } = record
      if (source !== undefined) memory?.learn(path, source, { digest, xattrs: source.xattrs })
    },
    recall: ({ path, source }) => (source === undefined ? undefined : memory?.recall(path, source)),
    finish(contentKey) {
      log.commit()
      if (memory === undefined) return
      const remember = (): void => {
        try {
          if (memory.scan().contentKey === undefined) memory.save(contentKey, 'scanned')
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
