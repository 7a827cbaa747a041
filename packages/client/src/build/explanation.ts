import type { CacheReason, SkipReason } from '@isula-build/shared/progress/cache-reason.js'
import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import { reasonText } from '@isula-build/shared/progress/reason-text.js'
import { displayCells } from '@isula-build/shared/text/display-width.js'
import type { ProgressView } from './plain-progress.js'

export interface ExplainedStep {
  /** From 1, over the whole build; 0 where the target does not need it. */
  readonly step: number
  /** '' in a Dockerfile of one stage. */
  readonly stage: string
  readonly instruction: string
  readonly status: 'hit' | 'miss' | 'skipped'
  /** Of a miss, or of a step that was skipped; null where the daemon gives none that this client knows. */
  readonly reason: CacheReason | SkipReason | null
}

/** What a build said about its steps and the cache. */
export interface Explanation {
  /** Also takes note of what it shows. */
  readonly view: ProgressView
  /** In the order of the Dockerfile. */
  steps(): readonly ExplainedStep[]
}

export function createExplanation(inner: ProgressView): Explanation {
  const steps: ExplainedStep[] = []
  const view: ProgressView = {
    async show(event) {
      note(steps, event)
      await inner.show(event)
    },
  }
  return { view, steps: () => steps }
}

function note(steps: ExplainedStep[], event: BuildEvent): void {
  switch (event.kind) {
    case 'step-started':
    case 'step-skipped': {
      const { step, stage, text: instruction } = event
      const kind = event.kind === 'step-started' ? 'not-reached' : event.reason
      steps.push({
        step,
        stage,
        instruction,
        status: 'skipped',
        reason: kind === undefined ? null : { kind },
      })
      return
    }
    case 'step-finished': {
      const place = steps.findLastIndex(({ step }) => step === event.step)
      const started = steps[place]
      if (started !== undefined) steps[place] = { ...started, ...verdict(event) }
      return
    }
  }
}

type Finished = Extract<BuildEvent, { readonly kind: 'step-finished' }>

function verdict({ outcome, cache }: Finished): Pick<ExplainedStep, 'status' | 'reason'> {
  if (cache !== undefined) {
    if (cache.status === 'skipped') return { status: 'skipped', reason: { kind: 'not-reached' } }
    return { status: cache.status, reason: cache.status === 'miss' ? cache.reason : null }
  }
  // The daemon says nothing that this client understands: how the step ended still tells whether it was executed.
  if (outcome === 'cached') return { status: 'hit', reason: null }
  if (outcome === 'cancelled') return { status: 'skipped', reason: { kind: 'not-reached' } }
  return { status: 'miss', reason: null }
}

/** How a build ended. */
export interface ExplainedResult {
  readonly image: string | null
  readonly names: readonly string[]
  readonly error: { readonly code: string; readonly message: string } | null
}

/** One JSON object in one line, the shape of which is documented in docs/explain.md. */
export function explanationJson(steps: readonly ExplainedStep[], result: ExplainedResult): string {
  return JSON.stringify({ v: 1, ...result, ...counts(steps), steps })
}

function counts(steps: readonly ExplainedStep[]) {
  const count = (wanted: ExplainedStep['status']): number =>
    steps.filter(({ status }) => status === wanted).length
  return { hits: count('hit'), misses: count('miss'), skipped: count('skipped') }
}

/** Columns that an instruction takes at most; JSON has all of it. */
const widestInstruction = 60

/** The same for people, in lines without line feeds; [] for a build that never got to its steps. */
export function explanationTable(steps: readonly ExplainedStep[]): readonly string[] {
  if (steps.length === 0) return []
  const rows = steps.map(({ step, stage, instruction, status, reason }) => [
    step === 0 ? '-' : String(step),
    stage,
    instruction,
    status,
    reason === null ? '' : reasonText(reason),
  ])
  const { hits, misses, skipped } = counts(steps)
  return [
    ...columns([['STEP', 'STAGE', 'INSTRUCTION', 'CACHE', 'REASON'], ...rows]),
    `Cache: ${hits} hit, ${misses} missed, ${skipped} skipped`,
  ]
}

/** Columns without any text below their title are left out. */
function columns(rows: readonly (readonly string[])[]): readonly string[] {
  const cells = rows.map((row) =>
    row.map((text, column) => cell(text, column === 2 ? widestInstruction : Infinity)),
  )
  const widths = (cells[0] ?? []).map((_, column) =>
    cells.slice(1).every((row) => row[column]?.width === 0)
      ? 0
      : Math.max(...cells.map((row) => row[column]?.width ?? 0)),
  )
  return cells.map((row) =>
    row
      .flatMap(({ text, width }, column) => {
        const wanted = widths[column] ?? 0
        return wanted === 0 ? [] : [text + ' '.repeat(wanted - width)]
      })
      .join('  ')
      .trimEnd(),
  )
}

/** As a terminal may safely show it, cut with an ellipsis. */
function cell(text: string, widest: number): { readonly text: string; readonly width: number } {
  const cells = displayCells(text)
  const width = cells.reduce((sum, one) => sum + one.width, 0)
  if (width <= widest) return { text: cells.map((one) => one.text).join(''), width }
  let shown = ''
  let taken = 0
  for (const one of cells) {
    if (taken + one.width > widest - 1) break
    shown += one.text
    taken += one.width
  }
  return { text: `${shown}…`, width: taken + 1 }
}
