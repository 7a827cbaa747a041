import type { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import type { Caller } from '../ports/caller.js'
import type { ImageSummary } from '../ports/image-store.js'
import type { Credentials } from '../ports/registry.js'
import type { CacheSource, CacheTarget, PruneEvent, PruneRequest } from './cache-requests.js'
import type { DaemonInfo, DaemonVersion } from './daemon-facts.js'

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
  pull(
    request: PullRequest,
    client: CredentialClient,
    caller: Caller,
    signal: AbortSignal,
  ): AsyncIterable<TransferEvent>
  push(
    request: PushRequest,
    client: CredentialClient,
    caller: Caller,
    signal: AbortSignal,
  ): AsyncIterable<TransferEvent>
  /** Checks the login with the registry, then keeps it for this user. Fails with ISB_REGISTRY_DENIED. */
  login(request: LoginRequest, caller: Caller, signal: AbortSignal): Promise<void>
  /** Names what was removed; fails with ISB_ARGUMENT_INVALID when there is no such login. */
  logout(request: LogoutRequest, caller: Caller): Promise<void>
  /** Resolves to the ID of the list. */
  createList(
    request: CreateListRequest,
    client: CredentialClient,
    caller: Caller,
    signal: AbortSignal,
  ): Promise<string>
  annotateList(
    request: AnnotateListRequest,
    client: CredentialClient,
    caller: Caller,
    signal: AbortSignal,
  ): Promise<void>
  /** The document as it would be pushed. */
  inspectList(name: string, caller: Caller): Promise<Uint8Array>
  pushList(
    request: PushListRequest,
    client: CredentialClient,
    caller: Caller,
    signal: AbortSignal,
  ): AsyncIterable<TransferEvent>
  removeList(name: string, caller: Caller): Promise<void>
  info(caller: Caller): Promise<DaemonInfo>
  version(): DaemonVersion
  /** Waiting and running builds that the caller may see: his own, for root all. */
  builds(caller: Caller): Promise<readonly BuildSummary[]>
  /** Fails with ISB_ARGUMENT_INVALID when the caller may see no such build. */
  cancelBuild(id: string, caller: Caller): Promise<void>
  /**
   * Removes build cache that neither an image uses nor an operation holds: root everybody's, others what is theirs alone.
   * The summary comes last.
   */
  prune(request: PruneRequest, caller: Caller, signal: AbortSignal): AsyncIterable<PruneEvent>
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
  /** Stages whose steps are not taken from the cache: names (of any case) or indexes; perhaps of no stage. */
  readonly noCacheFilter: readonly string[]
  /** What to build for; [] is the daemon's own platform, several make a list under the tags. */
  readonly platforms: readonly string[]
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
  readonly cacheFrom: readonly CacheSource[]
  readonly cacheTo: readonly CacheTarget[]
  /** Which base images are asked for at their registries. */
  readonly pull: PullPolicy
  readonly transfer: TransferOptions
}

/**
 * `missing`: what is not here; `newer`: and what the registry has in another version; `always`: everything, a failure
 * is one of the build; `never`: nothing.
 */
export type PullPolicy = 'always' | 'missing' | 'newer' | 'never'

/** How registries are spoken to. */
export interface TransferOptions {
  /** undefined: as registries.toml says. */
  readonly tlsVerify: boolean | undefined
  /** Attempts after a failed one. */
  readonly retries: number | undefined
  /** Milliseconds. */
  readonly retryDelay: number | undefined
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

/** `name` is in local form and becomes a name of the image too. */
export type BuildOutput =
  /** `rootfs` is a tar of the image's files, without any metadata. */
  | {
      readonly kind: 'docker-archive' | 'oci-archive' | 'rootfs'
      readonly target: OutputTarget
      readonly name: string | undefined
    }
  | {
      readonly kind: 'registry'
      readonly reference: string
      readonly push: PushOptions
      readonly name: string
    }
  /** Handed to the engine of this machine by the daemon, where the caller may use it himself. */
  | { readonly kind: 'docker-daemon' | 'isulad'; readonly name: string }

export interface PushOptions {
  /** undefined: as the image was built or pulled. */
  readonly format: 'docker' | 'oci' | undefined
  readonly compression: 'gzip' | 'zstd' | undefined
  readonly level: number | undefined
}

export type OutputTarget =
  /** `parent`: identity of the directory of `path` as the client sees it; another one is an error. */
  | { readonly kind: 'file'; readonly path: string; readonly parent: FileIdentity | undefined }
  /** Through `BuildClient.openOutput`, or as data events. */
  | { readonly kind: 'stream' }

/** Logins that the program of the caller knows. */
export interface CredentialClient {
  /**
   * `explicit`: the user named them for this very call, so they come before those of `login`; others come after.
   * `named`: the host that the reference has; undefined for a mirror.
   */
  credentials(
    host: string,
    repository: string,
    named?: string,
  ): Promise<(Credentials & { readonly explicit: boolean }) | undefined>
}

/** What a build can ask of the program that started it. Every method fails when the client is gone. */
export interface BuildClient extends CredentialClient {
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

export interface PullRequest {
  /** As the user wrote it. */
  readonly reference: string
  /** [] is the daemon's own; `all` every one of the index. */
  readonly platforms: readonly string[] | 'all'
  readonly policy: PullPolicy
  readonly transfer: TransferOptions
}

export interface PushRequest {
  /** A local name or ID. */
  readonly image: string
  /** Where to; undefined: what the name says. */
  readonly destination: string | undefined
  readonly push: PushOptions
  readonly transfer: TransferOptions
}

export type TransferEvent =
  /** One line without its end. */
  | { readonly kind: 'log'; readonly line: string }
  /** Of one blob, bytes; several times a second at most. */
  | { readonly kind: 'progress'; readonly digest: string; readonly done: number; readonly total: number }
  /** An image is in the store; `digest` of its manifest or index at the registry. */
  | {
      readonly kind: 'stored'
      readonly imageId: string
      readonly names: readonly string[]
      readonly digest: string | undefined
    }
  | { readonly kind: 'pushed'; readonly reference: string; readonly digest: string; readonly size: number }

export interface LoginRequest {
  /** Host, perhaps with a namespace, scheme and path already taken off. */
  readonly server: string
  /** undefined: check what is kept or known to the client. */
  readonly credentials: Credentials | undefined
  readonly transfer: TransferOptions
}

export type LogoutRequest = { readonly kind: 'server'; readonly server: string } | { readonly kind: 'all' }

export interface CreateListRequest {
  readonly name: string
  /** References at registries, local names or IDs. */
  readonly images: readonly string[]
  readonly format: 'docker' | 'oci'
  /** Every platform of an image that is a list itself. */
  readonly all: boolean
  /** Replace a list of this name. */
  readonly amend: boolean
  readonly transfer: TransferOptions
}

export interface AnnotateListRequest {
  readonly list: string
  /** An entry by its reference or digest; an image that is no entry yet is added. */
  readonly image: string
  readonly os: string | undefined
  readonly architecture: string | undefined
  readonly variant: string | undefined
  readonly osVersion: string | undefined
  readonly osFeatures: readonly string[]
  readonly annotations: Readonly<Record<string, string>>
  readonly transfer: TransferOptions
}

export interface PushListRequest {
  readonly list: string
  readonly destination: string
  readonly format: 'docker' | 'oci' | undefined
  /** Also the images, not only the list. */
  readonly all: boolean
  /** Remove the local list afterwards. */
  readonly purge: boolean
  readonly transfer: TransferOptions
}
