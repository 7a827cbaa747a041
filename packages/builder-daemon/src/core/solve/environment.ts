import { createHash } from 'node:crypto'
import type { CacheIndex } from '../../ports/cache-index.js'
import type { CacheMounts } from '../../ports/cache-mounts.js'
import type { ContextProvider } from '../../ports/contexts.js'
import type { Downloader } from '../../ports/downloads.js'
import type { LayerId, LayerStore, Lease } from '../../ports/layer-store.js'
import type { IdentifiedLayer, LayerWorkers, SealResult } from '../../ports/layer-worker.js'
import type { Logger } from '../../ports/logger.js'
import type { Runtime } from '../../ports/runtime.js'
import type { BuildProgress } from '../build/progress.js'
import type { VertexId } from '../plan/plan.js'
import type { StepSlots } from '../queue/step-slots.js'
import type { Executed } from './executed.js'
import type { Explainer, VertexFacts } from './explain.js'
import type { ImageUsers } from './image-users.js'
import type { ImportedCache } from './imported-cache.js'
import type { OutputFile, SharedExecutions } from './shared-executions.js'
import type { SharedLease } from './shared-lease.js'
import type { LayerStates } from './states.js'

/** Effects that executing a vertex needs. */
export interface ExecutionPorts {
  readonly layers: LayerStore
  readonly workers: LayerWorkers
  readonly runtime: Runtime
  readonly cache: CacheIndex
  readonly cacheMounts: CacheMounts
  readonly downloads: Downloader
  readonly log: Logger
}

/** What all builds of the daemon have in common while they are executed. */
export interface Executions {
  readonly steps: SharedExecutions<Executed>
  /** What a bind of a context shows, as a layer, and the digest of its content. */
  readonly contextLayers: SharedExecutions<ContextLayer>
  /** Hashing layers that are exported. */
  readonly seals: SharedExecutions<IdentifiedLayer>
  readonly slots: StepSlots
  readonly users: ImageUsers
}

export interface ContextLayer {
  readonly id: LayerId
  readonly contentKey: string
}

/** Files that the output of RUNs goes to. */
export interface RunOutput {
  /** An empty file. */
  open(): OutputFile
  /** Makes the file at `path` the output of a step of this build, to be watched; the result lasts as long as the build. */
  adopt(path: string, step: number): string
}

export interface AgentSocketOwner {
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

/** Sockets of this daemon that forward to the ssh agents of the client, until the build ends. */
export interface AgentSockets {
  /** Path of the socket; undefined when the client offers no agent of that id. */
  open(id: string, owner: AgentSocketOwner): Promise<string | undefined>
}

/** Everything one build fixes for all of its vertices. */
export interface BuildEnvironment {
  readonly ports: ExecutionPorts
  readonly buildId: string
  readonly uid: number
  /** Of this build among all of the daemon's: a lower one came earlier. */
  readonly order: number
  /** Aborts when the build ends, however it ends. */
  readonly signal: AbortSignal
  readonly lease: Lease
  readonly retainLease: SharedLease['retain']
  readonly executions: Executions
  readonly progress: BuildProgress
  readonly contexts: ContextProvider
  readonly noCache: boolean
  /** Stages of which nothing is taken from the cache. */
  readonly noCacheStages: ReadonlySet<number>
  /** What other daemons made and this build is to use. Builds with it share their steps with nobody. */
  readonly imports: ImportedCache | undefined
  readonly states: LayerStates
  /** What was found out of every vertex that is done. */
  readonly facts: Map<VertexId, VertexFacts>
  readonly explainer: Explainer
  /** Seconds since the epoch; every entry of a new layer gets this mtime. */
  readonly fixedTime: number | undefined
  readonly addCapabilities: readonly string[]
  readonly isolation: 'oci' | 'chroot'
  readonly network: 'host' | 'none'
  /** `NAME=value`, given to RUN and never stored. */
  readonly proxyEnv: readonly string[]
  readonly secrets: ReadonlyMap<string, Uint8Array>
  /** Keyed digest of a secret's value: equal values match in the cache, and the record tells nothing. */
  readonly secretDigest: (content: Uint8Array) => string
  readonly ssh: AgentSockets
  readonly insecureAllowed: boolean
  /** Vertices whose diff ID the exported image needs. */
  readonly sealed: ReadonlySet<VertexId>
  readonly output: RunOutput
  /** The last lines of an output file, for error messages. */
  readonly outputTail: (path: string) => Promise<readonly string[]>
}

/** A file system state some vertex produced. */
export interface Snapshot {
  /** Names the stack: states with equal keys are the same layers. */
  readonly key: string
  /** Complete stack, bottom first. */
  readonly layers: readonly LayerId[]
  /** A secret, an ssh agent or credentials had a part in it, so it is nobody else's. */
  readonly tainted: boolean
  /** It stands on imported records, or read what does: nothing of it is stored for other builds. */
  readonly imported: boolean
  /** What this vertex added; null when it changed nothing. */
  readonly own: OwnLayer | null
}

export interface OwnLayer {
  readonly id: LayerId
  /** Resolves when the layer was hashed; only started for layers of the exported image. */
  readonly sealed: Promise<Pick<SealResult, 'diffId' | 'tarSize'>>
}

export const emptySnapshot: Snapshot = imageSnapshot([])

/** Layers that are there for everybody. */
export function imageSnapshot(layers: readonly LayerId[]): Snapshot {
  return { key: stackKey(layers), layers, tainted: false, imported: false, own: null }
}

/** Layer IDs are never used again, so they say what a state is more surely than how it was made. */
export function stackKey(layers: readonly LayerId[]): string {
  return createHash('sha256').update(layers.join('\n')).digest('hex')
}

/** `diff` directories, top first, as layer jobs want them. */
export function lowerDirectories(ports: ExecutionPorts, layers: readonly LayerId[]): readonly string[] {
  return distinct(layers)
    .map((id) => `${ports.layers.directory(id)}/diff`)
    .toReversed()
}

/** Short links, bottom first, as the runtime wants them. */
export function lowerLinks(ports: ExecutionPorts, layers: readonly LayerId[]): readonly string[] {
  return distinct(layers).map((id) => ports.layers.shortLink(id))
}

/** Overlayfs takes a directory once; of a layer that an image has twice the topmost place decides. */
function distinct(layers: readonly LayerId[]): readonly LayerId[] {
  return layers.filter((id, i) => layers.lastIndexOf(id) === i)
}
