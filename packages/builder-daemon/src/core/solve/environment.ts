import type { CacheIndex } from '../../ports/cache-index.js'
import type { CacheMounts } from '../../ports/cache-mounts.js'
import type { ContextProvider } from '../../ports/contexts.js'
import type { Downloader } from '../../ports/downloads.js'
import type { LayerId, LayerStore, Lease } from '../../ports/layer-store.js'
import type { LayerWorkers, SealResult } from '../../ports/layer-worker.js'
import type { Logger } from '../../ports/logger.js'
import type { Runtime } from '../../ports/runtime.js'
import type { BuildProgress } from '../build/progress.js'
import type { VertexId } from '../plan/plan.js'

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
  readonly lease: Lease
  readonly progress: BuildProgress
  readonly contexts: ContextProvider
  readonly noCache: boolean
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
  /** Where RUN output of a step goes. */
  readonly spool: (step: number) => string
  /** The last lines of a spool, for error messages. */
  readonly spoolTail: (path: string) => Promise<readonly string[]>
}

/** A file system state some vertex produced. */
export interface Snapshot {
  /** Cache key of the state. */
  readonly key: string
  /** Complete stack, bottom first. */
  readonly layers: readonly LayerId[]
  /** What this vertex added; null when it changed nothing. */
  readonly own: OwnLayer | null
}

export interface OwnLayer {
  readonly id: LayerId
  /** Resolves when the layer was hashed; only started for layers of the exported image. */
  readonly sealed: Promise<Pick<SealResult, 'diffId' | 'tarSize'>>
}

export const emptySnapshot: Snapshot = { key: 'scratch', layers: [], own: null }

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
