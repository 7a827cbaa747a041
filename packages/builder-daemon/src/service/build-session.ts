import { createHmac } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { runBuild } from '../core/build/build.js'
import { createLocalResolver } from '../core/build/local-resolver.js'
import type { BuildProgress } from '../core/build/progress.js'
import { proxyArguments } from '../core/plan/options.js'
import type { Platform, VertexId } from '../core/plan/plan.js'
import type { BuildEnvironment, ExecutionPorts } from '../core/solve/environment.js'
import type { Caller } from '../ports/caller.js'
import type { Clock } from '../ports/clock.js'
import type { ContextProvider } from '../ports/contexts.js'
import type { ImageRecord, ImageStore } from '../ports/image-store.js'
import type { Lease } from '../ports/layer-store.js'
import type { BuildClient, BuildOptions, BuildOutcome } from '../rpc/handlers.js'
import { createAgentSockets } from './agent-sockets.js'
import type { RunSession } from './build-operations.js'
import { ownedImages } from './owned-images.js'
import { planOptions } from './plan-options.js'
import { isPrivileged, type PrivilegePolicy } from './privileges.js'

export interface SessionDeps {
  readonly ports: ExecutionPorts
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
  /** Makes the outputs asked for and the iidfile. */
  readonly writeOutputs: (call: {
    readonly options: BuildOptions
    readonly client: BuildClient
    readonly caller: Caller
    readonly lease: Lease
    readonly record: ImageRecord
    readonly progress: BuildProgress
    readonly signal: AbortSignal
  }) => Promise<void>
}

/** Lines of output that go with the error of a failed RUN, and the bytes they are looked for in. */
const tailLines = 20
const tailBytes = 8192

/** One build from its admission to its outputs; everything it held is released when it returns. */
export function createRunSession(deps: SessionDeps): RunSession {
  return async (session) => {
    const { options, client, caller, progress, signal } = session
    const { layers } = deps.ports
    const lease = await layers.acquireLease({ uid: caller.uid, purpose: `build ${session.id}` })
    try {
      await using contexts = deps.openContexts({ options, client, caller, lease })
      await using agents = createAgentSockets({
        ...{ ids: options.sshAgents, client, log: deps.ports.log },
        directory: join(deps.agentRoot, basename(session.spools)),
      })
      const environment = (sealed: ReadonlySet<VertexId>): BuildEnvironment => ({
        ...{ ports: deps.ports, buildId: session.id, uid: caller.uid, lease, progress, contexts, sealed },
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
        spool: (step) => emptyFile(join(session.spools, String(step))),
        spoolTail,
      })
      const images = ownedImages(deps.images, caller)
      const record = await runBuild(
        {
          dockerfile: options.dockerfile,
          plan: planOptions(options, deps.platform),
          names: session.names,
          layers: options.layers,
        },
        {
          images,
          resolver: createLocalResolver({ images, layers }, lease, deps.platform),
          clock: deps.clock,
          progress,
          environment,
        },
        signal,
      )
      await deps.writeOutputs({ options, client, caller, lease, record, progress, signal })
      return outcome(record)
    } finally {
      await layers.releaseLease(lease)
    }
  }
}

function outcome(record: ImageRecord): BuildOutcome {
  return { imageId: record.id, names: record.names }
}

/** Watchers follow the file from the start of its step on. */
function emptyFile(path: string): string {
  writeFileSync(path, '', { mode: 0o600 })
  return path
}

async function spoolTail(path: string): Promise<readonly string[]> {
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
