import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { FileType } from '../../system/file-stat.js'
import { resolvePath } from './resolution.js'
import { joinPath, type SourceReader } from './source-reader.js'

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
    }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  /** A part of an open file that stays open until the layer is written. */
  | { readonly kind: 'slice'; readonly fd: number; readonly offset: number; readonly size: number }

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
  readonly children: Map<string, DestinationNode>
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
 * replace earlier ones. Nothing is created until the plan is complete, so that a step that fails
 * half-way has done nothing and the layer can be written in tar order.
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
  makeDirectory(parent: DirectoryNode, name: string, metadata: Metadata): DirectoryNode
  put(parent: DirectoryNode, name: string, inode: Inode): void
  /** The directory stands in the upper with all its parents. */
  write(directory: DirectoryNode): void
}

export function createDestination(lower: SourceReader | undefined, rootMetadata: Metadata): Destination {
  const below = lower?.stat('')
  const root: DirectoryNode = {
    kind: 'directory',
    parent: undefined,
    name: '',
    metadata: below ?? rootMetadata,
    lower: below === undefined ? undefined : '',
    written: false,
    opaque: false,
    children: new Map(),
  }

  function child(directory: DirectoryNode, name: string): DestinationNode | undefined {
    const known = directory.children.get(name)
    if (known !== undefined || directory.lower === undefined) return known
    const path = joinPath(directory.lower, name)
    const entry = lower?.stat(path)
    if (entry === undefined) return undefined
    const node: DestinationNode =
      entry.type === 'directory'
        ? {
            kind: 'directory',
            parent: directory,
            name,
            metadata: entry,
            lower: path,
            written: false,
            opaque: false,
            children: new Map(),
          }
        : { kind: 'lower', type: entry.type, link: entry.link, path }
    directory.children.set(name, node)
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

  function makeDirectory(parent: DirectoryNode, name: string, metadata: Metadata): DirectoryNode {
    const hidden = parent.lower === undefined ? undefined : lower?.stat(joinPath(parent.lower, name))
    const node: DirectoryNode = {
      kind: 'directory',
      parent,
      name,
      metadata,
      lower: undefined,
      written: true,
      opaque: hidden?.type === 'directory',
      children: new Map(),
    }
    parent.children.set(name, node)
    write(parent)
    return node
  }

  function put(parent: DirectoryNode, name: string, inode: Inode): void {
    parent.children.set(name, inode)
    write(parent)
  }

  return {
    root,
    child,
    lookup,
    resolve: (path) => resolvePath(path, look, true),
    makeDirectories,
    makeDirectory,
    put,
    write,
  }
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
