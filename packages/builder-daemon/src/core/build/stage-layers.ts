import type { Plan, Vertex, VertexId } from '../plan/plan.js'
import {
  type BuildEnvironment,
  emptySnapshot,
  lowerDirectories,
  type Snapshot,
} from '../solve/environment.js'
import { publishLayer, withStaging } from '../solve/layer-result.js'

/**
 * `--layers=stage`: the layers a stage added become one, described by the last of its history entries
 * that made a layer. Stages are merged in order, so a stage built on another one stands on its merged layer.
 */
export async function mergeStageLayers(
  environment: BuildEnvironment,
  plan: Plan,
  results: ReadonlyMap<VertexId, Snapshot>,
  signal: AbortSignal,
): Promise<ReadonlyMap<VertexId, Snapshot>> {
  const { ports } = environment
  const merged = new Map(results)
  const vertices = new Map(plan.vertices.map((vertex) => [vertex.id, vertex]))
  for (const stage of plan.stages) {
    const chain = chainOf(vertices, stage.image.vertex, stage.index)
    const adding = chain.filter((id) => results.get(id)?.own)
    const first = chain[0]
    const last = adding.at(-1)
    if (first === undefined || last === undefined) continue
    const below = belowOf(vertices, merged, first)
    const owns = adding.flatMap((id) => results.get(id)?.own?.id ?? [])
    const layer = await withStaging(environment, async (staging) => {
      const diffs = lowerDirectories(ports, owns).toReversed()
      const lowers = lowerDirectories(ports, below.layers)
      await ports.workers.run('merge', { diffs, lowers, upper: staging.upper }, signal)
      const sealed = await ports.workers.run(
        'seal',
        { upper: staging.upper, fixedTime: environment.fixedTime },
        signal,
      )
      // Of the same layers the same becomes every time, so that a build without changes is the last image again.
      const same = await ports.layers.findByDiffId(sealed.diffId, '', environment.lease, 'has')
      if (same !== undefined) await ports.layers.abandon(staging)
      const id = same?.id ?? (await publishLayer(environment, staging, sealed))
      return { id, sealed: Promise.resolve(sealed) }
    })
    for (const id of chain) {
      const snapshot = results.get(id) ?? emptySnapshot
      merged.set(id, {
        ...snapshot,
        layers: [...below.layers, layer.id],
        own: id === last ? layer : null,
      })
    }
  }
  return merged
}

/** The stage's own vertices, bottom first. */
function chainOf(
  vertices: ReadonlyMap<VertexId, Vertex>,
  top: VertexId | null,
  stage: number,
): readonly VertexId[] {
  const chain: VertexId[] = []
  for (let id = top; id !== null; ) {
    const vertex = vertices.get(id)
    if (vertex === undefined || vertex.kind === 'image' || vertex.stageIndex !== stage) break
    chain.unshift(id)
    id = vertex.parent
  }
  return chain
}

function belowOf(
  vertices: ReadonlyMap<VertexId, Vertex>,
  merged: ReadonlyMap<VertexId, Snapshot>,
  first: VertexId,
): Snapshot {
  const vertex = vertices.get(first)
  const parent = vertex === undefined || vertex.kind === 'image' ? null : vertex.parent
  return parent === null ? emptySnapshot : (merged.get(parent) ?? emptySnapshot)
}
