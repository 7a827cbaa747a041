import type { VertexId, WorkdirVertex } from '../plan/plan.js'
import { shapeOf } from './cache-key.js'
import { type CacheQuery, findCached, marksOf, originOf, queryKey, storeResult } from './cached-result.js'
import { type BuildEnvironment, lowerDirectories, type Snapshot } from './environment.js'
import { type Executed, executedFrom } from './executed.js'
import { childSnapshot, ownLayer, parentSnapshot, publishLayer, withStaging } from './layer-result.js'
import { shareStep } from './shared-step.js'

/** WORKDIR: makes the directory; an existing one adds no layer. */
export async function executeWorkdir(
  environment: BuildEnvironment,
  vertex: WorkdirVertex,
  results: ReadonlyMap<VertexId, Snapshot>,
  signal: AbortSignal,
): Promise<Executed> {
  const parent = parentSnapshot(vertex.parent, results)
  const shaped = shapeOf(vertex, { fixedTime: environment.fixedTime })
  environment.explainer.begun(vertex, shaped)
  environment.explainer.noted(vertex, { contentKey: '' })
  const { shape } = shaped
  const query: CacheQuery = {
    ...{ vertex, shape, parent, inputs: [], tainted: false, readsInputsOnly: true },
    content: async () => '',
  }
  return await shareStep(environment, { vertex, parent, key: queryKey(query), signal }, async (execution) => {
    execution.detach()
    return await findOrMake(environment, vertex, query, execution.signal)
  })
}

async function findOrMake(
  environment: BuildEnvironment,
  vertex: WorkdirVertex,
  query: CacheQuery,
  signal: AbortSignal,
): Promise<Executed> {
  const { ports, fixedTime } = environment
  const { parent, shape } = query
  const answer = await findCached(environment, query, signal)
  if (answer.hit !== undefined) return executedFrom(query, answer)
  return await withStaging(environment, async (staging) => {
    const lowers = lowerDirectories(ports, parent.layers)
    const { user, path } = vertex
    const params = { upper: staging.upper, lowers, path, user, fixedTime }
    const made = await ports.workers.run('makeDirectory', params, signal)
    const id = made.created ? await publishLayer(environment, staging, made) : null
    if (id === null) await ports.layers.abandon(staging)
    const record = await storeResult(environment, query, { contentKey: '', layer: id })
    const own = id === null ? null : ownLayer(environment, vertex.id, id, made)
    return {
      snapshot: childSnapshot(parent, own, marksOf(query)),
      cached: false,
      facts: {
        ...{ shape, contentKey: '', record, evicted: answer.evicted, sources: [], origin: originOf(query) },
      },
    }
  })
}
