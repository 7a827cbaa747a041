import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { CopyParams } from '../../ports/layer-worker.js'
import { parentOf } from '../../system/rooted.js'
import type { JobControl } from '../job-control.js'
import type { ModeChange } from './chmod.js'
import { type ContentPart, type ContentRecord, recordOf } from './content-log.js'
import {
  type Content,
  type Destination,
  type DirectoryNode,
  type Inode,
  type Line,
  type Metadata,
  type Owner,
  type Pending,
  pathOf,
} from './destination.js'
import { StaleSourcesError } from './seen-sources.js'
import { joinPath, type SourceEntry, type SourceReader } from './source-reader.js'
import { type SourceItem, type SourceVisitor, walkSource } from './source-walk.js'
import type { MatchedSource } from './sources.js'

export interface PlacementRules {
  readonly params: CopyParams
  /** `--chown`, resolved. */
  readonly owner: Owner | undefined
  readonly chmod: ModeChange | undefined
  /** Time of what the instruction makes itself. */
  readonly now: bigint
  readonly control: JobControl
}

export interface Placement {
  /** What is copied is told to `part` while it is written. */
  place(source: MatchedSource, part: ContentPart): void
  placeFile(name: string, file: NamedFile): void
  /** The directory that an archive is unpacked into: the destination itself, whatever its spelling. */
  archiveRoot(): DirectoryNode
}

export interface NamedFile {
  readonly metadata: Metadata
  readonly content: Content
  readonly part: ContentPart
  readonly record: ContentRecord
}

/**
 * Decides where sources go: BuildKit's rules (its `File` op of COPY and ADD, and the copier of
 * fsutil below it). The content of a source directory goes into the destination; an existing
 * directory keeps its mode and owner at the top and takes the source's below.
 */
export function createPlacement(destination: Destination, rules: PlacementRules): Placement {
  const { params } = rules
  const madeDirectory: Metadata = {
    mode: 0o755,
    uid: rules.owner?.uid ?? 0,
    gid: rules.owner?.gid ?? 0,
    mtimeNs: rules.now,
    xattrs: [],
  }

  /** The destination with its links followed, its parents made. */
  function prepare(): string {
    const ensured = params.intoDirectory ? params.destination : parentOf(params.destination)
    destination.makeDirectories(destination.resolve(ensured), madeDirectory)
    return destination.resolve(params.destination)
  }

  function fileTarget(name: string): { readonly parent: DirectoryNode; readonly name: string } {
    const target = prepare()
    const existing = destination.lookup(target)
    if (existing?.kind === 'directory') return { parent: existing, name }
    return {
      parent: destination.makeDirectories(parentOf(target), madeDirectory),
      name: target.slice(target.lastIndexOf('/') + 1),
    }
  }

  function put(parent: DirectoryNode, name: string, inode: Inode, line: Line): void {
    if (destination.child(parent, name)?.kind === 'directory') {
      throw copyFailed(`cannot replace directory ${shown(parent, name)} with a file`)
    }
    destination.put(parent, name, inode, line)
  }

  function place(source: MatchedSource, part: ContentPart): void {
    const visitor = createVisitor(source, part)
    if (source.entry.type !== 'directory') {
      const { parent, name } = fileTarget(source.name)
      visitor.file(parent, { entry: { ...source.entry, name }, path: source.path, relative: '' })
      return
    }
    const top = destination.makeDirectories(prepare(), madeDirectory)
    top.metadata = { ...top.metadata, mtimeNs: source.entry.mtimeNs }
    destination.write(top)
    const { selection, view } = source
    const inOrder = selection.exclude === undefined && selection.include === undefined

    function pendingAt(path: string, relative: string, directory: DirectoryNode): Pending {
      const place = (placed: (name: string) => void): void => {
        rules.control.check()
        walkSource(
          view,
          { path, relative, place: directory },
          {
            selection,
            visitor: {
              directory: visitor.directory,
              file(parent, item) {
                visitor.file(parent, item)
                placed(item.entry.name)
              },
            },
            descend(made, item) {
              made.pending.push(pendingAt(item.path, item.relative, made))
              placed(item.entry.name)
            },
          },
        )
      }
      return { inOrder, place }
    }
    top.pending.push(pendingAt(source.path, '', top))
  }

  function createVisitor(source: MatchedSource, part: ContentPart): SourceVisitor<DirectoryNode> {
    const single = source.entry.type !== 'directory'
    const inodes = new Map<string, { readonly inode: Inode; readonly path: string }>()
    const keepsOwner = !source.input.isContext
    function metadataOf(entry: SourceEntry): Metadata {
      const isLink = entry.type === 'symlink'
      const mode =
        isLink || rules.chmod === undefined ? entry.mode : rules.chmod(entry.mode, isDirectory(entry))
      const uid = rules.owner?.uid ?? (keepsOwner ? entry.uid : 0)
      const gid = rules.owner?.gid ?? (keepsOwner ? entry.gid : 0)
      // One object less per file where the source says it all.
      if (mode === entry.mode && uid === entry.uid && gid === entry.gid) return entry
      return { mode, uid, gid, mtimeNs: entry.mtimeNs, xattrs: entry.xattrs }
    }

    /** Under the content key of what was seen stands nothing else. */
    function checkSeen({ entry, path }: SourceItem): void {
      if (params.seen === undefined) return
      const isKnown = entry.type !== 'file' || entry.digest !== undefined
      if (entry.seen === undefined || !isKnown) throw new StaleSourcesError(path)
    }

    function directory(parent: DirectoryNode, item: SourceItem, implied: boolean): DirectoryNode {
      const { entry } = item
      checkSeen(item)
      const line: Line = { part, record: recordOf(source, item), inode: undefined, single }
      const existing = destination.child(parent, entry.name)
      if (existing === undefined)
        return destination.makeDirectory(parent, entry.name, metadataOf(entry), line)
      if (existing.kind !== 'directory') {
        throw copyFailed(`cannot copy a directory to ${shown(parent, entry.name)}, which is not a directory`)
      }
      const metadata = metadataOf(entry)
      existing.metadata = implied
        ? { ...existing.metadata, mode: entry.mode }
        : { ...metadata, xattrs: mergeXattrs(existing.metadata.xattrs, metadata.xattrs) }
      destination.addLine(parent, entry.name, line)
      destination.write(existing)
      return existing
    }

    function file(parent: DirectoryNode, item: SourceItem): void {
      const { entry } = item
      checkSeen(item)
      const first = entry.inode === undefined ? undefined : inodes.get(entry.inode)
      const inode = first?.inode ?? inodeOf(item, metadataOf(entry), source.view.reader)
      const described = recordOf(source, item, first?.path)
      if (entry.inode !== undefined && first === undefined) {
        inodes.set(entry.inode, { inode, path: described.path })
      }
      put(parent, entry.name, inode, { part, record: described, inode, single })
    }

    return { directory, file }
  }

  return {
    place,
    placeFile(name, file) {
      const target = fileTarget(name)
      const inode: Inode = {
        kind: 'inode',
        type: 'file',
        metadata: file.metadata,
        link: '',
        rdevMajor: 0,
        rdevMinor: 0,
        content: file.content,
        size: undefined,
        digest: undefined,
        writtenAt: undefined,
      }
      put(target.parent, target.name, inode, { part: file.part, record: file.record, inode, single: true })
    },
    archiveRoot: () => destination.makeDirectories(destination.resolve(params.destination), madeDirectory),
  }
}

function inodeOf({ entry, path }: SourceItem, metadata: Metadata, reader: SourceReader): Inode {
  if (entry.type === 'directory' || entry.type === 'socket') throw new Error(`no inode for a ${entry.type}`)
  return {
    kind: 'inode',
    type: entry.type,
    metadata,
    link: entry.link,
    rdevMajor: entry.rdevMajor,
    rdevMinor: entry.rdevMinor,
    content: entry.type === 'file' ? contentOf(entry, path, reader) : undefined,
    size: undefined,
    digest: undefined,
    writtenAt: undefined,
  }
}

function contentOf({ size, digest }: SourceEntry, path: string, reader: SourceReader): Content {
  const expected = digest === undefined ? undefined : { size, digest }
  return { kind: 'source', reader, path, givesTime: true, expected }
}

function isDirectory(entry: SourceEntry): boolean {
  return entry.type === 'directory'
}

function mergeXattrs(below: Metadata['xattrs'], above: Metadata['xattrs']): Metadata['xattrs'] {
  if (below.length === 0) return above
  return [...new Map([...below, ...above])].sort(([a], [b]) => (a < b ? -1 : 1))
}

function shown(parent: DirectoryNode, name: string): string {
  return `/${textOfBytes(joinPath(pathOf(parent), name))}`
}

function copyFailed(message: string): BuilderError {
  return new BuilderError('ISB_COPY_FAILED', message)
}
