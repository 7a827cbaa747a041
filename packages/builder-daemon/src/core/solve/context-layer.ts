import type { MountSource } from '../plan/plan.js'
import { digestKeys } from './cache-key.js'
import { isUncached } from './cached-result.js'
import type { ContextLayer } from './environment.js'
import { holdCached, publishLayer } from './layer-result.js'
import { mountCopy } from './mount-copy.js'
import type { MountsOf } from './run-mounts.js'

/**
 * What a bind of a context shows, as a layer: filtered by the ignore file, owned by root, immutable. Of builds that
 * bind the same directory at once one makes the layer; the others then find it, if what they read is the same.
 */
export async function contextLayer(
  of: MountsOf,
  from: Extract<MountSource, { kind: 'context' }>,
  source: string,
): Promise<ContextLayer> {
  const { environment, signal } = of
  const { ports, uid, lease, executions, contexts } = environment
  const shape = digestKeys(['context-bind', source])
  const isUnwanted = isUncached(environment, of.vertex.stageIndex)

  async function find(params: Awaited<ReturnType<typeof mountCopy>>, inner: AbortSignal) {
    const records = isUnwanted ? [] : await ports.cache.lookup(uid, shape, [])
    if (records.length === 0) return undefined
    const { contentKey } = await ports.workers.run('digestSources', params, inner)
    for (const record of records) {
      if (!record.usable || record.contentKey !== contentKey || record.layer === null) continue
      const held = await holdCached(environment, of.vertex.id, record.layer)
      if (held !== undefined) return { id: held.id, contentKey }
    }
    return undefined
  }

  async function findOrMake(inner: AbortSignal): Promise<ContextLayer> {
    const staging = await ports.layers.stage(lease)
    try {
      const place = { source, destination: source, upper: staging.upper }
      const params = await mountCopy({ ...of, signal: inner }, from, place)
      const found = await find(params, inner)
      if (found !== undefined) {
        await ports.layers.abandon(staging)
        return found
      }
      const copied = await ports.workers.run('copy', params, inner)
      const id = await publishLayer(environment, staging, copied)
      const { contentKey } = copied
      await ports.cache.store(uid, {
        ...{ shape, contentKey, layer: id, origin: { parent: [], inputs: [] } },
        ...{ state: undefined, inputsKey: undefined, tainted: false },
      })
      return { id, contentKey }
    } catch (error) {
      await ports.layers.abandon(staging)
      throw error
    }
  }

  const { identity } = await contexts.get(from.context, signal)
  return await executions.contextLayers.run({
    key: isUnwanted ? undefined : `${uid} ${identity} ${shape}`,
    signal,
    retain: environment.retainLease,
    execute: (execution) => findOrMake(execution.signal),
    adopt: () => findOrMake(signal),
  })
}
