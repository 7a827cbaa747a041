import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { rootedPath, textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { lastOf, parentOf } from '../../system/rooted.js'
import { decompress, defaultRatio } from '../decompress/decompress.js'
import type { JobControl } from '../job-control.js'
import { createContentDigest } from '../pipe/content-digest.js'
import { type ByteSource, createTarReader, type ReadEntry, type TarReader } from '../tar/reader.js'
import {
  type Destination,
  type DestinationNode,
  type DirectoryNode,
  type Inode,
  type Metadata,
  pathOf,
} from './destination.js'
import { changed } from './direct-reader.js'
import { resolvePath } from './resolution.js'
import { joinPath, keepsXattr, type SourceFile, type SourceReader } from './source-reader.js'
import type { Spool } from './spool.js'

/** Bytes one archive may unpack to. */
const archiveLimit = 2 ** 38
const limits = { ...defaultRatio, bytes: archiveLimit }

export interface UnpackContext {
  readonly destination: Destination
  /** The layers below, for hard links to what they hold. */
  readonly lower: SourceReader | undefined
  /** Makes the directory that is unpacked into; called once it is known that this is an archive. */
  readonly makeRoot: () => DirectoryNode
  readonly spool: Spool
  readonly now: bigint
  readonly control: JobControl
}

/**
 * Unpacks `file` when it is a tar, compressed or not, and gives the content digest of the archive; undefined
 * when it is something else. Told by content: decompression and the first header must succeed, as
 * for docker. Owners, modes and attributes are the archive's; what is in the way is replaced, a
 * directory by a directory excepted. The destination is the archive's root: neither `..` nor a link
 * leads out of it.
 */
export function unpackArchive(file: SourceFile, path: string, context: UnpackContext): Buffer | undefined {
  const hash = createContentDigest(file.size)
  let read = 0
  const source = {
    read(target: Buffer, offset: number, length: number): number {
      const count = file.read(target.subarray(offset, offset + length))
      hash.update(target.subarray(offset, offset + count))
      read += count
      return count
    },
  }
  const stream = decompress(source, limits, context.control)
  try {
    let isArchive = false
    const reader = createTarReader({
      // In small steps at first, so that damage further on is not taken for "no archive at all".
      read: (target, offset, length) =>
        stream.read(target, offset, isArchive ? length : Math.min(length, 512)),
    })
    let entry = firstEntry(reader)
    if (entry === undefined) return undefined
    isArchive = true
    const unpacking = { ...context, root: context.makeRoot() }
    let claimed = 0
    for (; entry !== undefined; entry = reader.next()) {
      context.control.check()
      if (entry.sparse !== undefined) claimed += entry.size
      if (claimed > limits.ratioFrom && claimed > read * limits.ratio) throw sparseBomb()
      unpackEntry(entry, reader, unpacking)
    }
    // Checksums of compressed data stand at its end.
    drain(stream, context.control)
  } finally {
    stream.close()
  }
  drain(source, context.control)
  const after = file.finish()
  if (read !== file.size || after.size !== file.size || after.mtimeNs !== file.mtimeNs) throw changed(path)
  return hash.digest()
}

function sparseBomb(): BuilderError {
  return new BuilderError(
    'ISB_LIMIT_EXCEEDED',
    `sparse files in the archive claim more than ${limits.ratio} times its size, as a decompression bomb does`,
  )
}

function drain(source: ByteSource, control: JobControl): void {
  const rest = Buffer.alloc(1 << 16)
  while (source.read(rest, 0, rest.length) > 0) control.check()
}

function firstEntry(reader: TarReader): ReadEntry | undefined {
  try {
    return reader.next()
  } catch (error) {
    if (isBuilderError(error, 'ISB_ARCHIVE_INVALID')) return undefined
    throw error
  }
}

interface Unpacking extends UnpackContext {
  readonly root: DirectoryNode
}

function unpackEntry(entry: ReadEntry, reader: TarReader, unpacking: Unpacking): void {
  const { destination, root } = unpacking
  const path = rootedPath(entry.path)
  if (path === '') return
  const parentPath = resolveBelow(parentOf(path), unpacking)
  const parent = destination.makeDirectories(joinPath(pathOf(root), parentPath), {
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtimeNs: unpacking.now,
    xattrs: [],
  })
  const name = lastOf(path)
  if (entry.type === 'directory') {
    const existing = destination.child(parent, name)
    const metadata = metadataOf(entry)
    if (existing?.kind !== 'directory') {
      destination.makeDirectory(parent, name, metadata)
      return
    }
    existing.metadata = metadata
    destination.write(existing)
  } else if (entry.type === 'hardlink') {
    const place = joinPath(parentPath, name)
    const inode = linkedInode(entry, place, unpacking)
    inode.metadata = metadataOf(entry)
    destination.put(parent, name, inode)
  } else {
    destination.put(parent, name, inodeOf(entry, entry.type, reader, unpacking.spool))
  }
}

function resolveBelow(path: string, { destination, root }: Unpacking): string {
  const base = pathOf(root)
  return resolvePath(
    path,
    (below) => {
      const node = destination.lookup(joinPath(base, below))
      if (node === undefined) return undefined
      return node.kind === 'directory' ? { type: 'directory', link: '' } : node
    },
    true,
  )
}

const noXattrs: Metadata['xattrs'] = []

function xattrsOf({ xattrs }: ReadEntry): Metadata['xattrs'] {
  return xattrs
    .filter(({ name }) => keepsXattr(name))
    .map(({ name, value }) => [name, value.toString('latin1')] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1))
}

function metadataOf(entry: ReadEntry): Metadata {
  return {
    mode: entry.mode,
    uid: entry.uid,
    gid: entry.gid,
    mtimeNs: entry.mtimeNs,
    xattrs: entry.xattrs.length === 0 ? noXattrs : xattrsOf(entry),
  }
}

function inodeOf(entry: ReadEntry, type: Inode['type'], reader: TarReader, spool: Spool): Inode {
  let content: Inode['content']
  if (type === 'file') {
    const offset = spool.reserve(entry.size)
    reader.payload((bytes, at) => spool.write(bytes, offset + at))
    content = { kind: 'slice', fd: spool.fd, offset, size: entry.size }
  }
  return {
    kind: 'inode',
    type,
    metadata: metadataOf(entry),
    link: entry.linkName,
    rdevMajor: entry.deviceMajor,
    rdevMinor: entry.deviceMinor,
    content,
    size: undefined,
    digest: undefined,
    writtenAt: undefined,
  }
}

/** The other name of a hard link, which may be in the layers below and then is copied up. */
function linkedInode(entry: ReadEntry, place: string, unpacking: Unpacking): Inode {
  const { destination, root } = unpacking
  const target = rootedPath(entry.linkName)
  const parentPath = joinPath(pathOf(root), resolveBelow(parentOf(target), unpacking))
  const parent = destination.lookup(parentPath)
  const name = lastOf(target)
  const node = parent?.kind === 'directory' ? destination.child(parent, name) : undefined
  const isItself = joinPath(parentPath, name) === joinPath(pathOf(root), place)
  if (parent?.kind !== 'directory' || node === undefined || node.kind === 'directory' || isItself) {
    throw new BuilderError(
      'ISB_ARCHIVE_INVALID',
      `"${textOfBytes(entry.path)}" is a hard link to "${textOfBytes(entry.linkName)}", which is no file`,
    )
  }
  if (node.kind === 'inode') return node
  const inode = copiedUp(node, unpacking.lower)
  destination.put(parent, name, inode)
  return inode
}

function copiedUp(node: Extract<DestinationNode, { kind: 'lower' }>, lower: SourceReader | undefined): Inode {
  const entry = lower?.stat(node.path)
  if (lower === undefined || entry === undefined || entry.type === 'directory' || entry.type === 'socket') {
    throw new Error(`/${node.path} vanished from a sealed layer`)
  }
  return {
    kind: 'inode',
    type: entry.type,
    metadata: entry,
    link: entry.link,
    rdevMajor: entry.rdevMajor,
    rdevMinor: entry.rdevMinor,
    content:
      entry.type === 'file'
        ? { kind: 'source', reader: lower, path: node.path, givesTime: false, expected: undefined }
        : undefined,
    size: undefined,
    digest: undefined,
    writtenAt: undefined,
  }
}
