import type { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import type { Caller } from '../ports/caller.js'
import type { ImageSummary } from '../ports/image-store.js'

/**
 * What the edges call. Both services are translations of their messages to these methods and know
 * nothing else of the daemon. Every path is absolute and meant with the rights of the caller; every
 * method fails with BuilderErrors and stops when its signal aborts.
 */
export interface BuilderCore {
  /**
   * Queues a build; resolves once it is accepted. Fails with ISB_BUILD_EXISTS for an ID, or a fixed-time
   * entity, that is under way, ISB_TOO_MANY_BUILDS, ISB_PERMISSION_DENIED and ISB_ARGUMENT_INVALID. An
   * abort of `signal` cancels the build.
   */
  startBuild(
    options: BuildOptions,
    client: BuildClient,
    caller: Caller,
    signal: AbortSignal,
  ): Promise<RunningBuild>
  /** All images; order does not matter. */
  images(caller: Caller): Promise<readonly ImageSummary[]>
  /** Fails with ISB_IMAGE_NOT_FOUND and ISB_REFERENCE_INVALID. */
  tag(image: string, name: string, caller: Caller): Promise<void>
  /** One image failing is an event, not an error. */
  remove(request: RemoveRequest, caller: Caller, signal: AbortSignal): AsyncIterable<RemoveEvent>
  import(request: ImportRequest, caller: Caller, signal: AbortSignal): AsyncIterable<StoreEvent>
  load(request: LoadRequest, caller: Caller, signal: AbortSignal): AsyncIterable<StoreEvent>
  /** `data` events only when the destination is a stream. */
  save(request: SaveRequest, caller: Caller, signal: AbortSignal): AsyncIterable<SaveEvent>
  info(caller: Caller): Promise<DaemonInfo>
  version(): DaemonVersion
  /** Waiting and running builds that the caller may see: his own, for root all. */
  builds(caller: Caller): Promise<readonly BuildSummary[]>
  /** Fails with ISB_ARGUMENT_INVALID when the caller may see no such build. */
  cancelBuild(id: string, caller: Caller): Promise<void>
  prune(request: PruneRequest, caller: Caller, signal: AbortSignal): Promise<PruneResult>
  /** Hex of RSA-OAEP-SHA512 with the daemon's key. Fails with ISB_ARGUMENT_INVALID. */
  decrypt(hex: string): string
}

export interface BuildOptions {
  /** undefined: the daemon chooses. */
  readonly id: string | undefined
  readonly dockerfile: NamedContent
  /** Replaces the ignore files of the context. */
  readonly ignoreFile: NamedContent | undefined
  readonly context: ContextOrigin
  readonly namedContexts: Readonly<Record<string, ContextOrigin>>
  readonly buildArgs: Readonly<Record<string, string>>
  readonly labels: Readonly<Record<string, string>>
  readonly env: Readonly<Record<string, string>>
  readonly target: string | undefined
  /** As the user wrote them. */
  readonly tags: readonly string[]
  readonly outputs: readonly BuildOutput[]
  /** Only for clients that leave writing it to the daemon. */
  readonly iidFile: string | undefined
  readonly noCache: boolean
  readonly platform: string | undefined
  readonly capAdd: readonly string[]
  /** RUN inherits the daemon's proxy variables. */
  readonly proxy: boolean
  readonly format: 'docker' | 'oci'
  readonly layers: 'instruction' | 'stage'
  readonly network: 'host' | 'none'
  readonly isolation: 'oci' | 'chroot'
  /** Seconds since the epoch. */
  readonly fixedTime: number | undefined
  readonly secrets: ReadonlyMap<string, Uint8Array>
  /** IDs for `BuildClient.openAgent`. */
  readonly sshAgents: readonly string[]
  readonly cacheFrom: readonly string[]
  readonly cacheTo: readonly string[]
}

export interface NamedContent {
  /** For messages. */
  readonly name: string
  readonly content: Uint8Array
}

export type ContextOrigin =
  /** `expected`: what the client sees at `path`; where the daemon sees another one, it asks for a stream. */
  | { readonly kind: 'directory'; readonly path: string; readonly expected: FileIdentity | undefined }
  /** Through `BuildClient.streamContext`. */
  | { readonly kind: 'stream' }
  | { readonly kind: 'image'; readonly reference: string }

export interface FileIdentity {
  readonly dev: bigint
  readonly ino: bigint
}

export interface BuildOutput {
  readonly kind: 'docker-archive' | 'oci-archive'
  readonly target: OutputTarget
  /** In local form; becomes a name of the image too. */
  readonly name: string | undefined
}

export type OutputTarget =
  /** `parent`: identity of the directory of `path` as the client sees it; another one is an error. */
  | { readonly kind: 'file'; readonly path: string; readonly parent: FileIdentity | undefined }
  /** Through `BuildClient.openOutput`, or as data events. */
  | { readonly kind: 'stream' }

/** What a build can ask of the program that started it. Every method fails when the client is gone. */
export interface BuildClient {
  /**
   * The tar (perhaps compressed) of a context, '' for the build context. Once per name, to be consumed
   * without waiting for anything else of the client: its frames share one connection.
   */
  streamContext(name: string): AsyncIterable<Uint8Array>
  /** Output number `index` of the options. Once per output. */
  openOutput(index: number): OutputStream
  openAgent(id: string): AgentConnection
}

export interface OutputStream {
  /** Resolves when the next chunk may come. */
  write(chunk: Uint8Array): Promise<void>
  /** Resolves when the client says that everything is written; fails with what stopped it. */
  finish(): Promise<void>
}

export interface AgentConnection {
  readonly received: AsyncIterable<Uint8Array>
  send(data: Uint8Array): Promise<void>
  close(): Promise<void>
}

export interface RunningBuild {
  readonly id: string
  /** From the first event on, at the watcher's pace, any number of times; ends with the build. */
  events(signal: AbortSignal): AsyncIterable<BuildEvent>
  readonly result: Promise<BuildOutcome>
}

export interface BuildOutcome {
  readonly imageId: string
  readonly names: readonly string[]
}

export interface BuildSummary {
  readonly id: string
  readonly owner: number
  readonly state: 'queued' | 'running'
  /** Milliseconds since the epoch. */
  readonly startedAt: number
  readonly finishedSteps: number
  readonly totalSteps: number
  readonly names: readonly string[]
}

export type RemoveRequest =
  | { readonly kind: 'named'; readonly references: readonly string[] }
  | { readonly kind: 'all' }
  /** Images without a name. */
  | { readonly kind: 'unnamed' }

export type RemoveEvent =
  | { readonly kind: 'untagged'; readonly name: string }
  /** A layer nothing uses any more. */
  | { readonly kind: 'layer-removed'; readonly diffId: string }
  /** `reference` as the user gave it. */
  | { readonly kind: 'image-removed'; readonly reference: string }
  | { readonly kind: 'failed'; readonly reference: string; readonly error: BuilderError }

export type ArchiveSource =
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'stream'; readonly chunks: AsyncIterable<Uint8Array> }

export interface ImportRequest {
  readonly source: ArchiveSource
  /** As the user wrote it; undefined: no name. */
  readonly reference: string | undefined
}

export type LoadRequest =
  | { readonly kind: 'archive'; readonly source: ArchiveSource }
  | {
      readonly kind: 'separated'
      readonly app: string
      readonly directory: string
      readonly base: string | undefined
      readonly lib: string | undefined
      readonly skipCheck: boolean
    }

export type StoreEvent =
  /** One line without its end. */
  | { readonly kind: 'log'; readonly line: string }
  /** An image is in the store. */
  | { readonly kind: 'stored'; readonly imageId: string; readonly names: readonly string[] }

export interface SaveRequest {
  readonly images: readonly string[]
  readonly format: 'docker' | 'oci'
  readonly destination:
    | OutputTarget
    | {
        readonly kind: 'separated'
        readonly base: string
        readonly lib: string | undefined
        readonly rename: string | undefined
        readonly directory: string
      }
}

export type SaveEvent =
  | { readonly kind: 'log'; readonly line: string }
  /** `chunk` is not written to any more. */
  | { readonly kind: 'data'; readonly chunk: Uint8Array }

export interface PruneRequest {
  /** Also what later builds would reuse. */
  readonly all: boolean
  /** Stop when the store is not larger than this, bytes. */
  readonly keepBytes: number
  readonly dryRun: boolean
}

export interface PruneResult {
  readonly freedBytes: number
  readonly images: number
  readonly layers: number
}

/** Sizes in bytes. */
export interface DaemonInfo {
  readonly memTotal: number
  readonly memFree: number
  readonly swapTotal: number
  readonly swapFree: number
  readonly storageDriver: string
  readonly backingFilesystem: string
  readonly searchRegistries: readonly string[]
  readonly insecureRegistries: readonly string[]
  readonly blockedRegistries: readonly string[]
  readonly dataRoot: string
  readonly runRoot: string
  readonly runtime: string
  /** Waiting and running. */
  readonly builds: number
  readonly threads: number
  readonly experimental: boolean
  readonly memory: {
    readonly system: number
    readonly heapSystem: number
    readonly heapAllocated: number
    readonly heapInUse: number
    readonly heapIdle: number
    readonly heapReleased: number
  }
}

export interface DaemonVersion {
  readonly version: string
  /** E.g. `node v20.9.0`. */
  readonly runtimeVersion: string
  readonly gitCommit: string
  /** Milliseconds since the epoch. */
  readonly builtAt: number
  /** E.g. `linux/amd64`. */
  readonly platform: string
}
