import { parseDockerfile } from '@isula-build/shared/dockerfile/parser.js'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { formatPlatform } from '@isula-build/shared/oci/platform.js'
import type { Clock } from '../../ports/clock.js'
import type { ImageResolver } from '../../ports/image-resolver.js'
import type { ImageRecord, ImageStore } from '../../ports/image-store.js'
import { type PlanOptions, planBuild } from '../plan/from-dockerfile.js'
import type { Plan, Platform, Vertex, VertexId } from '../plan/plan.js'
import { filteredStages, unknownStageWarnings } from '../plan/stage-filter.js'
import type { BuildEnvironment, Snapshot } from '../solve/environment.js'
import { executeVertex } from '../solve/execute.js'
import { solve } from '../solve/solver.js'
import { commitSolved, type SolvedPlan } from './commit.js'
import { completeEnvironment, type PlanEnvironment, type SessionEnvironment } from './plan-environment.js'
import type { BuildProgress } from './progress.js'

export interface BuildInput {
  readonly dockerfile: { readonly content: Uint8Array; readonly name: string }
  /** One for each platform to build for. */
  readonly plans: readonly PlanOptions[]
  /** Local names for the result, canonical; they are not for an image of several. */
  readonly names: readonly string[]
  /** The same for every build of the same files, for comparing it with the last one. */
  readonly project: string
  /** `stage`: one layer per stage, as the original makes them. */
  readonly layers: 'instruction' | 'stage'
  /** Stages, by name or index, of which nothing is taken from the cache; what names no stage is warned of. */
  readonly noCacheFilter: readonly string[]
}

export interface BuildServices {
  readonly images: ImageStore
  readonly resolver: ImageResolver
  readonly clock: Clock
  readonly progress: BuildProgress
  /** Made once the plan says which layers are exported. */
  readonly environment: (sealed: ReadonlySet<VertexId>) => SessionEnvironment
  /** Fails with ISB_PLATFORM_UNSUPPORTED when programs for this platform cannot be run here. */
  readonly requireRunnable: (platform: Platform) => Promise<void>
  /** Hears what was done once all of it is stored. */
  readonly onSolved?: (plans: readonly SolvedPlan[]) => void
}

/**
 * Dockerfile in, stored images out, in the order of `plans`. Everything is planned before the first step is done; the
 * platforms are then built at once, and nothing is stored unless all of them succeed. Outputs and iidfiles are the
 * caller's business.
 */
export async function runBuild(
  input: BuildInput,
  services: BuildServices,
  signal: AbortSignal,
): Promise<readonly ImageRecord[]> {
  const { progress, clock, resolver } = services
  const dockerfile = parseDockerfile(input.dockerfile.content, input.dockerfile.name)
  for (const message of unknownStageWarnings(dockerfile.stages, input.noCacheFilter)) {
    progress.note({ kind: 'warning', at: clock.now(), message })
  }
  const plans: Plan[] = []
  const warned = new Set<string>()
  for (const options of input.plans) {
    const plan = await planBuild(dockerfile, options, resolver, signal)
    const first = plans.reduce((sum, { steps }) => sum + steps.length, 0)
    plans.push(input.plans.length === 1 ? plan : numberedFrom(plan, first, formatPlatform(options.platform)))
    for (const { message, source } of plan.warnings) {
      const key = `${message} ${source?.start.line ?? ''}`
      if (warned.has(key)) continue
      warned.add(key)
      progress.note({
        kind: 'warning',
        at: clock.now(),
        message,
        ...(source === undefined ? {} : { source }),
      })
    }
  }
  for (const plan of plans) await requireRunnable(plan, services)
  progress.start(
    plans.flatMap(({ steps }) => steps),
    plans.flatMap(({ unneeded }) => unneeded),
  )
  const noCacheStages = filteredStages(dockerfile.stages, input.noCacheFilter).indexes
  const work: PlannedWork[] = []
  for (const plan of plans) {
    const session = services.environment(exportedVertices(plan))
    const environment = await completeEnvironment(plan, session, { noCacheStages, project: input.project })
    work.push({ plan, environment })
  }
  const records: ImageRecord[] = []
  try {
    const solved = await solveAll(work, signal)
    for (const one of solved) records.push(await commitSolved(one, input, services, signal))
    services.onSolved?.(solved)
    return records
  } finally {
    for (const [place, { environment }] of work.entries()) await environment.remember(records[place]?.id)
  }
}

interface PlannedWork {
  readonly plan: Plan
  readonly environment: PlanEnvironment
}

/** All plans at once; the first failure aborts the others, and is what rejects once all of them have stopped. */
async function solveAll(work: readonly PlannedWork[], signal: AbortSignal): Promise<readonly SolvedPlan[]> {
  const failure = new AbortController()
  const inner = AbortSignal.any([signal, failure.signal])
  let first: { readonly error: unknown } | undefined
  const solved: SolvedPlan[] = []
  const solveOne = async ({ plan, environment }: PlannedWork, place: number): Promise<void> => {
    try {
      await finishConfigSteps(plan, environment)
      const results = await solve<Snapshot>(plan, {
        signal: inner,
        execute: (vertex, done, own) => executeVertex(environment, vertex, done, own),
      })
      solved[place] = { plan, environment, results }
    } catch (error) {
      first ??= { error }
      failure.abort()
    }
  }
  await Promise.all(work.map(solveOne))
  if (first !== undefined) throw first.error
  return solved
}

/** Several plans are shown as one build, each step with its platform. */
function numberedFrom(plan: Plan, before: number, platform: string): Plan {
  const shifted = <T extends Vertex>(vertex: T): T => ({
    ...vertex,
    step: vertex.step === 0 ? 0 : vertex.step + before,
  })
  return {
    ...plan,
    vertices: plan.vertices.map(shifted),
    steps: plan.steps.map((step) => ({
      ...step,
      number: step.number + before,
      text: `[${platform}] ${step.text}`,
    })),
    unneeded: plan.unneeded.map((step) => ({
      ...step,
      before: step.before + before,
      text: `[${platform}] ${step.text}`,
    })),
  }
}

/** Before anything is done: a build that cannot end is not begun. */
async function requireRunnable(plan: Plan, { requireRunnable: require }: BuildServices): Promise<void> {
  for (const vertex of plan.vertices) {
    if (vertex.kind !== 'run') continue
    try {
      await require(vertex.platform)
    } catch (error) {
      throw isBuilderError(error) ? error.with({ source: vertex.source }) : error
    }
  }
}

/** Instructions without a vertex of their own are done as soon as the build is planned. */
async function finishConfigSteps(
  plan: Plan,
  { progress, explainer }: Pick<BuildEnvironment, 'progress' | 'explainer'>,
): Promise<void> {
  const shown = new Set(plan.vertices.map((vertex) => vertex.step))
  for (const step of plan.steps) {
    if (shown.has(step.number)) continue
    await progress.stepFinished(step.number, 'done', explainer.configured(step))
  }
}

/** The vertices below every committed image: those whose layers it lists. */
function exportedVertices(plan: Plan): ReadonlySet<VertexId> {
  const byId = new Map(plan.vertices.map((vertex) => [vertex.id, vertex]))
  const exported = new Set<VertexId>()
  for (const { vertex } of [plan.target, ...plan.stages.map((stage) => stage.image)]) {
    for (let id = vertex; id !== null && !exported.has(id); id = parentOf(byId.get(id))) exported.add(id)
  }
  return exported
}

function parentOf(vertex: Vertex | undefined): VertexId | null {
  return vertex === undefined || vertex.kind === 'image' ? null : vertex.parent
}
