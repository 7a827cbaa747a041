import type { LayerId, SealedLayer, StagingLayer } from '../../ports/layer-store.js'
import type { IdentifiedLayer, SealResult } from '../../ports/layer-worker.js'
import type { VertexId } from '../plan/plan.js'
import {
  type BuildEnvironment,
  emptySnapshot,
  type OwnLayer,
  type Snapshot,
  stackKey,
} from './environment.js'

export type SnapshotMarks = Pick<Snapshot, 'tainted' | 'imported'>

/** The state a vertex starts from. */
export function parentSnapshot(parent: VertexId | null, results: ReadonlyMap<VertexId, Snapshot>): Snapshot {
  if (parent === null) return emptySnapshot
  const snapshot = results.get(parent)
  if (snapshot === undefined) throw new Error(`no result of vertex ${parent}`)
  return snapshot
}

/** Runs `work` on a fresh staging layer and throws the directory away when it fails. */
export async function withStaging<T>(
  environment: BuildEnvironment,
  work: (staging: StagingLayer) => Promise<T>,
): Promise<T> {
  const { layers } = environment.ports
  const staging = await layers.stage(environment.lease)
  try {
    return await work(staging)
  } catch (error) {
    await layers.abandon(staging)
    throw error
  }
}

/** Publishes what `staging` holds as the layer of a vertex; some of its files may be links to those of `sharesWith`. */
export async function publishLayer(
  environment: BuildEnvironment,
  staging: StagingLayer,
  sealed: IdentifiedLayer | undefined,
  sharesWith?: LayerId,
): Promise<LayerId> {
  const record: SealedLayer = {
    diffId: sealed?.diffId ?? null,
    tarSize: sealed?.tarSize ?? null,
    keepsHeaders: false,
    parentKey: null,
    contentId: sealed?.contentId ?? null,
    sharesWith,
  }
  const { id } = await environment.ports.layers.publish(staging, record, environment.lease)
  if (typeof sealed?.contentId === 'string') environment.states.note(id, sealed.contentId)
  return id
}

/**
 * The own layer of a vertex. One that the exported image needs is hashed in the background, while
 * later steps already stand on it; with `identify` so that they can be compared with what was made over
 * an equal one.
 */
export function ownLayer(
  environment: BuildEnvironment,
  vertex: VertexId,
  id: LayerId,
  known: Pick<SealResult, 'diffId' | 'tarSize'> | undefined,
  identify = false,
): OwnLayer {
  if (known !== undefined) return { id, sealed: Promise.resolve(known) }
  if (!environment.sealed.has(vertex)) {
    const sealed = Promise.reject(new Error(`layer ${id} of vertex ${vertex} is not exported`))
    sealed.catch(() => undefined)
    return { id, sealed }
  }
  return { id, sealed: environment.states.seal(id, identify) }
}

/** A cached layer, protected from now on; undefined when it is gone or damaged. */
export async function holdCached(
  environment: BuildEnvironment,
  vertex: VertexId,
  id: LayerId,
): Promise<OwnLayer | undefined> {
  try {
    const [record] = await environment.ports.layers.hold([id], environment.lease)
    if (record === undefined) return undefined
    const known =
      record.diffId === null || record.tarSize === null
        ? undefined
        : { diffId: record.diffId, tarSize: record.tarSize }
    return ownLayer(environment, vertex, id, known)
  } catch (error) {
    environment.ports.log.warn('cache.layer-unusable', { layer: id, error: String(error) })
    return undefined
  }
}

/** What a vertex made of `parent`, marked by what it read besides. */
export function childSnapshot(
  parent: Snapshot,
  own: OwnLayer | null,
  { tainted, imported }: SnapshotMarks,
): Snapshot {
  const layers = own === null ? parent.layers : [...parent.layers, own.id]
  const key = own === null ? parent.key : stackKey(layers)
  return { key, layers, tainted: parent.tainted || tainted, imported: parent.imported || imported, own }
}
