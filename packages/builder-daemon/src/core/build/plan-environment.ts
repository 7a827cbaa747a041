import { formatPlatform } from '@isula-build/shared/oci/platform.js'
import type { LayerId } from '../../ports/layer-store.js'
import type { IdentifiedLayer } from '../../ports/layer-worker.js'
import type { Plan } from '../plan/plan.js'
import { decodeMemory, encodeMemory } from '../solve/build-memory.js'
import type { BuildEnvironment } from '../solve/environment.js'
import { createExplainer } from '../solve/explain.js'
import { createLayerStates } from '../solve/states.js'

/** What a session knows of the environment of its vertices. */
export type SessionEnvironment = Omit<BuildEnvironment, 'noCacheStages' | 'states' | 'facts' | 'explainer'>

export interface PlanEnvironment extends BuildEnvironment {
  /** ID of the last image of the project unless that has a fixed time; it may be gone. */
  readonly lastImage: string | undefined
  /**
   * Keeps what the steps were for the next build of the project, and the image, that of before when none was made and
   * none when it has a fixed time; waits for what looks into layers.
   */
  remember(made: string | undefined): Promise<void>
}

/** Adds what belongs to one plan. */
export async function completeEnvironment(
  plan: Plan,
  session: SessionEnvironment,
  { noCacheStages, project }: { readonly noCacheStages: ReadonlySet<number>; readonly project: string },
): Promise<PlanEnvironment> {
  const { ports, lease, uid, noCache } = session
  const { cache, layers, workers, log } = ports
  // Platforms are built for themselves, so each is compared with itself.
  const key = `${project} ${formatPlatform(plan.target.platform)}`
  const before = decodeMemory(await cache.recall(uid, key))
  const isUncached = (stageIndex: number): boolean => noCache || noCacheStages.has(stageIndex)
  const services = { cache, layers, workers, lease, log }
  const explainer = createExplainer(plan, { before: before.steps, isUncached }, services)
  // What is likely to be used again is held in one step rather than in one for each.
  const records = noCache ? [] : before.steps.flatMap(({ record }) => record ?? [])
  await layers.holdReady(await cache.layersOf(uid, records), lease)
  return {
    ...{ ...session, noCacheStages, explainer, facts: new Map(), lastImage: before.image },
    states: createLayerStates({
      layers,
      lease,
      log,
      hash: (id, identify) => hashLayer(session, id, identify),
    }),
    remember: async (made = before.image) => {
      // Its fixed time is not to be the time of a build without one.
      const image = session.fixedTime === undefined ? made : undefined
      const memory = encodeMemory({ steps: explainer.memory(), image })
      try {
        await Promise.all([cache.remember(uid, key, memory), explainer.settled()])
      } catch (error) {
        log.warn('cache.not-remembered', { error: String(error) })
      }
    },
  }
}

/** Of builds that export the same layer, or compare with it, one hashes it. */
async function hashLayer(
  { ports, executions, signal, retainLease }: SessionEnvironment,
  id: LayerId,
  identify: boolean,
): Promise<IdentifiedLayer> {
  const { layers, workers } = ports
  return await executions.seals.run({
    ...{ key: identify ? `${id} identified` : id, signal, retain: retainLease },
    async execute(execution) {
      execution.detach()
      const params = { upper: `${layers.directory(id)}/diff`, fixedTime: undefined, identify }
      const result = await workers.run('seal', params, execution.signal)
      await layers.setDiffId(id, result.diffId, result.tarSize, result.contentId)
      return result
    },
    adopt: async (result) => result,
  })
}
