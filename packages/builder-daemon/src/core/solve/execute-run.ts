import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { RunExit, RunSpec } from '../../ports/runtime.js'
import type { RunVertex, VertexId } from '../plan/plan.js'
import { staticKey } from './cache-key.js'
import { type BuildEnvironment, lowerDirectories, lowerLinks, type Snapshot } from './environment.js'
import type { Executed } from './execute.js'
import {
  childSnapshot,
  holdCached,
  ownLayer,
  parentSnapshot,
  publishLayer,
  withStaging,
} from './layer-result.js'
import { prepareMounts } from './run-mounts.js'

/** RUN: executes in a container whose upper becomes the layer. */
export async function executeRun(
  environment: BuildEnvironment,
  vertex: RunVertex,
  results: ReadonlyMap<VertexId, Snapshot>,
  signal: AbortSignal,
): Promise<Executed> {
  const { ports, uid, fixedTime, progress } = environment
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
  await using mounts = await prepareMounts(environment, vertex, results, signal)
  const { key, parts } = staticKey(vertex, {
    parent: parent.key,
    inputs: mounts.keys,
    fixedTime,
    capabilities: environment.addCapabilities,
    isolation: environment.isolation,
    network: environment.network,
  })
  // An ssh agent answers differently every time; nothing says what it answered.
  const cacheable = !environment.noCache && !vertex.mounts.some((mount) => mount.type === 'ssh')
  if (cacheable) {
    const [record] = await ports.cache.lookup(uid, key)
    if (record?.layer) {
      const own = await holdCached(environment, vertex.id, record.layer)
      if (own !== undefined) {
        await progress.stepStarted(vertex.step)
        return { snapshot: childSnapshot(parent, key, own), cached: true }
      }
    }
  }
  const spool = environment.spool(vertex.step)
  await progress.stepStarted(vertex.step, spool)
  return await withStaging(environment, async (staging) => {
    const lowers = lowerDirectories(ports, parent.layers)
    const user = await ports.workers.run('resolveUser', { lowers, user: vertex.user }, signal)
    const spec: RunSpec = {
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
      spool,
    }
    const exit = await ports.runtime.run(spec, signal)
    await failUnlessZero(environment, vertex, exit, spool)
    const sealed =
      fixedTime === undefined
        ? undefined
        : await ports.workers.run('seal', { upper: staging.upper, fixedTime }, signal)
    const id = await publishLayer(environment, staging, sealed)
    if (!vertex.mounts.some((mount) => mount.type === 'ssh')) {
      await ports.cache.store(uid, { staticKey: key, contentKey: '', layer: id }, parts)
    }
    return {
      snapshot: childSnapshot(parent, key, ownLayer(environment, vertex.id, id, sealed)),
      cached: false,
    }
  })
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
  spool: string,
): Promise<void> {
  if (exit.kind === 'exited' && exit.code === 0) return
  const how =
    exit.kind === 'exited' ? `returned a non-zero code: ${exit.code}` : `was killed by signal ${exit.signal}`
  throw new BuilderError('ISB_STEP_FAILED', `The command '${vertex.args.join(' ')}' ${how}`, {
    source: vertex.source,
    exitCode: exit.kind === 'exited' ? exit.code : 128 + exit.signal,
    logTail: await environment.spoolTail(spool),
  })
}
