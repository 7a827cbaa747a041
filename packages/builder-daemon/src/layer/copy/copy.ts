import { closeSync, fstatSync, openSync, readdirSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import type { CopyParams, CopyResult, ResolvedCopyInput } from '../../ports/layer-worker.js'
import { hasErrno } from '../../system/system-error.js'
import { type JobControl, uncontrolled } from '../job-control.js'
import { createContentIdentity } from '../tar/content-id.js'
import { unpackArchive } from './archive.js'
import { parseChmod } from './chmod.js'
import {
  type ContentPart,
  type ContentRecord,
  createContentKey,
  knownContentKey,
  namedRecord,
  recordOf,
} from './content-log.js'
import { type CopyMemory, createCopyMemory } from './copy-memory.js'
import { createDestination, type LowerTree } from './destination.js'
import { openLocalFile } from './direct-reader.js'
import { openLowerTree } from './lower-tree.js'
import { ownerOf } from './owner.js'
import { createPlacement } from './placement.js'
import { openReuse, type Reuse } from './reuse.js'
import { DamagedReuseError } from './reuse-errors.js'
import { expectMatches, isStale, openSeen, type Seen } from './seen-sources.js'
import type { SourceFile } from './source-reader.js'
import { type MatchedSource, openSources, type Sources } from './sources.js'
import { createSpool, type Spool } from './spool.js'
import { writeTarMarks } from './tar-marks.js'
import { type WrittenUpper, writeUpper } from './upper-writer.js'

export { digestSourcesJob } from './digest-sources.js'

const second = 1_000_000_000n

/**
 * Executes a COPY or ADD into an empty upper; when it fails, a part of it is there. Fails with ISB_CONTEXT_NOT_FOUND,
 * ISB_CONTEXT_CHANGED, ISB_COPY_FAILED, ISB_ARCHIVE_INVALID, ISB_ARGUMENT_INVALID.
 */
export function copyJob(params: CopyParams, control: JobControl = uncontrolled): CopyResult {
  let { reuse, seen } = params
  let damaged: Pick<CopyResult, 'reuseDamaged'> = {}
  for (;;) {
    try {
      return { ...copyOnce({ ...params, reuse, seen }, control), ...damaged }
    } catch (error) {
      if (error instanceof DamagedReuseError) {
        reuse = undefined
        damaged = { reuseDamaged: true }
      } else if (hasErrno(error, 'REUSE_UNLIKE')) reuse = undefined
      else if (seen !== undefined && isStale(error)) seen = undefined
      else throw error
      empty(params.upper)
    }
  }
}

function empty(directory: string): void {
  for (const name of readdirSync(directory, { encoding: 'buffer' })) {
    const path = Buffer.concat([Buffer.from(`${directory}/`), name])
    rmSync(path as unknown as string, { recursive: true, force: true })
  }
}

function copyOnce(params: CopyParams, control: JobControl): CopyResult {
  using spool = createSpool(dirname(params.upper))
  using sources = openSources(params, control)
  // `--link` does not look at what lies below.
  const looksBelow = !params.link && params.lowers.length > 0
  using lower = looksBelow ? openLowerTree(params.lowers) : undefined
  using files = openFiles()
  using memory = createCopyMemory(params, control)
  using reuse = params.reuse === undefined ? undefined : openReuse(params.reuse, memory.recall)
  const seen = params.seen === undefined ? undefined : openSeen(params.seen)
  const means = { spool, sources, seen, lower, files, memory, reuse }
  const { hardLinks, marks, ...result } = execute({ params, control, ...means })
  writeTarMarks(dirname(params.upper), marks)
  memory.finish(result.contentKey, { hardLinks })
  return result
}

interface Execution {
  readonly params: CopyParams
  readonly control: JobControl
  readonly spool: Spool
  readonly sources: Sources
  readonly seen: Seen | undefined
  /** undefined where nothing lies below, and for `--link`, which does not look. */
  readonly lower: LowerTree | undefined
  readonly files: OpenFiles
  readonly memory: CopyMemory
  readonly reuse: Reuse | undefined
}

function execute(execution: Execution): CopyResult & Pick<WrittenUpper, 'hardLinks' | 'marks'> {
  const { params, control, spool, sources, seen, lower, files, memory, reuse } = execution
  const now = BigInt(Date.now()) * 1_000_000n
  const made = { mode: 0o755, uid: 0, gid: 0, mtimeNs: now, xattrs: [] }
  const destination = createDestination(lower, made)
  const owner = ownerOf(params)
  const chmod = params.chmod === undefined ? undefined : parseChmod(params.chmod)
  const key =
    params.seen === undefined
      ? createContentKey(memory.add)
      : knownContentKey(params.seen.contentKey, memory.add)
  const identity = createContentIdentity()
  const placement = createPlacement(destination, { params, owner, chmod, now, control })
  const unpacking = { destination, lower, makeRoot: () => placement.archiveRoot(), spool, now, control }

  /** True when the file was an archive; it is closed in any case. */
  function tryUnpack(file: SourceFile, path: string, { part, record }: Part): boolean {
    try {
      const digest = unpackArchive(file, path, unpacking)
      if (digest !== undefined) part.add(record, file.size, digest)
      return digest !== undefined
    } finally {
      file.close()
    }
  }

  function placeMatch(source: MatchedSource): void {
    const { entry, path, view } = source
    const part = key.part()
    if (entry.type === 'directory') part.top(source.key)
    const record = recordOf(source, { entry, relative: '' })
    const mayUnpack = source.input.unpack && entry.type === 'file'
    if (mayUnpack && tryUnpack(view.reader.open(path), path, { part, record })) part.close()
    else placement.place(source, part)
  }

  function placeNamed(input: Exclude<ResolvedCopyInput, { kind: 'tree' }>, record: ContentRecord): void {
    const name = bytesOfText(input.name)
    const part = key.part()
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
      placement.placeFile(name, { metadata: metadata(0o644, now), content, part, record })
    } else if (!(input.unpack && tryUnpack(openLocalFile(input.file), name, { part, record }))) {
      const mtimeNs = BigInt(Math.trunc(input.mtime)) * second
      const fd = files.open(input.file)
      const content = { kind: 'slice', fd, offset: 0, size: fstatSync(fd).size } as const
      // As BuildKit: a download is its owner's alone unless --chmod says otherwise.
      placement.placeFile(name, { metadata: metadata(0o600, mtimeNs), content, part, record })
    }
  }

  const expected = params.seen === undefined ? undefined : expectMatches(params.seen)
  for (const [index, input] of params.inputs.entries()) {
    if (input.kind !== 'tree') {
      placeNamed(input, namedRecord(input, index))
      continue
    }
    for (const source of sources.matches(input, index, seen)) {
      expected?.match(source)
      placeMatch(source)
    }
  }
  expected?.end()
  const fixedTime = params.fixedTime === undefined ? undefined : BigInt(params.fixedTime) * second
  const written = writeUpper(destination, {
    ...{ upper: params.upper, fixedTime, control, reuse },
    onEntry(entry, digest) {
      identity.entry(entry)
      if (digest !== undefined && entry.size > 0) identity.content(digest)
    },
  })
  return { ...written, contentKey: key.key(), contentId: identity.finish() }
}

interface Part {
  readonly part: ContentPart
  readonly record: ContentRecord
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
