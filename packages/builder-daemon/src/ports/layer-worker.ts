import type { DiffId, Digest } from '@isula-build/shared/oci/digest.js'
import type { LayerCompression } from '@isula-build/shared/oci/media-types.js'
import type { CopyInput } from '../core/plan/plan.js'

/**
 * Jobs of the layer workers: synchronous work in a thread, one job at a time per thread. Parameters
 * and results are structured-cloneable. A job that throws a BuilderError rejects with it. All
 * directories are absolute; `lowers` are `diff` directories, top first.
 */
export interface LayerJobs {
  /** Hashes an upper as a canonical layer tar. */
  seal: { params: SealParams; result: IdentifiedLayer }
  /**
   * Unpacks a layer tar into an empty upper, keeping its headers in `headersFile`. The layers below need not be there
   * yet: without `lowers` it gives undefined, leaving the upper in disorder, as soon as one of them could matter, and
   * else exactly what it would give over them.
   */
  apply: { params: ApplyParams; result: ApplyResult | undefined }
  /** The same with a file of the store's. */
  applyFile: { params: ApplyFileParams; result: ApplyResult | undefined }
  /** Digest and size of a file or of a part of it, as stored. */
  digest: { params: DigestParams; result: DigestResult }
  /** Copies a compressed file (gzip, zstd, xz, bzip2) to `target`, decompressed. */
  unpack: { params: UnpackParams; result: UnpackResult }
  /** Folds changesets, bottom first, into one in an empty upper; files are linked, not copied. */
  merge: { params: MergeParams; result: Record<never, never> }
  /** Unpacks a plain tar, perhaps compressed, as a build context: no layer semantics, nothing outside `directory`. */
  extract: { params: ExtractParams; result: Record<never, never> }
  /** Writes the layer as a tar to `fd`; checks the diff ID on the way. */
  writeLayer: { params: WriteLayerParams; result: SealResult }
  /** Writes the files of stacked layers, as a container sees them, as a canonical tar to `fd` at its current offset. */
  writeRootfs: { params: WriteRootfsParams; result: WriteRootfsResult }
  /** Writes the layer's tar compressed to a file. The same recipe gives the same bytes. */
  compressLayer: { params: CompressLayerParams; result: CompressLayerResult }
  /** Compresses for a `compressLayer` in another thread, as long as it lasts; without it that one is only slower. */
  helpCompression: { params: HelpCompressionParams; result: HelpCompressionResult }
  /** Replaces the content of a file. */
  writeFile: { params: WriteFileParams; result: WriteFileResult }
  /** Executes a COPY or ADD into an empty upper, hashing the layer in the same pass. */
  copy: { params: CopyParams; result: CopyResult }
  /** Content digest of what a COPY or ADD would copy, without copying. */
  digestSources: { params: CopyParams; result: DigestedSources }
  /** What differs between what two copies took; undefined when one of them left no record of it. */
  explainSources: { params: ExplainSourcesParams; result: SourceChanges | undefined }
  /** mkdir -p inside the root; `created` false when nothing had to be made. */
  makeDirectory: { params: MakeDirectoryParams; result: { created: boolean } & IdentifiedLayer }
  /** USER or --chown in the image's own passwd and group files. */
  resolveUser: { params: ResolveUserParams; result: ResolveUserResult }
}

export interface SealParams {
  readonly upper: string
  /** Seconds since the epoch: every entry's mtime is set to it, on disk and in the tar. */
  readonly fixedTime: number | undefined
  /** Also find the content ID, which costs a second hash of every file. */
  readonly identify?: boolean | undefined
}
export interface SealResult {
  readonly diffId: DiffId
  readonly tarSize: number
  readonly entries: number
}
export interface IdentifiedLayer extends SealResult {
  /** Digest of the entries without their times; null where nobody asked. */
  readonly contentId: string | null
}

export interface ExtractParams {
  /** Read from its start to its end; not closed. */
  readonly fd: number
  readonly directory: string
}

export interface MergeParams {
  readonly diffs: readonly string[]
  /** What the result will lie on, top first. */
  readonly lowers: readonly string[]
  readonly upper: string
}

export interface ApplyParams {
  /** Read from here; the job does not close it. */
  readonly fd: number
  /** Absolute byte range in a seekable file, or undefined to read a stream to its end. */
  readonly range: { readonly offset: number; readonly length: number } | undefined
  readonly upper: string
  readonly lowers: readonly string[] | undefined
  readonly headersFile: string
  /** Bytes of uncompressed tar allowed. */
  readonly limit: number
  readonly expectedDiffId: DiffId | undefined
  /** Of the bytes as stored; damage that the tar shows is then told as ISB_DIGEST_MISMATCH too. */
  readonly expectedDigest?: Digest | undefined
  /** Also find out whether a path comes twice. */
  readonly findRepeats?: boolean
}
export interface ApplyFileParams extends Omit<ApplyParams, 'fd' | 'range' | 'findRepeats'> {
  readonly path: string
}
export interface ApplyResult extends SealResult {
  /** How the tar was compressed, told by its first bytes. */
  readonly compression: LayerCompression | 'xz' | 'bzip2'
  /** A path came twice; false when nobody asked. */
  readonly repeats: boolean
  /** Over other layers some entry could have become something else (see LayerRecord.parentKey). */
  readonly usedParents: boolean
}

export interface DigestParams {
  /** A seekable file; the job neither closes it nor moves its offset. */
  readonly fd: number
  readonly range: { readonly offset: number; readonly length: number }
}
export interface DigestResult {
  readonly digest: Digest
  /** Bytes hashed; fewer than asked for when the file ends early. */
  readonly size: number
}

export interface UnpackParams {
  /** A seekable file; the job neither closes it nor moves its offset. */
  readonly fd: number
  readonly range: { readonly offset: number; readonly length: number }
  /** Written at its own offset; not closed. */
  readonly target: number
  /** Bytes allowed to come out. */
  readonly limit: number
}
export interface UnpackResult {
  readonly size: number
}

export interface WriteLayerParams {
  readonly layerDirectory: string
  readonly keepsHeaders: boolean
  readonly fd: number
  /** Where in the file; undefined: at the descriptor's own offset, which moves. */
  readonly offset?: number | undefined
  readonly expectedDiffId: DiffId | undefined
}

export interface WriteRootfsParams {
  /** Top first; [] is a root without anything. */
  readonly lowers: readonly string[]
  readonly fd: number
}
export interface WriteRootfsResult {
  readonly tarSize: number
  readonly entries: number
}

export interface CompressLayerParams {
  readonly layerDirectory: string
  readonly keepsHeaders: boolean
  readonly expectedDiffId: DiffId | undefined
  readonly compression: 'gzip' | 'zstd'
  /** gzip 1 to 9, zstd 1 to 19; undefined: what pays best on this machine. */
  readonly level: number | undefined
  /** Its content is replaced. */
  readonly file: string
  /**
   * Memory that the compressed bytes go through on their way to `RegistryClient.streamBlob`, 1 MiB at least, its first
   * 4 KiB zeros: the file then gets what that is too slow for, and nothing most often.
   */
  readonly pipe?: SharedArrayBuffer | undefined
  /** Memory to share with `helpCompression`, 3 MiB at least, its first 4 KiB zeros; undefined: nobody helps. */
  readonly shared?: SharedArrayBuffer | undefined
}
export interface HelpCompressionParams {
  /** As of the `compressLayer`. */
  readonly compression: 'gzip' | 'zstd'
  readonly level: number | undefined
  readonly shared: SharedArrayBuffer
}
export interface HelpCompressionResult {
  /** How many of 1 MiB were compressed here. */
  readonly blocks: number
}
export interface CompressLayerResult extends SealResult, WriteFileResult {
  /** How it was done (see LayerBlob.recipe). */
  readonly recipe: string
  /** With a `pipe`: its reader was too slow. */
  readonly isBehind: boolean
}

export interface WriteFileParams {
  readonly file: string
  readonly content: Uint8Array
}
/** What the file holds now. */
export interface WriteFileResult {
  readonly digest: Digest
  readonly size: number
}

/** Where a job reads sources: a directory below a descriptor, the helper of a user, or stacked layers. */
export type SourceRoot =
  | {
      readonly access: 'direct' | 'helper'
      readonly fd: number
      /** The user whose file systems a job that reads here may have to wait for. */
      readonly helperOf?: number | undefined
      /** Directory, made when needed, where it is remembered what this user's contexts held when they were read. */
      readonly statTables?: string | undefined
    }
  | { readonly access: 'layers'; readonly lowers: readonly string[] }

export interface CopyParams {
  readonly upper: string
  readonly lowers: readonly string[]
  readonly instruction: 'COPY' | 'ADD'
  readonly inputs: readonly ResolvedCopyInput[]
  readonly destination: string
  readonly intoDirectory: boolean
  readonly chown: string | undefined
  readonly chmod: string | undefined
  readonly link: boolean
  readonly parents: boolean
  readonly excludes: readonly string[]
  readonly fixedTime: number | undefined
  /**
   * Directory of a sealed layer, held, that the same instruction gave before: files that are the same in it
   * become hard links.
   */
  readonly reuse?: string | undefined
  /** What `digestSources` saw of the same inputs a moment ago: they are not looked at again as long as it holds. */
  readonly seen?: SeenSources | undefined
}

export interface DigestedSources {
  readonly contentKey: string
  /** Given where all of the sources were looked at, which they were not when nothing of them changed. */
  readonly seen?: SeenSources | undefined
}

/** What a look at sources told, in memory that threads share: see `layer/copy/seen-sources`. */
export interface SeenSources {
  readonly contentKey: string
  readonly records: SharedArrayBuffer
  readonly notes: SharedArrayBuffer
  /** The directories that the patterns matched, one after the other, each with its path. */
  readonly matches: readonly string[]
  /** Directories that are copied: number of the input, path, and where their records begin. */
  readonly tops: readonly { readonly input: number; readonly path: string; readonly at: number }[]
}

export type ResolvedCopyInput =
  | {
      readonly kind: 'tree'
      readonly root: SourceRoot
      readonly pattern: string
      readonly unpack: boolean
      /** Lines of the ignore file that applies, or [] . */
      readonly ignore: readonly string[]
      /** Name of the ignore file, for messages. */
      readonly ignoreFile: string | undefined
      /** True for the build context (owner becomes 0:0 unless --chown), false for images and stages. */
      readonly isContext: boolean
    }
  | Extract<CopyInput, { kind: 'inline' }>
  /** A downloaded URL: a file on disk, with the name it takes and its time in seconds. */
  | {
      readonly kind: 'download'
      readonly file: string
      readonly name: string
      readonly mtime: number
      readonly unpack: boolean
    }

export interface CopyResult extends IdentifiedLayer {
  readonly contentKey: string
  /** The files of `reuse` are not what they were: nothing was taken from it. */
  readonly reuseDamaged?: boolean
}

export interface ExplainSourcesParams {
  /** Files `sources` that `copy` leaves beside the `diff` of a layer. */
  readonly before: string
  readonly after: string
}
/** Paths relative to the context, sorted, at most five of each kind, and how many there are more. */
export interface SourceChanges {
  /** Other content, or there in one of the two only. */
  readonly files: readonly string[]
  readonly moreFiles: number
  /** The same content with another mode or owner. */
  readonly modes: readonly string[]
  readonly moreModes: number
}

export interface MakeDirectoryParams {
  readonly upper: string
  readonly lowers: readonly string[]
  readonly path: string
  /** `user[:group]` that owns directories that are new; '' or one the image does not know = root. */
  readonly user?: string | undefined
  readonly fixedTime: number | undefined
}

export interface ResolveUserParams {
  readonly lowers: readonly string[]
  readonly user: string
}
export interface ResolveUserResult {
  readonly uid: number
  readonly gid: number
  readonly additionalGids: readonly number[]
  readonly home: string
}

export type JobName = keyof LayerJobs

export interface LayerWorkers {
  /** Jobs that run at the same time; 2 where it is not said. */
  readonly size?: number
  run<N extends JobName>(
    job: N,
    params: LayerJobs[N]['params'],
    signal?: AbortSignal,
  ): Promise<LayerJobs[N]['result']>
}
