import type { CacheReason, StepCache } from '@isula-build/shared/progress/cache-reason.js'
import type { CacheIndex, CacheOrigin } from '../../ports/cache-index.js'
import type { LayerId, LayerStore, Lease } from '../../ports/layer-store.js'
import type { LayerWorkers, SourceChanges } from '../../ports/layer-worker.js'
import type { Logger } from '../../ports/logger.js'
import type { Plan, Step, Vertex } from '../plan/plan.js'
import { counterparts, decodeMemory, encodeMemory, memoryDigest, type StepMemory } from './build-memory.js'
import type { EvictedResult } from './cached-result.js'
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

/** Tells for every step of a build why it had to be done, compared with the last build of the project. */
export interface Explainer {
  /** At once for a hit; else when it is found out, for which no other step waits. */
  executed(vertex: Vertex, end: { readonly cached: boolean; readonly facts: VertexFacts }): Promise<StepCache>
  /** A step without a vertex. */
  configured(step: Step): Promise<StepCache>
  /** For the next build: the steps done, and of the others what was known before. */
  memory(): string
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
  readonly before: string | undefined
  /** Nothing of the step's stage is taken from the cache. */
  readonly isUncached: (stageIndex: number) => boolean
}

/** Paths that a reason names. */
const shownPaths = 5

const hit: StepCache = { status: 'hit' }
const nothingRead: VertexFacts = {
  ...{ shape: '', contentKey: '', record: undefined, evicted: [], sources: [], origin: undefined },
}

export function createExplainer(plan: Plan, options: ExplainOptions, services: ExplainServices): Explainer {
  const before = counterparts(plan.steps, decodeMemory(options.before))
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

  function remember(step: Step, vertex: Vertex | undefined, facts: VertexFacts): StepMemory {
    const { definition } = step
    const memory: StepMemory = {
      stage: step.stage,
      text: memoryDigest(definition.text),
      meaning: facts.shape === '' ? memoryDigest(definition.meaning) : facts.shape,
      args: definition.args.map(({ name, value }) => [name, memoryDigest(value)]),
      images: vertex === undefined ? [] : readImages(vertex, vertices),
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
    if (now.meaning === then.meaning) return undefined
    const known = new Map(then.args)
    const argument = now.args.find(([name, value]) => known.get(name) !== value)
    if (argument !== undefined) return { kind: 'arg-changed', name: argument[0] }
    const gone = then.args.find(([name]) => now.args.every(([other]) => other !== name))
    if (gone !== undefined) return { kind: 'arg-changed', name: gone[0] }
    return missedParent(ancestry.configuring(step)) ?? { kind: 'instruction-changed' }
  }

  async function contentChange(
    vertex: Vertex,
    now: StepMemory,
    then: StepMemory,
  ): Promise<CacheReason | undefined> {
    if (now.content === then.content) return undefined
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

  async function evictedAt(now: StepMemory, then: StepMemory | undefined, facts: VertexFacts) {
    const exact = facts.evicted.find(({ contentKey }) => contentKey === now.content)
    if (exact !== undefined) return exact.at
    if (then?.record === undefined) return undefined
    return (await services.cache.evictions([then.record])).get(then.record)
  }

  async function missReason(
    vertex: Vertex,
    step: Step,
    now: StepMemory,
    facts: VertexFacts,
  ): Promise<CacheReason> {
    if (facts.isNeverCached || (vertex.kind !== 'image' && options.isUncached(vertex.stageIndex))) {
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
    const at = await evictedAt(now, then, facts)
    if (at !== undefined && (missed === undefined || (await reasonOf(missed))?.kind === 'evicted')) {
      return { kind: 'evicted', at }
    }
    if (then === undefined) return { kind: 'never-built' }
    return missedParent(missed) ?? { kind: 'never-built' }
  }

  return {
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
      const changed = then === undefined ? { kind: 'never-built' as const } : ownChange(step, now, then)
      return conclude(step, changed === undefined ? false : async () => changed)
    },
    memory() {
      const steps = plan.steps.flatMap(({ number }) => after.get(number) ?? before.get(number) ?? [])
      return encodeMemory(steps)
    },
    settled: async () => void (await Promise.all(outcomes.values())),
  }
}

/** What differs between what was copied then and now; undefined where nothing tells. */
async function sourceChanges(
  { layers, workers, lease, log }: ExplainServices,
  then: readonly LayerId[],
  now: readonly LayerId[],
): Promise<SourceChanges | undefined> {
  if (then.length === 0 || then.length !== now.length) return undefined
  try {
    await layers.hold(then, lease)
    const all = await Promise.all(
      then.map(async (id, i) => {
        const other = now[i] ?? id
        if (id === other) return undefined
        const [before, after] = [`${layers.directory(id)}/sources`, `${layers.directory(other)}/sources`]
        return await workers.run('explainSources', { before, after })
      }),
    )
    const found = all.filter((changes) => changes !== undefined)
    if (found.length === 0) return undefined
    const files = found.flatMap((changes) => changes.files).sort()
    const modes = found.flatMap((changes) => changes.modes).sort()
    const more = (shown: readonly string[], left: readonly number[]) =>
      left.reduce((sum, count) => sum + count, Math.max(0, shown.length - shownPaths))
    return {
      files: files.slice(0, shownPaths),
      moreFiles: more(
        files,
        found.map(({ moreFiles }) => moreFiles),
      ),
      modes: modes.slice(0, shownPaths),
      moreModes: more(
        modes,
        found.map(({ moreModes }) => moreModes),
      ),
    }
  } catch (error) {
    log.debug('cache.not-explained', { error: String(error) })
    return undefined
  }
}
