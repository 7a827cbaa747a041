import type { CacheReason, StepCache } from '../progress/cache-reason.js'
import { type Decoded, type Encodable, field, message, oneOf, repeated, when } from './codec.js'
import { Empty } from './well-known.js'
import { int64, text, uint32 } from './wire-types.js'

const name = (message: string): string => `isula.builder.v1.StepCache${message}`

const BaseChanged = message(name('.BaseChanged'), { from: field(1, text), to: field(2, text) })
const Paths = message(name('.Paths'), { paths: repeated(1, text), more: field(2, uint32) })
const InstructionChanged = message(name('.InstructionChanged'), { parts: repeated(1, text) })
const Miss = message(name('.Miss'), {
  reason: oneOf({
    instructionChanged: when(1, InstructionChanged),
    argChanged: when(2, text),
    baseChanged: when(3, BaseChanged),
    filesChanged: when(4, Paths),
    modeChanged: when(5, Paths),
    parentMissed: when(6, uint32),
    evicted: when(7, int64),
    noCache: when(8, Empty),
    neverBuilt: when(9, Empty),
    instructionAdded: when(10, Empty),
  }),
})

/** What the cache had to say on a step. */
export const StepCacheMessage = message(name(''), {
  status: oneOf({ hit: when(1, Empty), miss: when(2, Miss), skipped: when(3, Empty) }),
})

export function encodeStepCache(cache: StepCache): Encodable<typeof StepCacheMessage> {
  switch (cache.status) {
    case 'hit':
      return { status: { case: 'hit', value: {} } }
    case 'miss':
      return { status: { case: 'miss', value: { reason: encodeReason(cache.reason) } } }
    case 'skipped':
      return { status: { case: 'skipped', value: {} } }
  }
}

/** Undefined for a status or a reason this version does not know. */
export function decodeStepCache(wire: Decoded<typeof StepCacheMessage>): StepCache | undefined {
  switch (wire.status?.case) {
    case 'hit':
      return { status: 'hit' }
    case 'miss': {
      const reason = decodeReason(wire.status.value)
      return reason && { status: 'miss', reason }
    }
    case 'skipped':
      return { status: 'skipped' }
    case undefined:
      return undefined
  }
}

function encodeReason(reason: CacheReason): Encodable<typeof Miss>['reason'] {
  switch (reason.kind) {
    case 'instruction-changed':
      return { case: 'instructionChanged', value: { parts: reason.parts ?? [] } }
    case 'instruction-added':
      return { case: 'instructionAdded', value: {} }
    case 'arg-changed':
      return { case: 'argChanged', value: reason.name }
    case 'base-changed':
      return { case: 'baseChanged', value: reason }
    case 'files-changed':
      return { case: 'filesChanged', value: reason }
    case 'mode-changed':
      return { case: 'modeChanged', value: reason }
    case 'parent-missed':
      return { case: 'parentMissed', value: reason.step }
    case 'evicted':
      return { case: 'evicted', value: reason.at }
    case 'no-cache':
      return { case: 'noCache', value: {} }
    case 'never-built':
      return { case: 'neverBuilt', value: {} }
  }
}

function decodeReason({ reason }: Decoded<typeof Miss>): CacheReason | undefined {
  switch (reason?.case) {
    case 'instructionChanged':
      return { kind: 'instruction-changed', ...(reason.value.parts.length > 0 && reason.value) }
    case 'instructionAdded':
      return { kind: 'instruction-added' }
    case 'argChanged':
      return { kind: 'arg-changed', name: reason.value }
    case 'baseChanged':
      return { kind: 'base-changed', ...reason.value }
    case 'filesChanged':
      return { kind: 'files-changed', ...reason.value }
    case 'modeChanged':
      return { kind: 'mode-changed', ...reason.value }
    case 'parentMissed':
      return { kind: 'parent-missed', step: reason.value }
    case 'evicted':
      return { kind: 'evicted', at: reason.value }
    case 'noCache':
      return { kind: 'no-cache' }
    case 'neverBuilt':
      return { kind: 'never-built' }
    case undefined:
      return undefined
  }
}
