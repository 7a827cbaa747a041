import type { Vertex, VertexId } from './plan.js'

/** Every vertex whose file system this one reads, its parent first; without duplicates. */
export function dependencies(vertex: Vertex): readonly VertexId[] {
  const ids = new Set<VertexId>()
  if (vertex.kind !== 'image' && vertex.parent !== null) ids.add(vertex.parent)
  if (vertex.kind === 'copy') {
    for (const input of vertex.inputs) {
      if (input.kind === 'vertex' && input.vertex !== null) ids.add(input.vertex)
    }
  }
  if (vertex.kind === 'run') {
    for (const mount of vertex.mounts) {
      if ((mount.type === 'bind' || mount.type === 'cache') && mount.from?.kind === 'vertex') {
        if (mount.from.vertex !== null) ids.add(mount.from.vertex)
      }
    }
  }
  return [...ids]
}
