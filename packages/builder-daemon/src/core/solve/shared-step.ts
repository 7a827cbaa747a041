import type { Vertex } from '../plan/plan.js'
import { isUncached } from './cached-result.js'
import type { BuildEnvironment, Snapshot } from './environment.js'
import type { Executed } from './executed.js'
import { childSnapshot, holdCached } from './layer-result.js'
import type { Execution } from './shared-executions.js'

/** One vertex of one build, as others may want it too. */
export interface StepWish {
  readonly vertex: Vertex
  readonly parent: Snapshot
  /** Says all that decides what the vertex does, but for the user; undefined: to be shared with nobody. */
  readonly key: string | undefined
  readonly signal: AbortSignal
  /** What to do when another build has done the same; its layer is taken when this is absent. */
  readonly adopt?: () => Promise<Executed>
}

/**
 * Executes a vertex once for all builds of the user that want it at the same time. What `execute` is given takes the
 * place of the build's own signal. Builds and stages without cache share with nobody, nor do builds that take results
 * from elsewhere.
 */
export async function shareStep(
  environment: BuildEnvironment,
  { vertex, parent, key, signal, adopt }: StepWish,
  execute: (execution: Execution) => Promise<Executed>,
): Promise<Executed> {
  const { executions, uid, output, progress } = environment
  const isAlone = isUncached(environment, vertex.stageIndex) || environment.imports !== undefined

  async function take(executed: Executed): Promise<Executed | undefined> {
    const { own: theirs, ...marks } = executed.snapshot
    const own = theirs === null ? null : await holdCached(environment, vertex.id, theirs.id)
    return own === undefined ? undefined : { ...executed, snapshot: childSnapshot(parent, own, marks) }
  }

  return await executions.steps.run({
    key: key === undefined || isAlone ? undefined : `${uid} ${key}`,
    signal,
    retain: environment.retainLease,
    execute,
    adopt: adopt ?? take,
    onOutput: (path) => progress.stepStarted(vertex.step, output.adopt(path, vertex.step)),
  })
}
