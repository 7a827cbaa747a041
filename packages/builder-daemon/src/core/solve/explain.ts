import type { CacheReason, StepCache } from '@isula-build/shared/progress/cache-reason.js'
import type { CacheIndex, CacheOrigin } from '../../ports/cache-index.js'
import type { LayerId, LayerStore, Lease } from '../../ports/layer-store.js'
import type { LayerWorkers } from '../../ports/layer-worker.js'
import type { Logger } from '../../ports/logger.js'
import type { Plan, Step, Vertex, VertexId } from '../plan/plan.js'
import { counterparts, memoryDigest, type StepMemory } from './build-memory.js'
import type { Shape } from './cache-key.js'
import type { EvictedResult } from './cached-result.js'
import { sourceChanges } from './source-changes.js'
import {
  createAncestry,
  parentOf,
  readImages,
  readsElsewhere,
  readVertices,
  secretPaths,
} from './step-ancestry.js'

/** What the cache was asked about a vertex, and what became of it. */
export interface VertexFacts {
  readonly shape: string
  readonly contentKey: string
  readonly record: number | undefined
  readonly evicted: readonly EvictedResult[]
  /** What it was executed over; undefined where that is nothing but an image. */
  readonly origin: CacheOrigin | undefined
  /** Layers beside which lies what was copied of contexts. */
  readonly sources: readonly LayerId[]
  /** Nothing says what an ssh agent answered. */
  readonly isNeverCached?: boolean
}

/** What is found out of a vertex before it is done. */
export interface VertexSigns {
  /** undefined: it could not be read. */
  readonly contentKey?: string
  readonly evicted?: readonly EvictedResult[]
  readonly isNeverCached?: boolean
}

/** Tells for every step of a build why it had to be done, compared with the last build of the project. */
export interface Explainer {
  /** What the vertex is to do. */
  begun(vertex: Vertex, shape: Shape): void
  /** Adds to what is known of a vertex that may fail. */
  noted(vertex: Pick<Vertex, 'id'>, signs: VertexSigns): void
  /** Of one that failed: why it was executed at all. */
  failed(vertex: Vertex): Promise<StepCache>
  /** At once for a hit; else when it is found out, for which no other step waits. */
  executed(vertex: Vertex, end: { readonly cached: boolean; readonly facts: VertexFacts }): Promise<StepCache>
  /** A step without a vertex. */
  configured(step: Step): Promise<StepCache>
  /** For the next build: the steps done, and of the others what was known before, if only that they are there. */
  memory(): readonly StepMemory[]
  /** Resolves when all reasons are found out; until then layers are looked into. */
  settled(): Promise<void>
}

export interface ExplainServices {
  readonly cache: CacheIndex
  readonly layers: LayerStore
  readonly workers: LayerWorkers
  readonly lease: Lease
  readonly log: Logger
}

export interface ExplainOptions {
  /** What `memory` gave after the last build. */
  readonly before: readonly StepMemory[]
  /** Nothing of the step's stage is taken from the cache. */
  readonly isUncached: (stageIndex: number) => boolean
}

/** Parts of a vertex that an option of the build decides, rather than the Dockerfile. */
const optionParts = new Set(['network', 'capabilities', 'isolation', 'fixed time'])

const hit: StepCache = { status: 'hit' }
const nothingRead: VertexFacts = {
  ...{ shape: '', contentKey: '', record: undefined, evicted: [], sources: [], origin: undefined },
}

export function createExplainer(plan: Plan, options: ExplainOptions, services: ExplainServices): Explainer {
  const before = counterparts(plan.steps, options.before)
  const isFirst = options.before.length === 0
  const shapes = new Map<VertexId, Shape>()
  const signs = new Map<VertexId, VertexSigns>()
  const after = new Map<number, StepMemory>()
  const outcomes = new Map<number, Promise<StepCache>>()
  const misses = new Set<number>()
  const stepOf = new Map(plan.steps.map((step) => [step.number, step]))
  const vertices = new Map(plan.vertices.map((vertex) => [vertex.id, vertex]))
  const ancestry = createAncestry(plan, (step) => misses.has(step))

  const isSameImage = (vertex: Vertex): boolean => {
    const then = before.get(vertex.step)
    const text = stepOf.get(vertex.step)?.definition.text
    return (
      vertex.kind === 'image' && then?.images[0] === vertex.image.id && then.text === memoryDigest(text ?? '')
    )
  }
  // What FROM means is known before anything is done, and config-only steps may miss because of it.
  for (const vertex of plan.vertices) {
    if (vertex.kind === 'image' && !isSameImage(vertex)) misses.add(vertex.step)
  }

  /** What the step says, whatever came of it. */
  function outlineOf({ stage, definition }: Step, vertex: Vertex | undefined): StepMemory {
    const parts = vertex === undefined ? [] : (shapes.get(vertex.id)?.parts ?? [])
    return {
      stage,
      text: memoryDigest(definition.text),
      args: definition.args.map(({ name, value }) => [name, memoryDigest(value)]),
      images: vertex === undefined ? [] : readImages(vertex, vertices),
      parts: parts.flatMap(({ name, value }) => (optionParts.has(name) ? [[name, memoryDigest(value)]] : [])),
      record: undefined,
      sources: [],
    }
  }

  function remember(step: Step, vertex: Vertex | undefined, facts: VertexFacts): StepMemory {
    const memory: StepMemory = {
      ...outlineOf(step, vertex),
      meaning: facts.shape === '' ? memoryDigest(step.definition.meaning) : facts.shape,
      content: facts.contentKey,
      record: facts.record,
      sources: facts.sources,
    }
    after.set(step.number, memory)
    return memory
  }

  function conclude(step: Step, missed: false | (() => Promise<CacheReason>)): Promise<StepCache> {
    if (missed !== false) misses.add(step.number)
    const outcome =
      missed === false
        ? Promise.resolve(hit)
        : missed()
            .catch(unexplained)
            .then((reason): StepCache => ({ status: 'miss', reason }))
    outcomes.set(step.number, outcome)
    return outcome
  }

  /** That a reason is not found is no reason to fail. */
  function unexplained(error: unknown): CacheReason {
    services.log.warn('cache.not-explained', { error: String(error) })
    return { kind: 'never-built' }
  }

  /** Of a step that the last build did not have. */
  const unknown: CacheReason = { kind: isFirst ? 'never-built' : 'instruction-added' }

  const reasonOf = async (step: number): Promise<CacheReason | undefined> => {
    const outcome = await outcomes.get(step)
    return outcome?.status === 'miss' ? outcome.reason : undefined
  }

  const missedParent = (step: number | undefined): CacheReason | undefined =>
    step === undefined ? undefined : { kind: 'parent-missed', step }

  /** The instruction itself says something else; undefined when it does not. */
  function ownChange(step: Step, now: StepMemory, then: StepMemory): CacheReason | undefined {
    const replaced = now.images.findIndex((image, i) => image !== then.images[i])
    const [from, to] = [then.images[replaced], now.images[replaced]]
    if (from !== undefined && to !== undefined) return { kind: 'base-changed', from, to }
    if (now.text !== then.text) return { kind: 'instruction-changed' }
    if (now.meaning === then.meaning || now.meaning === undefined || then.meaning === undefined) {
      return undefined
    }
    const known = new Map(then.args)
    const argument = now.args.find(([name, value]) => known.get(name) !== value)
    if (argument !== undefined) return { kind: 'arg-changed', name: argument[0] }
    const gone = then.args.find(([name]) => now.args.every(([other]) => other !== name))
    if (gone !== undefined) return { kind: 'arg-changed', name: gone[0] }
    const before = new Map(then.parts)
    const parts = (now.parts ?? []).flatMap(([name, value]) => (before.get(name) === value ? [] : [name]))
    if (parts.length > 0 && before.size > 0) return { kind: 'instruction-changed', parts }
    return missedParent(ancestry.configuring(step)) ?? { kind: 'instruction-changed' }
  }

  async function contentChange(
    vertex: Vertex,
    now: StepMemory,
    then: StepMemory,
  ): Promise<CacheReason | undefined> {
    if (now.content === then.content || now.content === undefined || then.content === undefined) {
      return undefined
    }
    const missed = readVertices(vertex)
      .map(ancestry.missed)
      .find((step) => step !== undefined)
    if (!readsElsewhere(vertex)) {
      // Nobody changed it but the steps before.
      const reason = missedParent(missed ?? ancestry.missed(parentOf(vertex)))
      if (reason !== undefined) return reason
    }
    const changes = await sourceChanges(services, then.sources, now.sources)
    if (changes !== undefined && changes.files.length > 0) {
      return { kind: 'files-changed', paths: changes.files, more: changes.moreFiles }
    }
    if (changes !== undefined && changes.modes.length > 0) {
      return { kind: 'mode-changed', paths: changes.modes, more: changes.moreModes }
    }
    return missedParent(missed) ?? { kind: 'files-changed', paths: secretPaths(vertex), more: 0 }
  }

  async function evictedAt(
    now: StepMemory,
    then: StepMemory | undefined,
    evicted: readonly EvictedResult[],
  ): Promise<number | undefined> {
    const exact = evicted.find(({ contentKey }) => contentKey === now.content)
    if (exact !== undefined) return exact.at
    if (then?.record === undefined) return undefined
    return (await services.cache.evictions([then.record])).get(then.record)
  }

  async function missReason(
    vertex: Vertex,
    step: Step,
    now: StepMemory,
    { evicted, isNeverCached }: Pick<VertexFacts, 'evicted' | 'isNeverCached'>,
  ): Promise<CacheReason> {
    if (isNeverCached || (vertex.kind !== 'image' && options.isUncached(vertex.stageIndex))) {
      return { kind: 'no-cache' }
    }
    const then = before.get(step.number)
    if (then !== undefined) {
      const changed = ownChange(step, now, then) ?? (await contentChange(vertex, now, then))
      if (changed !== undefined) return changed
    }
    const parent = ancestry.missed(parentOf(vertex))
    const missed =
      parent ??
      readVertices(vertex)
        .map(ancestry.missed)
        .find((one) => one !== undefined)
    const at = await evictedAt(now, then, evicted)
    if (at !== undefined && (missed === undefined || (await reasonOf(missed))?.kind === 'evicted')) {
      return { kind: 'evicted', at }
    }
    if (then === undefined) return unknown
    if (missed !== undefined) return { kind: 'parent-missed', step: missed }
    // What could be read the last time cannot be read now.
    const isUnread = now.content === undefined && then.content !== undefined && readsElsewhere(vertex)
    return isUnread ? { kind: 'files-changed', paths: [], more: 0 } : { kind: 'never-built' }
  }

  return {
    begun: (vertex, shape) => void shapes.set(vertex.id, shape),
    noted: ({ id }, found) => void signs.set(id, { ...signs.get(id), ...found }),
    async failed(vertex) {
      const step = stepOf.get(vertex.step)
      if (step === undefined) return hit
      const { contentKey, evicted = [], isNeverCached = false } = signs.get(vertex.id) ?? {}
      const shape = shapes.get(vertex.id)?.shape
      const now = {
        ...outlineOf(step, vertex),
        ...(shape !== undefined && { meaning: shape }),
        ...(contentKey !== undefined && { content: contentKey }),
      }
      return await conclude(step, () => missReason(vertex, step, now, { evicted, isNeverCached }))
    },
    executed(vertex, { cached, facts }) {
      const step = stepOf.get(vertex.step)
      if (step === undefined) return Promise.resolve(hit)
      const now = remember(step, vertex, facts)
      return conclude(
        step,
        cached || isSameImage(vertex) ? false : () => missReason(vertex, step, now, facts),
      )
    },
    configured(step) {
      const now = remember(step, undefined, nothingRead)
      const then = before.get(step.number)
      if (step.definition.instruction !== 'from' && options.isUncached(step.stageIndex)) {
        return conclude(step, async () => ({ kind: 'no-cache' }))
      }
      const changed = then === undefined ? unknown : ownChange(step, now, then)
      return conclude(step, changed === undefined ? false : async () => changed)
    },
    memory() {
      const vertexOf = new Map(plan.vertices.map((vertex) => [vertex.step, vertex]))
      return plan.steps.map(
        (step) =>
          after.get(step.number) ?? before.get(step.number) ?? outlineOf(step, vertexOf.get(step.number)),
      )
    },
    settled: async () => void (await Promise.all(outcomes.values())),
  }
}
