import { createHash, createHmac } from 'node:crypto'
import { open } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { runBuild } from '../core/build/build.js'
import type { SolvedPlan } from '../core/build/commit.js'
import type { SessionEnvironment } from '../core/build/plan-environment.js'
import type { BuildProgress } from '../core/build/progress.js'
import { proxyArguments } from '../core/plan/options.js'
import type { Platform, VertexId } from '../core/plan/plan.js'
import type { ExecutionPorts, Executions } from '../core/solve/environment.js'
import { createSharedLease } from '../core/solve/shared-lease.js'
import type { Caller } from '../ports/caller.js'
import type { Clock } from '../ports/clock.js'
import type { ContextProvider } from '../ports/contexts.js'
import type { ImageResolver } from '../ports/image-resolver.js'
import type { ImageRecord, ImageStore } from '../ports/image-store.js'
import type { Lease } from '../ports/layer-store.js'
import type { BuildClient, BuildOptions, BuildOutcome } from '../rpc/handlers.js'
import { createAgentSockets } from './agent-sockets.js'
import type { RunSession } from './build-operations.js'
import type { CacheExchange } from './cache-exchange.js'
import { requireListOutputs } from './list-outputs.js'
import { ownedImages } from './owned-images.js'
import { buildPlatforms, planOptions } from './plan-options.js'
import { isPrivileged, type PrivilegePolicy } from './privileges.js'
import { createRunOutput } from './run-output.js'

export interface SessionDeps {
  readonly ports: ExecutionPorts
  readonly executions: Executions
  readonly images: ImageStore
  readonly clock: Clock
  readonly platform: Platform
  readonly privileges: PrivilegePolicy
  /** `NAME=value` of the daemon's own proxy variables. */
  readonly proxyEnv: readonly string[]
  readonly secretKey: Uint8Array
  /** Sockets for forwarded ssh agents lie in a directory per build below this one. */
  readonly agentRoot: string
  readonly openContexts: (call: {
    readonly options: BuildOptions
    readonly client: BuildClient
    readonly caller: Caller
    readonly lease: Lease
  }) => ContextProvider
  /** Finds images for a build, in the store and at registries. */
  readonly openResolver: (call: {
    readonly options: BuildOptions
    readonly client: BuildClient
    readonly caller: Caller
    readonly lease: Lease
    readonly onLog: (line: string) => void
  }) => ImageResolver
  readonly caches: CacheExchange
  /** Makes the outputs asked for and the iidfile. */
  readonly writeOutputs: (call: FinishedBuild & { readonly record: ImageRecord }) => Promise<void>
  /** The same for images of several platforms: makes the list that they are under the names of the build. */
  readonly writeList: (
    call: FinishedBuild & { readonly records: readonly ImageRecord[]; readonly names: readonly string[] },
  ) => Promise<BuildOutcome>
  /** Fails with ISB_PLATFORM_UNSUPPORTED when this machine cannot run programs for the platform. */
  readonly requireRunnable: (platform: Platform) => Promise<void>
}

/** A build whose images are stored. */
export interface FinishedBuild {
  readonly options: BuildOptions
  readonly client: BuildClient
  readonly caller: Caller
  readonly lease: Lease
  readonly progress: BuildProgress
  readonly signal: AbortSignal
}

/** Lines of output that go with the error of a failed RUN, and the bytes they are looked for in. */
const tailLines = 20
const tailBytes = 8192

/** One build from its admission to its outputs; everything it held is released when it returns. */
export function createRunSession(deps: SessionDeps): RunSession {
  let builds = 0
  return async (session) => {
    const { options, client, caller, progress, signal } = session
    const order = builds++
    const { layers } = deps.ports
    const platforms = buildPlatforms(options, deps.platform)
    if (platforms.length > 1) requireListOutputs(options.outputs)
    const lease = await layers.acquireLease({ uid: caller.uid, purpose: `build ${session.id}` })
    const shared = createSharedLease(lease, () => layers.releaseLease(lease))
    const release = shared.retain()
    const over = new AbortController()
    try {
      await using contexts = deps.openContexts({ options, client, caller, lease })
      await using agents = createAgentSockets({
        ...{ ids: options.sshAgents, client, log: deps.ports.log },
        directory: join(deps.agentRoot, basename(session.spools)),
      })
      const stopped = AbortSignal.any([signal, over.signal])
      const imports = deps.caches.open({ options, client, caller, lease, progress, signal: stopped })
      let solved: readonly SolvedPlan[] = []
      const environment = (sealed: ReadonlySet<VertexId>): SessionEnvironment => ({
        ...{ ports: deps.ports, executions: deps.executions, buildId: session.id, uid: caller.uid, order },
        ...{ lease, retainLease: shared.retain, progress, contexts, sealed },
        ...{ signal: stopped, imports },
        noCache: options.noCache,
        fixedTime: options.fixedTime,
        addCapabilities: options.capAdd,
        isolation: options.isolation,
        network: options.network,
        proxyEnv: [...proxyArguments(options.buildArgs), ...(options.proxy ? deps.proxyEnv : [])],
        secrets: options.secrets,
        secretDigest: (content) =>
          createHmac('sha256', deps.secretKey).update(`${caller.uid}\0`).update(content).digest('hex'),
        ssh: agents,
        insecureAllowed: isPrivileged(caller, deps.privileges),
        output: createRunOutput(session.spools),
        outputTail,
      })
      const images = ownedImages(deps.images, caller)
      const records = await runBuild(
        {
          dockerfile: options.dockerfile,
          plans: platforms.map((platform) => planOptions(options, platform, deps.platform)),
          names: session.names,
          layers: options.layers,
          noCacheFilter: options.noCacheFilter,
          project: projectOf(options),
        },
        {
          images,
          resolver: deps.openResolver({
            ...{ options, client, caller, lease },
            onLog: (line) => progress.say(line),
          }),
          clock: deps.clock,
          progress,
          environment,
          requireRunnable: deps.requireRunnable,
          onSolved: (plans) => {
            solved = plans
          },
        },
        signal,
      )
      const finished = { options, client, caller, lease, progress, signal }
      const [record] = records
      if (record === undefined) throw new Error('a build without an image')
      const ended =
        records.length > 1
          ? await deps.writeList({ ...finished, records, names: session.names })
          : await deps.writeOutputs({ ...finished, record }).then(() => outcome(record))
      await deps.caches.write(solved, finished)
      return ended
    } finally {
      over.abort()
      await release()
    }
  }
}

function outcome(record: ImageRecord): BuildOutcome {
  return { imageId: record.id, names: record.names }
}

/** Builds of the same Dockerfile, context and target are of one project. */
function projectOf({ context, dockerfile, target }: BuildOptions): string {
  const place = context.kind === 'directory' ? context.path : context.kind
  const facts = JSON.stringify([place, dockerfile.name, target ?? ''])
  return createHash('sha256').update(facts).digest('hex')
}

async function outputTail(path: string): Promise<readonly string[]> {
  const file = await open(path, 'r').catch(() => undefined)
  if (file === undefined) return []
  try {
    const { size } = await file.stat()
    const start = Math.max(0, size - tailBytes)
    const { buffer, bytesRead } = await file.read(Buffer.alloc(tailBytes), 0, tailBytes, start)
    const lines = buffer.toString('utf8', 0, bytesRead).replace(/\n$/, '').split('\n')
    // The first line is cut where the bytes begin.
    return (start > 0 ? lines.slice(1) : lines).filter((line) => line !== '').slice(-tailLines)
  } finally {
    await file.close()
  }
}
