import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { FileType } from '../../system/file-stat.js'
import type { ContentPart, ContentRecord } from './content-log.js'
import { resolvePath } from './resolution.js'
import { joinPath, type SourceEntry, type SourceReader } from './source-reader.js'

export interface Owner {
  readonly uid: number
  readonly gid: number
}

export interface Metadata extends Owner {
  readonly mode: number
  readonly mtimeNs: bigint
  readonly xattrs: readonly (readonly [string, string])[]
}

/** Where the bytes of a regular file come from. */
export type Content =
  | {
      readonly kind: 'source'
      readonly reader: SourceReader
      readonly path: string
      /** The file is as old as its source is when it is opened. */
      readonly givesTime: boolean
      /** What it must hold, bytes and content digest; undefined where it may be anything. */
      readonly expected: { readonly size: number; readonly digest: Buffer } | undefined
    }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  /** A part of an open file that stays open until the layer is written. */
  | { readonly kind: 'slice'; readonly fd: number; readonly offset: number; readonly size: number }

/** A line of the content key, complete when the content of its inode was read. */
export interface Line {
  readonly part: ContentPart
  readonly record: ContentRecord
  readonly inode: Inode | undefined
  /** Its part has no other line. */
  readonly single: boolean
}

/** What is to be written at one or, as hard links, at several paths. */
export interface Inode {
  readonly kind: 'inode'
  readonly type: Exclude<FileType, 'directory' | 'socket'>
  metadata: Metadata
  readonly link: string
  readonly rdevMajor: number
  readonly rdevMinor: number
  readonly content: Content | undefined
  /** Bytes and digest of the content, once it was read. */
  size: number | undefined
  digest: Buffer | undefined
  /** Where it was written first; further paths become hard links to it. */
  writtenAt: string | undefined
}

export interface DirectoryNode {
  readonly kind: 'directory'
  readonly parent: DirectoryNode | undefined
  readonly name: string
  metadata: Metadata
  /** The directory of the layers below that shows through here; undefined when none does. */
  readonly lower: string | undefined
  /** Stands in the upper, made or copied up. */
  written: boolean
  /** Hides a directory of the layers below. */
  readonly opaque: boolean
  readonly children: Map<string, Child>
  /** What is still to be placed here, in this order: looked at no sooner than somebody asks what is in the directory. */
  pending: Pending[]
  /** Names in `lower`, once there was reason to look. */
  lowerNames: ReadonlySet<string> | undefined
}

export interface Child {
  node: DestinationNode
  /** Of everything that was placed under this name, what was replaced included; undefined for nothing. */
  lines: Line[] | undefined
}

export interface Pending {
  /** It places name after name in order, and nothing below another directory. */
  readonly inOrder: boolean
  /** `placed` is called after each. */
  place(placed: (name: string) => void): void
}

/** Something of the layers below that is no directory and stays as it is. */
export interface LowerNode {
  readonly kind: 'lower'
  readonly type: FileType
  readonly link: string
  readonly path: string
}

export type DestinationNode = DirectoryNode | Inode | LowerNode

/**
 * The file system a COPY writes into: a plan in memory over the layers below, in which later writers
 * replace earlier ones, whatever the order in which things are written. Trees of sources are looked at directory by
 * directory, when it is their turn to be written.
 */
export interface Destination {
  readonly root: DirectoryNode
  child(directory: DirectoryNode, name: string): DestinationNode | undefined
  /** Follows no link. */
  lookup(path: string): DestinationNode | undefined
  /** Follows links inside the root, the last component included. */
  resolve(path: string): string
  /** mkdir -p of a resolved path. Fails with ISB_COPY_FAILED when something else is in the way. */
  makeDirectories(path: string, metadata: Metadata): DirectoryNode
  makeDirectory(parent: DirectoryNode, name: string, metadata: Metadata, line?: Line): DirectoryNode
  put(parent: DirectoryNode, name: string, inode: Inode, line?: Line): void
  /** The directory stands in the upper with all its parents. */
  write(directory: DirectoryNode): void
  /** For what is placed and changes nothing but the metadata of what is there. */
  addLine(parent: DirectoryNode, name: string, line: Line): void
  /**
   * Gives what is in the directory, in the order of names, and forgets it: a big tree is never in memory as a whole.
   * Nothing may be placed below the directory afterwards.
   */
  take(directory: DirectoryNode, visit: (name: string, child: Child) => void): void
}

/** The layers below, as one tree. */
export interface LowerTree extends SourceReader {
  /** Of a directory that is there. */
  names(path: string): ReadonlySet<string>
}

/** Directories of the layers below are listed when more than so many of their names were asked for. */
const fewNames = 4

export function createDestination(lower: LowerTree | undefined, rootMetadata: Metadata): Destination {
  const below = lower?.stat('')
  const asked = new Map<DirectoryNode, number>()
  const root = newDirectory({
    ...{ parent: undefined, name: '', metadata: below ?? rootMetadata, written: false, opaque: false },
    lower: below === undefined ? undefined : '',
  })

  /** What the layers below have under the name, where they show through. */
  function lowerEntry(directory: DirectoryNode, name: string): SourceEntry | undefined {
    if (lower === undefined || directory.lower === undefined) return undefined
    if (directory.lowerNames === undefined) {
      const times = (asked.get(directory) ?? 0) + 1
      asked.set(directory, times)
      if (times > fewNames) directory.lowerNames = lower.names(directory.lower)
    }
    if (directory.lowerNames?.has(name) === false) return undefined
    return lower.stat(joinPath(directory.lower, name))
  }

  function expand(directory: DirectoryNode): void {
    // What is placed looks at the directory in turn, and must not meet what comes after it.
    const { pending } = directory
    directory.pending = []
    for (const one of pending) one.place(() => undefined)
  }

  function child(directory: DirectoryNode, name: string): DestinationNode | undefined {
    if (directory.pending.length > 0) expand(directory)
    const known = directory.children.get(name)
    if (known !== undefined || directory.lower === undefined) return known?.node
    const entry = lowerEntry(directory, name)
    if (entry === undefined) return undefined
    const path = joinPath(directory.lower, name)
    const node: DestinationNode =
      entry.type === 'directory'
        ? newDirectory({
            ...{ parent: directory, name, metadata: entry, lower: path, written: false, opaque: false },
          })
        : { kind: 'lower', type: entry.type, link: entry.link, path }
    directory.children.set(name, { node, lines: undefined })
    return node
  }

  function lookup(path: string): DestinationNode | undefined {
    let node: DestinationNode | undefined = root
    if (path === '') return node
    for (const name of path.split('/')) {
      if (node?.kind !== 'directory') return undefined
      node = child(node, name)
    }
    return node
  }

  function look(path: string) {
    const node = lookup(path)
    if (node === undefined) return undefined
    return node.kind === 'directory' ? { type: 'directory', link: '' } : node
  }

  function makeDirectories(path: string, metadata: Metadata): DirectoryNode {
    let directory = root
    if (path === '') return directory
    for (const name of path.split('/')) {
      const next = child(directory, name)
      if (next === undefined) directory = makeDirectory(directory, name, metadata)
      else if (next.kind === 'directory') directory = next
      else throw notDirectory(joinPath(pathOf(directory), name), path)
    }
    return directory
  }

  function makeDirectory(
    parent: DirectoryNode,
    name: string,
    metadata: Metadata,
    line?: Line,
  ): DirectoryNode {
    const opaque = lowerEntry(parent, name)?.type === 'directory'
    const node = newDirectory({ parent, name, metadata, lower: undefined, written: true, opaque })
    set(parent, name, node, line)
    return node
  }

  function set(parent: DirectoryNode, name: string, node: DestinationNode, line: Line | undefined): void {
    if (parent.pending.length > 0) expand(parent)
    const lines = withLine(parent.children.get(name)?.lines, line)
    parent.children.set(name, { node, lines })
    write(parent)
  }

  function addLine(parent: DirectoryNode, name: string, line: Line): void {
    const child = parent.children.get(name)
    if (child === undefined) throw new Error(`nothing was placed at ${name}`)
    child.lines = withLine(child.lines, line)
  }

  function take(directory: DirectoryNode, visit: (name: string, child: Child) => void): void {
    const { children, pending } = directory
    const [only] = pending
    if (only !== undefined && pending.length === 1 && only.inOrder && children.size === 0) {
      directory.pending = []
      only.place((name) => {
        const child = children.get(name)
        if (child === undefined) throw new Error(`nothing was placed at ${name}`)
        children.delete(name)
        visit(name, child)
      })
    } else {
      expand(directory)
      for (const name of [...children.keys()].sort()) {
        const child = children.get(name)
        if (child !== undefined) visit(name, child)
      }
    }
    children.clear()
    asked.delete(directory)
  }

  return {
    root,
    child,
    lookup,
    resolve: (path) => resolvePath(path, look, true),
    makeDirectories,
    makeDirectory,
    put: set,
    write,
    addLine,
    take,
  }
}

/** Grows the list it is given: thousands of sources may place the same name. */
function withLine(lines: Line[] | undefined, line: Line | undefined): Line[] | undefined {
  if (line === undefined) return lines
  if (lines === undefined) return [line]
  lines.push(line)
  return lines
}

function newDirectory(
  fields: Omit<DirectoryNode, 'kind' | 'children' | 'pending' | 'lowerNames'>,
): DirectoryNode {
  return { kind: 'directory', ...fields, children: new Map(), pending: [], lowerNames: undefined }
}

function write(directory: DirectoryNode): void {
  for (let node: DirectoryNode | undefined = directory; node !== undefined; node = node.parent) {
    if (node.written) return
    node.written = true
  }
}

export function pathOf(directory: DirectoryNode): string {
  return directory.parent === undefined ? '' : joinPath(pathOf(directory.parent), directory.name)
}

function notDirectory(path: string, wanted: string): BuilderError {
  const at = `/${textOfBytes(path)}`
  const below = path === wanted ? '' : `, needed for /${textOfBytes(wanted)}`
  return new BuilderError('ISB_COPY_FAILED', `${at} is not a directory${below}`)
}
