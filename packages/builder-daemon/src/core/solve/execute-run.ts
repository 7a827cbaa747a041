import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { StagingLayer } from '../../ports/layer-store.js'
import type { ResolveUserResult } from '../../ports/layer-worker.js'
import type { RunExit, RunSpec } from '../../ports/runtime.js'
import type { RunVertex, VertexId } from '../plan/plan.js'
import { shapeOf } from './cache-key.js'
import {
  type CacheAnswer,
  type CacheQuery,
  findCached,
  marksOf,
  originOf,
  queryKey,
  storeResult,
} from './cached-result.js'
import { type BuildEnvironment, lowerDirectories, lowerLinks, type Snapshot } from './environment.js'
import { type Executed, executedFrom } from './executed.js'
import { childSnapshot, ownLayer, parentSnapshot, publishLayer, withStaging } from './layer-result.js'
import { needsClient, type PreparedMounts, prepareMounts, readMounts } from './run-mounts.js'
import type { OutputFile } from './shared-executions.js'
import { shareStep } from './shared-step.js'

/** RUN: executes in a container whose upper becomes the layer. */
export async function executeRun(
  environment: BuildEnvironment,
  vertex: RunVertex,
  results: ReadonlyMap<VertexId, Snapshot>,
  signal: AbortSignal,
): Promise<Executed> {
  const { fixedTime, explainer } = environment
  const shaped = shapeOf(vertex, {
    fixedTime,
    capabilities: environment.addCapabilities,
    isolation: environment.isolation,
    network: environment.network,
  })
  explainer.begun(vertex, shaped)
  if (vertex.security === 'insecure' && !environment.insecureAllowed) {
    throw new BuilderError(
      'ISB_PERMISSION_DENIED',
      '`RUN --security=insecure` is not allowed for this user',
      {
        source: vertex.source,
        hint: 'An administrator can allow it in configuration.toml.',
      },
    )
  }
  const parent = parentSnapshot(vertex.parent, results)
  const read = await readMounts({ environment, vertex, results, signal })
  // An ssh agent answers differently every time; nothing says what it answered.
  const isRepeatable = !vertex.mounts.some((mount) => mount.type === 'ssh')
  const { shape } = shaped
  const { contentKey, inputs, inputsKey } = read
  explainer.noted(vertex, { contentKey, isNeverCached: !isRepeatable })
  const query: CacheQuery = {
    ...{ vertex, shape, parent, inputs, inputsKey, readsInputsOnly: false },
    content: async () => contentKey,
    tainted: vertex.mounts.some(({ type }) => type === 'ssh' || type === 'secret'),
  }
  const sources = [...read.contextLayers.values()]
  const wish = {
    ...{ vertex, parent, signal },
    // The proxy changes no result, but may be why a command fails.
    key: isRepeatable
      ? [queryKey(query), contentKey, JSON.stringify(environment.proxyEnv)].join(' ')
      : undefined,
  }
  return await shareStep(environment, wish, async (execution) => {
    if (!needsClient(vertex)) execution.detach()
    const answer = isRepeatable ? await findCached(environment, query, execution.signal) : unasked
    if (answer.hit !== undefined) return executedFrom(query, answer, sources)
    explainer.noted(vertex, { evicted: answer.evicted })
    const of = { environment, vertex, results, signal: execution.signal }
    await using mounts = await prepareMounts(of, read)
    // An agent is the client's to the end; all else of the client's has been read by now.
    if (isRepeatable) execution.detach()
    using slot = await environment.executions.slots.acquire(environment, execution.signal)
    const output = environment.output.open()
    execution.show(output)
    const lowers = lowerDirectories(environment.ports, parent.layers)
    const looking = environment.executions.users.resolve({ lowers, user: vertex.user }, execution.signal)
    // It is awaited once there is a place to run in.
    looking.catch(() => undefined)
    return await withStaging(environment, async (staging) => {
      const user = await looking
      const spec = runSpec(environment, vertex, { parent, mounts, staging, output, user })
      const exit = await environment.ports.runtime.run(spec, execution.signal)
      await failUnlessZero(environment, vertex, exit, output.path)
      slot.release()
      const sealing = { upper: staging.upper, fixedTime, identify: answer.known }
      const sealed =
        fixedTime === undefined
          ? undefined
          : await environment.ports.workers.run('seal', sealing, execution.signal)
      const id = await publishLayer(environment, staging, sealed)
      const record = isRepeatable
        ? await storeResult(environment, query, { contentKey, layer: id })
        : undefined
      const own = ownLayer(environment, vertex.id, id, sealed, answer.known)
      return {
        snapshot: childSnapshot(parent, own, marksOf(query)),
        cached: false,
        facts: {
          ...{ shape, contentKey, record, evicted: answer.evicted, sources, origin: originOf(query) },
          isNeverCached: !isRepeatable,
        },
      }
    })
  })
}

const unasked: CacheAnswer = { hit: undefined, known: false, evicted: [], similar: undefined }

interface RunPlace {
  readonly parent: Snapshot
  readonly mounts: PreparedMounts
  readonly staging: StagingLayer
  readonly output: OutputFile
  readonly user: ResolveUserResult
}

function runSpec(
  environment: BuildEnvironment,
  vertex: RunVertex,
  { parent, mounts, staging, output, user }: RunPlace,
): RunSpec {
  const { ports } = environment
  return {
    id: `${environment.buildId}-${vertex.step}-${staging.id.slice(0, 8)}`,
    lowers: lowerLinks(ports, parent.layers),
    upper: staging.upper,
    work: staging.work,
    args: vertex.args,
    env: runEnvironment(vertex.env, [...environment.proxyEnv, ...mounts.env], user.home),
    cwd: vertex.cwd,
    user: { uid: user.uid, gid: user.gid, additionalGids: user.additionalGids },
    mounts: mounts.mounts,
    network: vertex.network === 'default' ? environment.network : vertex.network,
    addCapabilities: environment.addCapabilities,
    insecure: vertex.security === 'insecure',
    isolation: environment.isolation,
    hostname: undefined,
    platform: vertex.platform,
    spool: output.path,
  }
}

/** The image's variables, then those of `extra` and HOME that it does not set itself. */
function runEnvironment(env: readonly string[], extra: readonly string[], home: string): readonly string[] {
  const names = new Set(env.map(nameOf))
  const added = [...extra, `HOME=${home}`].filter((entry) => {
    const name = nameOf(entry)
    if (names.has(name)) return false
    names.add(name)
    return true
  })
  return [...env, ...added]
}

function nameOf(entry: string): string {
  const equals = entry.indexOf('=')
  return equals === -1 ? entry : entry.slice(0, equals)
}

async function failUnlessZero(
  environment: BuildEnvironment,
  vertex: RunVertex,
  exit: RunExit,
  path: string,
): Promise<void> {
  if (exit.kind === 'exited' && exit.code === 0) return
  // The place in the Dockerfile is added by each build that waited.
  const how =
    exit.kind === 'exited' ? `returned a non-zero code: ${exit.code}` : `was killed by signal ${exit.signal}`
  throw new BuilderError('ISB_STEP_FAILED', `The command '${vertex.args.join(' ')}' ${how}`, {
    exitCode: exit.kind === 'exited' ? exit.code : 128 + exit.signal,
    logTail: await environment.outputTail(path),
  })
}
