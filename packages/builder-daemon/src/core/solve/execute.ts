import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Vertex, VertexId } from '../plan/plan.js'
import { assertNever } from './assert-never.js'
import { type BuildEnvironment, imageSnapshot, type Snapshot } from './environment.js'
import { executeCopy } from './execute-copy.js'
import { executeRun } from './execute-run.js'
import { executeWorkdir } from './execute-workdir.js'
import type { Executed } from './executed.js'

/** Runs one vertex and tells the watchers when it starts and how it ends. What fails is shown in the Dockerfile. */
export async function executeVertex(
  environment: BuildEnvironment,
  vertex: Vertex,
  results: ReadonlyMap<VertexId, Snapshot>,
  signal: AbortSignal,
): Promise<Snapshot> {
  const { progress } = environment
  if (vertex.kind !== 'run') await progress.stepStarted(vertex.step)
  try {
    const executed = await dispatch(environment, vertex, results, signal)
    environment.facts.set(vertex.id, executed.facts)
    const cache = environment.explainer.executed(vertex, executed)
    await progress.stepFinished(vertex.step, executed.cached ? 'cached' : 'done', cache)
    return executed.snapshot
  } catch (error) {
    if (signal.aborted) await progress.stepFinished(vertex.step, 'cancelled')
    else await progress.stepFinished(vertex.step, 'failed', environment.explainer.failed(vertex))
    // Whatever went wrong below, the user sees the line of the Dockerfile that asked for it.
    throw isBuilderError(error) ? error.with({ source: vertex.source }) : error
  }
}

async function dispatch(
  environment: BuildEnvironment,
  vertex: Vertex,
  results: ReadonlyMap<VertexId, Snapshot>,
  signal: AbortSignal,
): Promise<Executed> {
  switch (vertex.kind) {
    case 'image': {
      const facts = {
        ...{ shape: '', contentKey: '', record: undefined, evicted: [], sources: [], origin: undefined },
      }
      return { snapshot: imageSnapshot(vertex.image.layers), cached: false, facts }
    }
    case 'workdir':
      return await executeWorkdir(environment, vertex, results, signal)
    case 'copy':
      return await executeCopy(environment, vertex, results, signal)
    case 'run':
      return await executeRun(environment, vertex, results, signal)
    default:
      return assertNever(vertex)
  }
}
