import type { VertexId, WorkdirVertex } from '../plan/plan.js'
import { staticKey } from './cache-key.js'
import { type BuildEnvironment, lowerDirectories, type Snapshot } from './environment.js'
import type { Executed } from './execute.js'
import {
  childSnapshot,
  holdCached,
  ownLayer,
  parentSnapshot,
  publishLayer,
  withStaging,
} from './layer-result.js'

/** WORKDIR: makes the directory; an existing one adds no layer. */
export async function executeWorkdir(
  environment: BuildEnvironment,
  vertex: WorkdirVertex,
  results: ReadonlyMap<VertexId, Snapshot>,
): Promise<Executed> {
  const { ports, uid, fixedTime } = environment
  const parent = parentSnapshot(vertex.parent, results)
  const { key, parts } = staticKey(vertex, { parent: parent.key, inputs: [], fixedTime })
  if (!environment.noCache) {
    const [record] = await ports.cache.lookup(uid, key)
    if (record !== undefined) {
      if (record.layer === null) return { snapshot: childSnapshot(parent, key, null), cached: true }
      const own = await holdCached(environment, vertex.id, record.layer)
      if (own !== undefined) return { snapshot: childSnapshot(parent, key, own), cached: true }
    }
  }
  return await withStaging(environment, async (staging) => {
    const lowers = lowerDirectories(ports, parent.layers)
    const { user, path } = vertex
    const made = await ports.workers.run('makeDirectory', {
      ...{ upper: staging.upper, lowers, path, user, fixedTime },
    })
    if (!made.created) {
      await ports.layers.abandon(staging)
      await ports.cache.store(uid, { staticKey: key, contentKey: '', layer: null }, parts)
      return { snapshot: childSnapshot(parent, key, null), cached: false }
    }
    const id = await publishLayer(environment, staging, made)
    await ports.cache.store(uid, { staticKey: key, contentKey: '', layer: id }, parts)
    return { snapshot: childSnapshot(parent, key, ownLayer(environment, vertex.id, id, made)), cached: false }
  })
}
