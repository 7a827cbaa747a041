import type { SourceRange } from '../dockerfile/source.js'
import { codes, type ErrorCode } from '../errors/codes.js'
import type { SkipReason } from '../progress/cache-reason.js'
import type { BuildEvent } from '../progress/events.js'
import { type Decoded, type Encodable, field, message, oneOf, repeated, when } from './codec.js'
import { SourceRangeMessage } from './error-detail.js'
import { decodeStepCache, encodeStepCache, StepCacheMessage } from './step-cache.js'
import { bytes, enumeration, int64, text, uint32 } from './wire-types.js'

const name = (message: string): string => `isula.builder.v1.BuildEvent${message}`

const Outcome = enumeration(name('.Outcome'), {
  OUTCOME_UNSPECIFIED: 0,
  DONE: 1,
  CACHED: 2,
  FAILED: 3,
  CANCELLED: 4,
})

const Skipped = enumeration(name('.SkipReason'), {
  SKIP_REASON_UNSPECIFIED: 0,
  NOT_REACHED: 1,
  NOT_NEEDED: 2,
})

export const BuildEventMessage = message(name(''), {
  at: field(1, int64),
  event: oneOf({
    queued: when(2, message(name('.Queued'), { position: field(1, uint32) })),
    started: when(3, message(name('.Started'), { buildId: field(1, text), totalSteps: field(2, uint32) })),
    stepStarted: when(
      4,
      message(name('.StepStarted'), { step: field(1, uint32), stage: field(2, text), text: field(3, text) }),
    ),
    stepFinished: when(
      5,
      message(name('.StepFinished'), {
        step: field(1, uint32),
        outcome: field(2, Outcome),
        cache: field(3, StepCacheMessage),
      }),
    ),
    output: when(6, message(name('.StepOutput'), { step: field(1, uint32), data: field(2, bytes) })),
    stageCommitted: when(
      7,
      message(name('.StageCommitted'), { stage: field(1, uint32), imageId: field(2, text) }),
    ),
    warning: when(
      8,
      message(name('.Warning'), { message: field(1, text), source: field(2, SourceRangeMessage) }),
    ),
    exported: when(9, message(name('.Exported'), { output: field(1, text) })),
    finished: when(10, message(name('.Finished'), { imageId: field(1, text), names: repeated(2, text) })),
    failed: when(11, message(name('.Failed'), { code: field(1, text), message: field(2, text) })),
    stepSkipped: when(
      12,
      message(name('.StepSkipped'), {
        step: field(1, uint32),
        stage: field(2, text),
        text: field(3, text),
        reason: field(4, Skipped),
      }),
    ),
  }),
})

type StepFinished = Extract<BuildEvent, { kind: 'step-finished' }>
type Outcome = StepFinished['outcome']
const skipReasons = { 'not-reached': 'NOT_REACHED', 'not-needed': 'NOT_NEEDED' } as const
const outcomes = { done: 'DONE', cached: 'CACHED', failed: 'FAILED', cancelled: 'CANCELLED' } as const

export function encodeBuildEvent(event: BuildEvent): Encodable<typeof BuildEventMessage> {
  const { at } = event
  switch (event.kind) {
    case 'queued':
      return { at, event: { case: 'queued', value: event } }
    case 'started':
      return { at, event: { case: 'started', value: event } }
    case 'step-started':
      return { at, event: { case: 'stepStarted', value: event } }
    case 'step-finished':
      return { at, event: { case: 'stepFinished', value: encodeStepFinished(event) } }
    case 'step-skipped':
      return { at, event: { case: 'stepSkipped', value: encodeStepSkipped(event) } }
    case 'output':
      return { at, event: { case: 'output', value: event } }
    case 'stage-committed':
      return { at, event: { case: 'stageCommitted', value: event } }
    case 'warning':
      return {
        at,
        event: { case: 'warning', value: { message: event.message, source: encodeSource(event.source) } },
      }
    case 'exported':
      return { at, event: { case: 'exported', value: event } }
    case 'finished':
      return { at, event: { case: 'finished', value: event } }
    case 'failed':
      return { at, event: { case: 'failed', value: event } }
  }
}

/** Undefined for an event this version does not know. */
export function decodeBuildEvent(wire: Decoded<typeof BuildEventMessage>): BuildEvent | undefined {
  const { at, event } = wire
  switch (event?.case) {
    case 'queued':
      return { kind: 'queued', at, ...event.value }
    case 'started':
      return { kind: 'started', at, ...event.value }
    case 'stepStarted':
      return { kind: 'step-started', at, ...event.value }
    case 'stepFinished': {
      const outcome = outcomeOf(event.value.outcome)
      const cache = event.value.cache && decodeStepCache(event.value.cache)
      return (
        outcome && { kind: 'step-finished', at, step: event.value.step, outcome, ...(cache && { cache }) }
      )
    }
    case 'stepSkipped': {
      const { reason: wire, ...step } = event.value
      const reason = skipReasonOf(wire)
      return { kind: 'step-skipped', at, ...step, ...(reason && { reason }) }
    }
    case 'output':
      return { kind: 'output', at, ...event.value }
    case 'stageCommitted':
      return { kind: 'stage-committed', at, ...event.value }
    case 'warning': {
      const source = decodeSource(event.value.source)
      return { kind: 'warning', at, message: event.value.message, ...(source && { source }) }
    }
    case 'exported':
      return { kind: 'exported', at, ...event.value }
    case 'finished':
      return { kind: 'finished', at, ...event.value }
    case 'failed':
      return { kind: 'failed', at, code: errorCode(event.value.code), message: event.value.message }
    case undefined:
      return undefined
  }
}

function encodeStepFinished({ step, outcome, cache }: StepFinished) {
  return { step, outcome: outcomes[outcome], cache: cache && encodeStepCache(cache) }
}

function encodeStepSkipped({ reason, ...step }: Extract<BuildEvent, { kind: 'step-skipped' }>) {
  return { ...step, reason: reason && skipReasons[reason] }
}

function skipReasonOf(wire: string): SkipReason['kind'] | undefined {
  switch (wire) {
    case 'NOT_REACHED':
      return 'not-reached'
    case 'NOT_NEEDED':
      return 'not-needed'
    default:
      return undefined
  }
}

function outcomeOf(wire: string): Outcome | undefined {
  switch (wire) {
    case 'DONE':
      return 'done'
    case 'CACHED':
      return 'cached'
    case 'FAILED':
      return 'failed'
    case 'CANCELLED':
      return 'cancelled'
    default:
      return undefined
  }
}

export function encodeSource(
  source: SourceRange | undefined,
): Encodable<typeof SourceRangeMessage> | undefined {
  return (
    source && {
      file: source.file,
      startLine: source.start.line,
      startColumn: source.start.column,
      endLine: source.end.line,
      endColumn: source.end.column,
      lines: source.lines,
    }
  )
}

export function decodeSource(wire: SourceRangeMessage | undefined): SourceRange | undefined {
  return (
    wire && {
      file: wire.file,
      start: { line: wire.startLine, column: wire.startColumn },
      end: { line: wire.endLine, column: wire.endColumn },
      lines: wire.lines,
    }
  )
}

/** A code this version does not know is an internal error to it. */
export function errorCode(wire: string): ErrorCode {
  return isErrorCode(wire) ? wire : 'ISB_INTERNAL'
}

function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(codes, code)
}
