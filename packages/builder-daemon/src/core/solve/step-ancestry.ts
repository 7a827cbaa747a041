import type { Plan, Step, Vertex, VertexId } from '../plan/plan.js'

/** Which of the steps before a step missed. */
export interface Ancestry {
  /** The nearest step that missed, from this vertex down. */
  readonly missed: (vertex: VertexId | null) => number | undefined
  /** The nearest missed step before this one that changes what it says: ENV, ARG, USER, SHELL, WORKDIR, FROM. */
  readonly configuring: (step: Step) => number | undefined
}

const configuring: ReadonlySet<string> = new Set(['env', 'arg', 'user', 'shell', 'workdir', 'from'])

export function createAncestry(plan: Plan, isMissed: (step: number) => boolean): Ancestry {
  const vertices = new Map(plan.vertices.map((vertex) => [vertex.id, vertex]))

  function missed(from: VertexId | null): number | undefined {
    for (let id = from; id !== null; ) {
      const vertex = vertices.get(id)
      if (vertex === undefined) return undefined
      if (isMissed(vertex.step)) return vertex.step
      id = parentOf(vertex)
    }
    return undefined
  }

  function nearest(stageIndex: number, below: number): number | undefined {
    let base: number | undefined
    let found: number | undefined
    for (const { number, stageIndex: index, definition } of plan.steps) {
      if (index !== stageIndex || number >= below) continue
      base ??= definition.baseStage
      if (configuring.has(definition.instruction) && isMissed(number)) found = number
    }
    return found ?? (base === undefined ? undefined : nearest(base, Number.POSITIVE_INFINITY))
  }

  return { missed, configuring: (step) => nearest(step.stageIndex, step.number) }
}

export function parentOf(vertex: Vertex): VertexId | null {
  return vertex.kind === 'image' ? null : vertex.parent
}

/** Vertices that one reads besides the one it stands on. */
export function readVertices(vertex: Vertex): readonly VertexId[] {
  switch (vertex.kind) {
    case 'copy':
      return vertex.inputs.flatMap((input) => (input.kind === 'vertex' ? (input.vertex ?? []) : []))
    case 'run':
      return vertex.mounts.flatMap((mount) =>
        mount.type === 'bind' && mount.from.kind === 'vertex' ? (mount.from.vertex ?? []) : [],
      )
    default:
      return []
  }
}

/** IDs of the images that one starts from or reads. */
export function readImages(vertex: Vertex, vertices: ReadonlyMap<VertexId, Vertex>): readonly string[] {
  if (vertex.kind === 'image') return [vertex.image.id]
  return readVertices(vertex).flatMap((id) => {
    const source = vertices.get(id)
    // An image with a step of its own tells for itself.
    return source?.kind === 'image' && source.step === 0 ? [source.image.id] : []
  })
}

/** It also reads what is no stage and no image. */
export function readsElsewhere(vertex: Vertex): boolean {
  switch (vertex.kind) {
    case 'copy':
      return vertex.inputs.some(({ kind }) => kind === 'context' || kind === 'url')
    case 'run':
      return vertex.mounts.some(
        (mount) => mount.type === 'secret' || (mount.type === 'bind' && mount.from.kind === 'context'),
      )
    default:
      return false
  }
}

/** What stands for the secrets that a RUN reads where paths are named. */
export function secretPaths(vertex: Vertex): readonly string[] {
  if (vertex.kind !== 'run') return []
  return vertex.mounts.flatMap((mount) => (mount.type === 'secret' ? [`secret ${mount.id}`] : [])).sort()
}
