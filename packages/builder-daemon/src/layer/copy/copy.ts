import { createHash } from 'node:crypto'
import { closeSync, fstatSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import type { CopyParams, CopyResult, ResolvedCopyInput } from '../../ports/layer-worker.js'
import { openMerged } from '../../system/detached-overlay.js'
import { type JobControl, uncontrolled } from '../job-control.js'
import { unpackArchive } from './archive.js'
import { parseChmod } from './chmod.js'
import {
  type ContentRecord,
  createContentHash,
  directoryLine,
  namedRecord,
  recordLine,
  recordOf,
} from './content-log.js'
import { type CopyMemory, createCopyMemory } from './copy-memory.js'
import { createDestination, type Inode } from './destination.js'
import { createDirectReader, openLocalFile } from './direct-reader.js'
import { ownerOf } from './owner.js'
import { createPlacement } from './placement.js'
import type { SourceFile, SourceReader } from './source-reader.js'
import { type MatchedSource, openSources, type Sources } from './sources.js'
import { createSpool, type Spool } from './spool.js'
import { transfer } from './transfer.js'
import { openContent, writeUpper } from './upper-writer.js'

export { digestSourcesJob } from './digest-sources.js'

const second = 1_000_000_000n

/**
 * Executes a COPY or ADD into an empty upper. Everything is planned before anything is written, so
 * only what reading finds out leaves a part behind. Fails with ISB_CONTEXT_NOT_FOUND,
 * ISB_CONTEXT_CHANGED, ISB_COPY_FAILED, ISB_ARCHIVE_INVALID, ISB_ARGUMENT_INVALID.
 */
export function copyJob(params: CopyParams, control: JobControl = uncontrolled): CopyResult {
  using spool = createSpool(dirname(params.upper))
  using sources = openSources(params, control)
  using lower = openLower(params)
  using files = openFiles()
  using memory = createCopyMemory(params, control)
  const result = execute({ params, control, spool, sources, lower: lower.reader, files, memory })
  memory.finish(result.contentKey)
  return result
}

interface Execution {
  readonly params: CopyParams
  readonly control: JobControl
  readonly spool: Spool
  readonly sources: Sources
  /** undefined where nothing lies below, and for `--link`, which does not look. */
  readonly lower: SourceReader | undefined
  readonly files: OpenFiles
  readonly memory: CopyMemory
}

/** A line of the content key, at once or when the content was read. */
type Line =
  | string
  | {
      readonly record: ContentRecord
      readonly inode: Inode | Pick<Inode, 'size' | 'digest'> | undefined
    }

function execute({ params, control, spool, sources, lower, files, memory }: Execution): CopyResult {
  const now = BigInt(Date.now()) * 1_000_000n
  const made = { mode: 0o755, uid: 0, gid: 0, mtimeNs: now, xattrs: [] }
  const destination = createDestination(lower, made)
  const owner = ownerOf(params)
  const chmod = params.chmod === undefined ? undefined : parseChmod(params.chmod)
  const lines: Line[] = []
  const placement = createPlacement(destination, { params, owner, chmod, now }, (record, inode) => {
    control.check()
    lines.push({ record, inode })
  })
  const unpacking = { destination, lower, makeRoot: () => placement.archiveRoot(), spool, now, control }

  /** True when the file was an archive; it is closed in any case. */
  function tryUnpack(file: SourceFile, path: string, record: ContentRecord): boolean {
    try {
      const digest = unpackArchive(file, path, unpacking)
      if (digest !== undefined) lines.push({ record, inode: { size: file.size, digest } })
      return digest !== undefined
    } finally {
      file.close()
    }
  }

  function placeMatch(source: MatchedSource): void {
    const { entry, path, view } = source
    if (entry.type === 'directory') lines.push(directoryLine(source.key))
    const mayUnpack = source.input.unpack && entry.type === 'file'
    if (mayUnpack && tryUnpack(view.reader.open(path), path, recordOf(source, { entry, relative: '' })))
      return
    placement.place(source)
  }

  function placeNamed(input: Exclude<ResolvedCopyInput, { kind: 'tree' }>, record: ContentRecord): void {
    const name = bytesOfText(input.name)
    const metadata = (mode: number, mtimeNs: bigint) => ({
      mode: chmod === undefined ? mode : chmod(mode, false),
      uid: owner?.uid ?? 0,
      gid: owner?.gid ?? 0,
      mtimeNs,
      xattrs: [],
    })
    if (input.kind === 'inline') {
      const bytes = Buffer.from(input.content, 'utf8')
      const content = { kind: 'bytes', bytes } as const
      const digest = createHash('sha256').update(bytes).digest()
      lines.push({ record, inode: { size: bytes.length, digest } })
      placement.placeFile(name, { metadata: metadata(0o644, now), content })
    } else if (!(input.unpack && tryUnpack(openLocalFile(input.file), name, record))) {
      const mtimeNs = input.mtime === undefined ? now : BigInt(Math.trunc(input.mtime)) * second
      const fd = files.open(input.file)
      const content = { kind: 'slice', fd, offset: 0, size: fstatSync(fd).size } as const
      // As BuildKit: a download is its owner's alone unless --chmod says otherwise.
      lines.push({
        record,
        inode: placement.placeFile(name, { metadata: metadata(0o600, mtimeNs), content }),
      })
    }
  }

  for (const [index, input] of params.inputs.entries()) {
    if (input.kind !== 'tree') placeNamed(input, namedRecord(input, index))
    else for (const source of sources.matches(input, index)) placeMatch(source)
  }
  const fixedTime = params.fixedTime === undefined ? undefined : BigInt(params.fixedTime) * second
  const written = writeUpper(destination.root, { upper: params.upper, fixedTime, control })
  return { ...written, contentKey: contentKeyOf(lines, control, memory) }
}

function contentKeyOf(lines: readonly Line[], control: JobControl, memory: CopyMemory): string {
  const hash = createContentHash()
  for (const line of lines) {
    control.check()
    if (typeof line === 'string') hash.add(line)
    else {
      const { record, inode } = line
      if (inode !== undefined && 'kind' in inode) requireDigest(inode, record.path)
      hash.add(recordLine(record, inode?.size ?? 0, inode?.digest))
      memory.add(record, inode?.digest)
    }
  }
  return hash.key()
}

/** Of a file that a later source replaced: never written, but part of what was to be copied. */
function requireDigest(inode: Inode, path: string): void {
  if (inode.content === undefined || inode.digest !== undefined) return
  const file = openContent(inode, path)
  try {
    inode.size = file.size
    inode.digest = transfer(file, path, () => undefined)
  } finally {
    file.close()
  }
}

function openLower(params: CopyParams): { readonly reader: SourceReader | undefined } & Disposable {
  if (params.link || params.lowers.length === 0)
    return { reader: undefined, [Symbol.dispose]: () => undefined }
  const merged = openMerged(params.lowers)
  const reader = createDirectReader(merged.fd)
  return {
    reader,
    [Symbol.dispose]() {
      reader.close()
      merged.close()
    },
  }
}

interface OpenFiles extends Disposable {
  open(path: string): number
}

function openFiles(): OpenFiles {
  const descriptors: number[] = []
  return {
    open(path) {
      const fd = openSync(path, 'r')
      descriptors.push(fd)
      return fd
    },
    [Symbol.dispose]() {
      for (const fd of descriptors) closeSync(fd)
    },
  }
}
