import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ImageRecord, ImageStore } from '../../ports/image-store.js'
import type { LayerId } from '../../ports/layer-store.js'
import { assembleConfig } from '../image/assemble.js'
import { imageLimits } from '../images/image-limits.js'
import type { Plan, PlannedImage, VertexId } from '../plan/plan.js'
import { createTurns, stageWork } from '../plan/turns.js'
import { emptySnapshot, type Snapshot } from '../solve/environment.js'
import type { BuildInput, BuildServices } from './build.js'
import type { PlanEnvironment } from './plan-environment.js'
import { mergeStageLayers } from './stage-layers.js'

/** A plan of which every vertex is done. */
export interface SolvedPlan {
  readonly plan: Plan
  readonly environment: PlanEnvironment
  readonly results: ReadonlyMap<VertexId, Snapshot>
}

/**
 * Stores the image of a plan, layers and names in one transaction. Where nothing was executed and nothing reads
 * differently it is the last image of the project again, with the times of that.
 */
export async function commitSolved(
  { plan, environment, results }: SolvedPlan,
  input: Pick<BuildInput, 'layers' | 'plans' | 'names'>,
  { progress, clock, images }: Pick<BuildServices, 'progress' | 'clock' | 'images'>,
  signal: AbortSignal,
): Promise<ImageRecord> {
  const created = new Date(environment.fixedTime === undefined ? clock.now() : environment.fixedTime * 1000)
  const final =
    input.layers === 'stage' ? await mergeStageLayers(environment, plan, results, signal) : results
  const turns = createTurns(signal)
  for (const stage of plan.stages) {
    if (stage.image === plan.target) continue
    const { id } = await assemble(stage.image, final, created)
    progress.note({ kind: 'stage-committed', at: clock.now(), stage: stage.index, imageId: id })
    await turns.spend(stageWork(entriesOf(stage.image)))
  }
  const { vertex } = plan.target
  const layers = vertex === null ? [] : resultOf(final, vertex).layers
  requireMountable(layers.length)
  const lastMade = await lastTime(environment, images, layers)
  const again = lastMade && (await assemble(plan.target, final, lastMade))
  const isAgain = again?.id === environment.lastImage
  const assembled = again !== undefined && isAgain ? again : await assemble(plan.target, final, created)
  const record = await images.put(
    {
      configBytes: assembled.bytes,
      layers,
      names: input.plans.length === 1 ? input.names : [],
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

function entriesOf({ config, history }: PlannedImage): number {
  return Object.keys(config.Labels ?? {}).length + (config.Env ?? []).length + history.length
}

/** Fails with ISB_LIMIT_EXCEEDED for an image that no container could be started from, nor pulled again. */
function requireMountable(count: number): void {
  if (count <= imageLimits.layers) return
  throw new BuilderError(
    'ISB_LIMIT_EXCEEDED',
    `the image would have ${count} layers, at most ${imageLimits.layers} can be mounted`,
    { hint: 'Combine RUN, COPY and ADD instructions, or build with `--layers=stage`.' },
  )
}

/** When the last image was made, if it is there and has these layers; undefined where that is not to matter. */
async function lastTime(
  { lastImage, fixedTime, noCache, noCacheStages }: PlanEnvironment,
  images: ImageStore,
  layers: readonly LayerId[],
): Promise<Date | undefined> {
  if (lastImage === undefined || fixedTime !== undefined || noCache || noCacheStages.size > 0)
    return undefined
  const last = await images.get(lastImage)
  if (last === undefined || last.damaged || last.layers.length !== layers.length) return undefined
  return last.layers.every(({ id }, i) => id === layers[i]) ? new Date(last.createdAt) : undefined
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
