import { createHash } from 'node:crypto'
import type { LayerId } from '../../ports/layer-store.js'
import type { Step } from '../plan/plan.js'

/** What is kept of a step for the next build of the project: digests, for nothing but telling what differs. */
export interface StepMemory {
  /** The stage, as users see it. */
  readonly stage: string
  /** Of the text of the instruction. */
  readonly text: string
  /** Of what it says after expansion; absent where the step was never done, as is its content. */
  readonly meaning?: string
  /** Of what decides how it is executed, but for variables; of a step that works on files. */
  readonly parts?: readonly (readonly [name: string, value: string])[]
  /** Build args it depends on, with digests of their values. */
  readonly args: readonly (readonly [name: string, value: string])[]
  /** IDs of the images it starts from or reads. */
  readonly images: readonly string[]
  /** Of the content it read. */
  readonly content?: string
  /** Its record in the cache. */
  readonly record: number | undefined
  /** Layers beside which a list of what was copied lies. */
  readonly sources: readonly LayerId[]
}

/** What is kept of a build for the next one of the project. */
export interface BuildMemory {
  readonly steps: readonly StepMemory[]
  /** ID of the last image. */
  readonly image: string | undefined
}

const nothing: BuildMemory = { steps: [], image: undefined }

/** Changes with the meaning of any field: what another version wrote is not known. */
const version = 1

/** Above it, what was inserted or removed is found at the ends only. */
const alignmentLimit = 1_000_000

export function encodeMemory(memory: BuildMemory): string {
  return JSON.stringify({ version, ...memory })
}

/** Nothing for a text that some other version wrote, or that is none. */
export function decodeMemory(text: string | undefined): BuildMemory {
  try {
    const document = JSON.parse(text ?? '{}') as Partial<BuildMemory> & { readonly version?: number }
    if (document.version !== version) return nothing
    return { steps: document.steps ?? [], image: document.image }
  } catch (error) {
    if (error instanceof SyntaxError) return nothing
    throw error
  }
}

/** Enough to tell values apart, and nothing to tell them by but guessing. */
export function memoryDigest(text: string): string {
  return createHash('sha256').update(text).digest('base64url').slice(0, 22)
}

/**
 * The step of the last build that a step of this one is to be compared with, by number. Within a stage, steps
 * of the same text in the same order belong together; between them, changed ones by their place.
 */
export function counterparts(
  steps: readonly Step[],
  before: readonly StepMemory[],
): ReadonlyMap<number, StepMemory> {
  const found = new Map<number, StepMemory>()
  for (const [stage, now] of grouped(steps, (step) => step.stage)) {
    const then = before.filter((step) => step.stage === stage)
    const texts = now.map((step) => memoryDigest(step.definition.text))
    for (const [i, j] of align(
      texts,
      then.map((step) => step.text),
    )) {
      const [step, memory] = [now[i], then[j]]
      if (step !== undefined && memory !== undefined) found.set(step.number, memory)
    }
  }
  return found
}

function grouped<T>(items: readonly T[], keyOf: (item: T) => string): ReadonlyMap<string, readonly T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const group = groups.get(keyOf(item))
    if (group === undefined) groups.set(keyOf(item), [item])
    else group.push(item)
  }
  return groups
}

/** Pairs of places, ascending. */
export function align(a: readonly string[], b: readonly string[]): readonly (readonly [number, number])[] {
  let start = 0
  while (start < a.length && start < b.length && a[start] === b[start]) start++
  let [endA, endB] = [a.length, b.length]
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) {
    endA--
    endB--
  }
  const equal = commonPairs(a.slice(start, endA), b.slice(start, endB))
  const pairs: (readonly [number, number])[] = []
  for (let i = 0; i < start; i++) pairs.push([i, i])
  let [fromA, fromB] = [start, start]
  for (const [i, j] of [...equal.map(([i, j]) => [i + start, j + start] as const), [endA, endB] as const]) {
    // What lies between two equal ones was changed, as far as there is something on both sides.
    for (let k = 0; fromA + k < i && fromB + k < j; k++) pairs.push([fromA + k, fromB + k])
    if (i < endA || j < endB) pairs.push([i, j])
    fromA = i + 1
    fromB = j + 1
  }
  for (let i = endA; i < a.length; i++) pairs.push([i, i - endA + endB])
  return pairs
}

/** A longest common subsequence. */
function commonPairs(a: readonly string[], b: readonly string[]): readonly (readonly [number, number])[] {
  if (a.length === 0 || b.length === 0 || a.length * b.length > alignmentLimit) return []
  const width = b.length + 1
  const lengths = new Uint32Array((a.length + 1) * width)
  const at = (i: number, j: number): number => lengths[i * width + j] ?? 0
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      lengths[i * width + j] = a[i] === b[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1))
    }
  }
  const pairs: (readonly [number, number])[] = []
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) pairs.push([i++, j++])
    else if (at(i + 1, j) >= at(i, j + 1)) i++
    else j++
  }
  return pairs
}
