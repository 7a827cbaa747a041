import { parseDockerfile } from '@isula-build/shared/dockerfile/parser.js'
import type { Clock } from '../../ports/clock.js'
import type { ImageResolver } from '../../ports/image-resolver.js'
import type { ImageRecord, ImageStore } from '../../ports/image-store.js'
import { assembleConfig } from '../image/assemble.js'
import { type PlanOptions, planBuild } from '../plan/from-dockerfile.js'
import type { Plan, PlannedImage, Vertex, VertexId } from '../plan/plan.js'
import { type BuildEnvironment, emptySnapshot, type Snapshot } from '../solve/environment.js'
import { executeVertex } from '../solve/execute.js'
import { solve } from '../solve/solver.js'
import type { BuildProgress } from './progress.js'
import { mergeStageLayers } from './stage-layers.js'

export interface BuildInput {
  readonly dockerfile: { readonly content: Uint8Array; readonly name: string }
  readonly plan: PlanOptions
  /** Local names for the result, canonical. */
  readonly names: readonly string[]
  /** `stage`: one layer per stage, as the original makes them. */
  readonly layers: 'instruction' | 'stage'
}

export interface BuildServices {
  readonly images: ImageStore
  readonly resolver: ImageResolver
  readonly clock: Clock
  readonly progress: BuildProgress
  /** Made once the plan says which layers are exported. */
  readonly environment: (sealed: ReadonlySet<VertexId>) => BuildEnvironment
}

/** Dockerfile in, stored image out. Outputs and iidfiles are the caller's business. */
export async function runBuild(
  input: BuildInput,
  services: BuildServices,
  signal: AbortSignal,
): Promise<ImageRecord> {
  const { progress, clock, images, resolver } = services
  const dockerfile = parseDockerfile(input.dockerfile.content, input.dockerfile.name)
  const plan = await planBuild(dockerfile, input.plan, resolver, signal)
  for (const { message, source } of plan.warnings) {
    progress.note({ kind: 'warning', at: clock.now(), message, ...(source === undefined ? {} : { source }) })
  }
  progress.start(plan.steps)
  await finishConfigSteps(plan, progress)

  const environment = services.environment(exportedVertices(plan))
  const results = await solve<Snapshot>(plan, {
    signal,
    execute: (vertex, done, inner) => executeVertex(environment, vertex, done, inner),
  })
  const created = new Date(environment.fixedTime === undefined ? clock.now() : environment.fixedTime * 1000)
  const final =
    input.layers === 'stage' ? await mergeStageLayers(environment, plan, results, signal) : results
  for (const stage of plan.stages) {
    if (stage.image === plan.target) continue
    const { id } = await assemble(stage.image, final, created)
    progress.note({ kind: 'stage-committed', at: clock.now(), stage: stage.index, imageId: id })
  }
  const assembled = await assemble(plan.target, final, created)
  const { vertex } = plan.target
  const record = await images.put(
    {
      configBytes: assembled.bytes,
      layers: vertex === null ? [] : resultOf(final, vertex).layers,
      names: input.names,
      owner: environment.uid,
    },
    environment.lease,
  )
  const target = plan.stages.find((stage) => stage.image === plan.target)
  progress.note({
    kind: 'stage-committed',
    at: clock.now(),
    stage: target?.index ?? plan.stages.length,
    imageId: record.id,
  })
  return record
}

/** Instructions without a vertex of their own are done as soon as the build is planned. */
async function finishConfigSteps(plan: Plan, progress: BuildProgress): Promise<void> {
  const shown = new Set(plan.vertices.map((vertex) => vertex.step))
  for (const step of plan.steps) {
    if (!shown.has(step.number)) await progress.stepFinished(step.number, 'done')
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

function resultOf(results: ReadonlyMap<VertexId, Snapshot>, id: VertexId): Snapshot {
  return results.get(id) ?? emptySnapshot
}

async function assemble(image: PlannedImage, results: ReadonlyMap<VertexId, Snapshot>, created: Date) {
  const layers = await Promise.all(
    image.history.map(async ({ vertex }) => {
      const own = vertex === undefined ? null : resultOf(results, vertex).own
      return own === null ? null : { diffId: (await own.sealed).diffId }
    }),
  )
  return assembleConfig({ planned: image, base: image.base?.config ?? null, layers, created })
}
