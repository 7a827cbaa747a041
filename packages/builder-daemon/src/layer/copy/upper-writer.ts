import { closeSync, fchownSync, fstatSync, readSync, writeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { fsetxattr, lsetxattr, pathBelow } from '../../system/extended-attributes.js'
import { AT_FDCWD } from '../../system/libc.js'
import {
  fchmod,
  fchmodat,
  fchownat,
  futimens,
  linkat,
  mkdirat,
  mknodat,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_NOFOLLOW,
  O_RDONLY,
  O_RDWR,
  openat,
  S_IFBLK,
  S_IFCHR,
  S_IFIFO,
  symlinkat,
  utimensat,
} from '../../system/syscalls.js'
import { hasErrno } from '../../system/system-error.js'
import type { JobControl } from '../job-control.js'
import { OPAQUE_ATTRIBUTE, OPAQUE_MARKER, OPAQUE_VALUE, WHITEOUT_PREFIX } from '../overlay-form.js'
import { createContentIdentity } from '../tar/content-id.js'
import type { TarEntry, TarEntryType } from '../tar/entry.js'
import { createTarWriter, type TarSummary } from '../tar/writer.js'
import type { Content, DestinationNode, DirectoryNode, Inode, Metadata } from './destination.js'
import { joinPath, type SourceFile, type SourceReader } from './source-reader.js'
import { transfer } from './transfer.js'

const filesAhead = 64
const longestPath = 4096

export interface UpperOptions {
  readonly upper: string
  /** Overrides every time stamp. */
  readonly fixedTime: bigint | undefined
  readonly control: JobControl
}

/**
 * Writes what a plan holds into an empty upper directory, in the order of the canonical layer tar,
 * which is hashed on the way: one read feeds the file, its digest and the tar.
 */
export function writeUpper(
  root: DirectoryNode,
  options: UpperOptions,
): TarSummary & { readonly contentId: string } {
  const tar = createTarWriter()
  const identity = createContentIdentity()
  const upperFd = openat(AT_FDCWD, options.upper, O_RDONLY | O_DIRECTORY)

  function mtimeOf(metadata: Metadata): bigint {
    return options.fixedTime ?? metadata.mtimeNs
  }

  function header(path: string, type: TarEntryType, metadata: Metadata, more: Partial<TarEntry> = {}) {
    const entry: TarEntry = {
      path,
      type,
      mode: metadata.mode,
      uid: metadata.uid,
      gid: metadata.gid,
      size: 0,
      mtimeNs: mtimeOf(metadata),
      linkName: '',
      deviceMajor: 0,
      deviceMinor: 0,
      xattrs: metadata.xattrs.map(([name, value]) => ({ name, value: Buffer.from(value, 'latin1') })),
      ...more,
    }
    tar.entry(entry)
    identity.entry(entry)
  }

  function writeChildren(directory: DirectoryNode, dirfd: number, path: string): void {
    const children = [...directory.children].filter(isWritten).sort(([a], [b]) => (a < b ? -1 : 1))
    for (const [index, [name, node]] of children.entries()) {
      options.control.check()
      checkPath(name, joinPath(path, name))
      if (index % filesAhead === 0) prefetch(children.slice(index, index + filesAhead))
      if (node.kind === 'directory') writeDirectory(node, dirfd, joinPath(path, name))
      else if (node.kind === 'inode') writeInode(node, { dirfd, name, path: joinPath(path, name) })
    }
  }

  function writeDirectory(directory: DirectoryNode, parent: number, path: string): void {
    mkdirat(parent, directory.name, 0o700)
    const dirfd = openat(parent, directory.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
    try {
      const metadata = setXattrs(dirfd, directory.metadata)
      header(path, 'directory', metadata)
      if (directory.opaque) {
        fsetxattr(dirfd, OPAQUE_ATTRIBUTE, OPAQUE_VALUE)
        header(joinPath(path, OPAQUE_MARKER), 'file', {
          mode: 0,
          uid: 0,
          gid: 0,
          mtimeNs: metadata.mtimeNs,
          xattrs: [],
        })
      }
      writeChildren(directory, dirfd, path)
      // Only now: a setgid directory would hand its group down.
      setOwnerAndMode(dirfd, metadata)
      futimens(dirfd, undefined, mtimeOf(metadata))
    } finally {
      closeSync(dirfd)
    }
  }

  function writeInode(inode: Inode, place: Place): void {
    if (inode.writtenAt !== undefined && tryLink(upperFd, inode.writtenAt, place)) {
      header(place.path, 'hardlink', inode.metadata, { linkName: inode.writtenAt, xattrs: [] })
      return
    }
    if (inode.type === 'file') writeFile(inode, place)
    else writeSpecial(inode, place)
    inode.writtenAt = place.path
  }

  function writeFile(inode: Inode, place: Place): void {
    const copy = inode.writtenAt
    const file = copy === undefined ? openContent(inode, place.path) : openWritten(upperFd, copy)
    try {
      const fd = openat(place.dirfd, place.name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
      try {
        // What the file system cannot keep must not stand in the tar either.
        const kept = setXattrs(fd, inode.metadata)
        const isSource = inode.content?.kind === 'source' && inode.content.givesTime
        const metadata = isSource && copy === undefined ? { ...kept, mtimeNs: file.mtimeNs } : kept
        inode.metadata = metadata
        inode.size = file.size
        header(place.path, 'file', metadata, { size: file.size })
        const named = inode.content?.kind === 'source' ? inode.content.path : place.path
        inode.digest = transfer(file, named, (bytes) => {
          tar.payload(bytes)
          writeAll(fd, bytes)
          options.control.check()
        })
        if (file.size > 0) identity.content(inode.digest)
        setOwnerAndMode(fd, metadata)
        futimens(fd, undefined, mtimeOf(metadata))
      } finally {
        closeSync(fd)
      }
    } finally {
      file.close()
    }
  }

  function writeSpecial(inode: Inode, { dirfd, name, path }: Place): void {
    const { metadata } = inode
    if (inode.type === 'symlink') {
      symlinkat(inode.link, dirfd, name)
      header(path, 'symlink', finish(inode), { linkName: inode.link, mode: 0o777 })
      return
    }
    if (inode.type === 'character' && inode.rdevMajor === 0 && inode.rdevMinor === 0) {
      throw new BuilderError('ISB_COPY_FAILED', `cannot copy the device 0:0 at /${textOfBytes(path)}`, {
        hint: 'In a layer this device stands for a removed file.',
      })
    }
    const format = { fifo: S_IFIFO, character: S_IFCHR, block: S_IFBLK, file: 0 }[inode.type]
    mknodat(dirfd, name, format | 0o600, inode.rdevMajor, inode.rdevMinor)
    const type = inode.type === 'file' ? 'fifo' : inode.type
    header(path, type, finish(inode), { deviceMajor: inode.rdevMajor, deviceMinor: inode.rdevMinor })

    function finish(written: Inode): Metadata {
      if (metadata.uid !== 0 || metadata.gid !== 0) fchownat(dirfd, name, metadata.uid, metadata.gid)
      if (written.type !== 'symlink') fchmodat(dirfd, name, metadata.mode)
      const place = pathBelow(dirfd, name)
      const kept = keepXattrs(metadata, (xattr, value) => lsetxattr(place, xattr, value))
      utimensat(dirfd, name, undefined, mtimeOf(metadata))
      written.metadata = kept
      return kept
    }
  }

  try {
    const metadata = setXattrs(upperFd, root.metadata)
    // The same rule as for sealing: the root has an entry only where its metadata says something.
    if (metadata.mode !== 0o755 || metadata.uid !== 0 || metadata.gid !== 0 || metadata.xattrs.length > 0) {
      header('.', 'directory', metadata)
    }
    writeChildren(root, upperFd, '')
    setOwnerAndMode(upperFd, metadata)
    futimens(upperFd, undefined, mtimeOf(metadata))
    return { ...tar.finish(), contentId: identity.finish() }
  } finally {
    closeSync(upperFd)
  }
}

interface Place {
  readonly dirfd: number
  readonly name: string
  readonly path: string
}

function isWritten([, node]: readonly [string, DestinationNode]): boolean {
  return node.kind === 'inode' || (node.kind === 'directory' && node.written)
}

function prefetch(children: readonly (readonly [string, DestinationNode])[]): void {
  const wanted = new Map<SourceReader, string[]>()
  for (const [, node] of children) {
    if (node.kind !== 'inode' || node.writtenAt !== undefined) continue
    if (node.content?.kind !== 'source') continue
    const paths = wanted.get(node.content.reader)
    if (paths === undefined) wanted.set(node.content.reader, [node.content.path])
    else paths.push(node.content.path)
  }
  for (const [reader, paths] of wanted) reader.prefetch(paths)
}

/** False when the inode can have no further name (EMLINK): the content is then written once more. */
function tryLink(upperFd: number, from: string, place: Place): boolean {
  try {
    linkat(upperFd, from, place.dirfd, place.name)
    return true
  } catch (error) {
    if (hasErrno(error, 'EMLINK')) return false
    throw error
  }
}

function setXattrs(fd: number, metadata: Metadata): Metadata {
  return keepXattrs(metadata, (name, value) => fsetxattr(fd, name, value))
}

function setOwnerAndMode(fd: number, metadata: Metadata): void {
  const { uid, gid } = metadata
  if (uid !== 0 || gid !== 0) fchownSync(fd, uid, gid)
  fchmod(fd, metadata.mode)
  // Writing to a file and changing its owner take its capabilities away.
  const capability = metadata.xattrs.find(([name]) => name === 'security.capability')
  if (capability !== undefined) fsetxattr(fd, capability[0], Buffer.from(capability[1], 'latin1'))
}

/** What the file system refuses to keep is left out, as BuildKit does. */
function keepXattrs(metadata: Metadata, set: (name: string, value: Buffer) => void): Metadata {
  if (metadata.xattrs.length === 0) return metadata
  const kept = metadata.xattrs.filter(([name, value]) => {
    try {
      set(name, Buffer.from(value, 'latin1'))
      return true
    } catch (error) {
      if (hasErrno(error, 'ENOTSUP', 'EPERM')) return false
      throw error
    }
  })
  return { ...metadata, xattrs: kept }
}

function checkPath(name: string, path: string): void {
  if (name.startsWith(WHITEOUT_PREFIX)) {
    throw new BuilderError(
      'ISB_UNSUPPORTED',
      `"/${textOfBytes(path)}" cannot be stored: in a layer, names that begin with ".wh." mean deleted files`,
    )
  }
  if (path.length > longestPath) {
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `a path in the layer has more than ${longestPath} bytes`)
  }
}

export function openContent(inode: Inode, path: string): SourceFile {
  const { content } = inode
  if (content === undefined) throw new Error(`/${path} has no content`)
  return content.kind === 'source' ? content.reader.open(content.path) : openStored(content, inode.metadata)
}

function openStored(content: Exclude<Content, { kind: 'source' }>, { mtimeNs }: Metadata): SourceFile {
  const size = content.kind === 'bytes' ? content.bytes.length : content.size
  let at = 0
  return {
    size,
    mtimeNs,
    read(buffer) {
      const wanted = Math.min(buffer.length, size - at)
      if (content.kind === 'bytes') {
        buffer.set(content.bytes.subarray(at, at + wanted))
        at += wanted
        return wanted
      }
      const count = wanted === 0 ? 0 : readSync(content.fd, buffer, 0, wanted, content.offset + at)
      at += count
      return count
    },
    finish: () => ({ size, mtimeNs }),
    confirms: () => false,
    close: () => undefined,
  }
}

function openWritten(upperFd: number, path: string): SourceFile {
  const fd = openat(upperFd, path, O_RDONLY | O_NOFOLLOW)
  const content = { kind: 'slice', fd, offset: 0, size: fstatSync(fd).size } as const
  const file = openStored(content, { mode: 0, uid: 0, gid: 0, mtimeNs: 0n, xattrs: [] })
  return { ...file, close: () => closeSync(fd) }
}

function writeAll(fd: number, bytes: Buffer): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at)
}
