import type { SourceRange } from '@isula-build/shared/dockerfile/source.js'
import type { BytePath } from '@isula-build/shared/oci/byte-path.js'
import type { ContainerConfig, History } from '@isula-build/shared/oci/image-config.js'
import type { ResolvedImage } from '../../ports/image-resolver.js'

/** Identity of a vertex inside one plan, e.g. `2.3` (stage 2, step 3). */
export type VertexId = string & { readonly __brand: 'VertexId' }

/**
 * The build as a frozen graph: every vertex is one file system state. Only what the target needs is
 * in it; `vertices` is topologically sorted. Instructions that change only the config are no
 * vertices: they are already applied to `PlannedImage.config` and stand in its history.
 */
export interface Plan {
  readonly vertices: readonly Vertex[]
  /** What the user sees, in the order of the Dockerfile; includes config-only instructions. */
  readonly steps: readonly Step[]
  /** Instructions of the Dockerfile that the target does not need, in its order; of very many the first ones. */
  readonly unneeded: readonly UnneededStep[]
  readonly target: PlannedImage
  /** Stages that a later FROM uses or that are the target: what the original commits, in order. */
  readonly stages: readonly PlannedStage[]
  readonly warnings: readonly { readonly message: string; readonly source?: SourceRange }[]
}

export interface UnneededStep {
  readonly stage: string
  /** As of a step. */
  readonly text: string
  /** Number of the step that comes next in the Dockerfile, beyond the last one where none does. */
  readonly before: number
}

export interface Step {
  /** From 1. */
  readonly number: number
  readonly stageIndex: number
  readonly stage: string
  /** `RUN make all`. */
  readonly text: string
  /** The vertex that does the work; absent for config-only instructions. */
  readonly vertex?: VertexId
  readonly definition: StepDefinition
  readonly source: SourceRange
}

/** What a step says, for telling how it differs from the same step of another build. */
export interface StepDefinition {
  /** `from`, `run`, `env`, … */
  readonly instruction: string
  /** As written, on one line, here-documents included, without credentials in URLs. */
  readonly text: string
  /** What it says after expansion, as far as no vertex says it. */
  readonly meaning: string
  /** Build args that what it says depends on, itself or by variables set from them, with their values. */
  readonly args: readonly ArgumentUse[]
  /** FROM names a stage: its index. */
  readonly baseStage?: number
}

export interface ArgumentUse {
  readonly name: string
  readonly value: string
}

export interface PlannedStage {
  readonly index: number
  readonly name: string
  readonly image: PlannedImage
}

export interface PlannedImage {
  /** null = `FROM scratch` with nothing added. */
  readonly vertex: VertexId | null
  readonly base: ResolvedImage | null
  readonly platform: Platform
  readonly author: string | undefined
  readonly config: ContainerConfig
  /** Entries for the instructions of this build, oldest first; the base's own come before them. */
  readonly history: readonly PlannedHistory[]
}

export interface PlannedHistory extends History {
  /** The vertex whose layer this entry describes; absent = `empty_layer`. */
  readonly vertex?: VertexId
}

export interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
}

interface VertexBase {
  readonly id: VertexId
  /** Number of the step that shows this vertex; 0 for images named only by COPY --from or a mount. */
  readonly step: number
  readonly stageIndex: number
  readonly source: SourceRange
  readonly platform: Platform
}

/** An image's file system, nothing done. */
export interface ImageVertex extends VertexBase {
  readonly kind: 'image'
  readonly image: ResolvedImage
}

/** Makes a directory and its missing parents (WORKDIR): 0755, owned by `user`; an existing one stays as it is. */
export interface WorkdirVertex extends VertexBase {
  readonly kind: 'workdir'
  readonly parent: VertexId | null
  readonly path: BytePath
  /** USER of that line, resolved in the parent's /etc/passwd and /etc/group; '' = root. */
  readonly user: string
}

export interface CopyVertex extends VertexBase {
  readonly kind: 'copy'
  readonly instruction: 'COPY' | 'ADD'
  readonly parent: VertexId | null
  readonly inputs: readonly CopyInput[]
  /** Rooted, cleaned. */
  readonly destination: BytePath
  /** The destination was written with a trailing slash, or is `.` or the root. */
  readonly intoDirectory: boolean
  /** `user[:group]`, names or numbers, expanded; resolved in the parent's /etc/passwd and /etc/group. */
  readonly chown: string | undefined
  /** Octal (`0755`) or symbolic (`u+x,go=rX`). */
  readonly chmod: string | undefined
  readonly link: boolean
  readonly parents: boolean
  readonly excludes: readonly string[]
}

/** Patterns and paths are bytes (latin1) as written after expansion; not yet cleaned. */
export type CopyInput =
  | {
      readonly kind: 'context'
      readonly context: ContextRef
      readonly pattern: string
      readonly unpack: boolean
    }
  | {
      readonly kind: 'vertex'
      readonly vertex: VertexId | null
      readonly pattern: string
      readonly unpack: boolean
    }
  | { readonly kind: 'inline'; readonly name: string; readonly content: string }
  | {
      readonly kind: 'url'
      readonly url: string
      readonly checksum: string | undefined
      readonly unpack: boolean
    }

/** '' = the build context; else a name given with --build-context. */
export type ContextRef = string

export interface RunVertex extends VertexBase {
  readonly kind: 'run'
  readonly parent: VertexId | null
  /** What is executed, shell included. */
  readonly args: readonly string[]
  /** Complete environment but the proxy variables, in order. */
  readonly env: readonly string[]
  /** Absolute. */
  readonly cwd: string
  /** '' = root. */
  readonly user: string
  readonly mounts: readonly RunMount[]
  readonly network: 'default' | 'none' | 'host'
  readonly security: 'sandbox' | 'insecure'
  /** Scripts of here-documents with a `#!` line: mounted read-only at `path`, mode 0755. */
  readonly scripts: readonly { readonly path: string; readonly content: string }[]
}

export type RunMount =
  | {
      readonly type: 'bind'
      readonly target: string
      readonly from: MountSource
      /** Rooted in `from`. */
      readonly source: BytePath
      /** Writes are allowed and thrown away. */
      readonly readWrite: boolean
    }
  | {
      readonly type: 'cache'
      readonly target: string
      readonly cacheId: string
      readonly from: MountSource | undefined
      readonly source: BytePath
      readonly readOnly: boolean
      readonly sharing: 'shared' | 'private' | 'locked'
      readonly mode: number
      readonly uid: number
      readonly gid: number
    }
  | { readonly type: 'tmpfs'; readonly target: string; readonly size: number | undefined }
  | {
      readonly type: 'secret'
      readonly id: string
      readonly target: string | undefined
      readonly env: string | undefined
      readonly required: boolean
      readonly mode: number
      readonly uid: number
      readonly gid: number
    }
  | {
      readonly type: 'ssh'
      readonly id: string
      readonly target: string | undefined
      readonly required: boolean
      readonly mode: number
      readonly uid: number
      readonly gid: number
    }

export type MountSource =
  | { readonly kind: 'context'; readonly context: ContextRef }
  | { readonly kind: 'vertex'; readonly vertex: VertexId | null }

export type Vertex = ImageVertex | WorkdirVertex | CopyVertex | RunVertex
