import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, utimesSync } from 'node:fs'
import { join } from 'node:path'
import type { CopyParams } from '../../ports/layer-worker.js'
import type { JobControl } from '../job-control.js'
import { contentKeyVersion } from './content-log.js'
import type { SeenRecorder } from './seen-sources.js'
import type { SourceEntry, SourceState } from './source-reader.js'
import type { Sources, TreeInput } from './sources.js'
import { rowPath } from './sources-log.js'
import { createStatTable, openStatTable, type StatRow, type StatTableWriter } from './stat-table.js'
import { trimStatTables } from './stat-tables.js'

/** What was learnt of the sources of one COPY when they were read before, and what is learnt this time. */
export interface SourceMemory extends Disposable {
  /** Looks at all sources. What is remembered must not be used when they cannot be relied on. */
  scan(recorder?: SeenRecorder): {
    readonly isReliable: boolean
    /** Theirs, when nothing changed since it was remembered. */
    readonly contentKey: string | undefined
  }
  /** What is known of a listed file that is the one it was; asked for in the order of the walk. */
  recall(path: string, entry: SourceEntry): StatRow | undefined
  /** What was found of a file, which did not change meanwhile. Best in the order of the walk. */
  learn(path: string, entry: SourceEntry, row: StatRow): void
  /**
   * Replaces what was known, if the scan that came before could be relied on. Rows that were learnt without a look
   * at the very file that was read are `proven` by a scan after them only, when nothing had moved since the start.
   */
  save(contentKey: string, proof: 'proven' | 'scanned'): void
}

/** A change this soon after another one may leave the same time stamp: 2 s on the coarsest of file systems. */
export const settling = 2_000_000_000n
/** How far the clock may have been set while a job ran, milliseconds. */
const clockStep = 500

/**
 * undefined where nothing is to be remembered: anything but contexts with a directory for it. Rows and states are
 * kept only of files that were not touched for a while when the job began, so whatever changed since, even during
 * the job, shows in their ctime. What memory maps write shows there late, up to the next writeback.
 */
export function openSourceMemory(
  params: CopyParams,
  sources: Sources,
  control: JobControl,
): SourceMemory | undefined {
  const inputs = params.inputs.filter((input) => input.kind === 'tree')
  const [statTables] = inputs.map(({ root }) => (root.access === 'layers' ? undefined : root.statTables))
  if (statTables === undefined || inputs.length < params.inputs.length) return undefined
  const startedMs = Date.now()
  const started = performance.now()
  const identity = identityOf(params, inputs, sources)
  mkdirSync(statTables, { recursive: true, mode: 0o700 })
  const file = join(statTables, identity.toString('hex', 0, 16))
  const table = openStatTable(file, identity)
  let state: SourceState | undefined
  let writer: StatTableWriter | undefined

  function isSettled(timeNs: bigint): boolean {
    return timeNs + settling <= BigInt(startedMs) * 1_000_000n
  }
  function isClockSteady(): boolean {
    return Math.abs(Date.now() - startedMs - (performance.now() - started)) < clockStep
  }

  return {
    scan(recorder) {
      state = scanAll({ params, inputs, sources, control }, recorder)
      const known = table?.known
      const isKnown = state !== undefined && known?.state.equals(state.digest) === true
      // The least recently used tables go first.
      if (isKnown) utimesSync(file, startedMs / 1000, startedMs / 1000)
      return { isReliable: state !== undefined, contentKey: isKnown ? known?.contentKey : undefined }
    },
    recall: (path, entry) => table?.row(rowPath(path), entry),
    learn(path, entry, row) {
      if (!isSettled(entry.ctimeNs) || !isSettled(entry.mtimeNs)) return
      writer ??= createStatTable(file, identity)
      writer.add(rowPath(path), entry, row)
    },
    save(contentKey, proof) {
      if (state === undefined || !isClockSteady()) return
      if (proof === 'scanned' && !isSettled(state.latestNs)) return
      writer ??= createStatTable(file, identity)
      writer.commit(isSettled(state.latestNs) ? { state: state.digest, contentKey } : undefined)
      trimStatTables(statTables, startedMs)
    },
    [Symbol.dispose]() {
      table?.[Symbol.dispose]()
      writer?.[Symbol.dispose]()
    },
  }
}

interface ScannedInputs {
  readonly params: CopyParams
  readonly inputs: readonly TreeInput[]
  readonly sources: Sources
  readonly control: JobControl
}

/** undefined when one of them cannot be relied on. */
function scanAll(
  { params, inputs, sources, control }: ScannedInputs,
  recorder: SeenRecorder | undefined,
): SourceState | undefined {
  const hash = createHash('sha256')
  let latestNs = 0n
  for (const [index, { root, pattern, ignore }] of inputs.entries()) {
    control.check()
    const { parents, excludes } = params
    const request = { pattern, parents, excludes, ignore }
    const state = sources.readerOf(root).scan(request, () => control.check(), recorder?.input(index))
    if (state === undefined) return undefined
    hash.update(state.digest)
    if (state.latestNs > latestNs) latestNs = state.latestNs
  }
  return { digest: hash.digest(), latestNs }
}

/** A power cut may take back a time stamp and leave what was written: nothing outlives a boot. */
let bootId: string | undefined

function identityOf(params: CopyParams, inputs: readonly TreeInput[], sources: Sources): Buffer {
  bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'latin1')
  const trees = inputs.map(({ root, pattern, unpack }) => {
    const top = sources.readerOf(root).stat('')
    return [String(top?.dev), String(top?.ino), pattern, unpack]
  })
  // As a rule all sources are of one context, whose patterns may be many.
  const ignores = inputs.map(({ ignore }, i) => (ignore === inputs[i - 1]?.ignore ? '' : ignore))
  const named = [contentKeyVersion, bootId, params.parents, params.excludes, trees, ignores]
  return createHash('sha256').update(JSON.stringify(named)).digest()
}
