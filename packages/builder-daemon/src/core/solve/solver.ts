import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { dependencies } from '../plan/dependencies.js'
import type { Plan, Vertex, VertexId } from '../plan/plan.js'

export interface SolveOptions<Result> {
  readonly signal: AbortSignal
  /** Runs one vertex; `results` holds all of its dependencies. The signal aborts when any vertex fails. */
  readonly execute: (
    vertex: Vertex,
    results: ReadonlyMap<VertexId, Result>,
    signal: AbortSignal,
  ) => Promise<Result>
}

/**
 * Runs every vertex of the plan as soon as its dependencies are done, across stages. The first failure
 * aborts the others, and is what rejects once all of them have stopped.
 */
export async function solve<Result>(
  plan: Plan,
  options: SolveOptions<Result>,
): Promise<ReadonlyMap<VertexId, Result>> {
  const results = new Map<VertexId, Result>()
  const running = new Map<VertexId, Promise<void>>()
  const failure = new AbortController()
  const signal = AbortSignal.any([options.signal, failure.signal])
  let first: { error: unknown } | undefined

  for (const vertex of plan.vertices) {
    const needed = dependencies(vertex).map((id) => {
      const promise = running.get(id)
      if (promise === undefined) throw new Error(`vertex ${vertex.id} precedes its dependency ${id}`)
      return promise
    })
    const run = async (): Promise<void> => {
      await Promise.all(needed)
      if (signal.aborted) throw new BuilderError('ISB_CANCELLED', 'the build was cancelled')
      results.set(vertex.id, await options.execute(vertex, results, signal))
    }
    const promise = run().catch((error: unknown) => {
      first ??= { error }
      failure.abort()
      throw error
    })
    promise.catch(() => undefined)
    running.set(vertex.id, promise)
  }
  await Promise.allSettled(running.values())
  if (first !== undefined) throw first.error
  return results
}
