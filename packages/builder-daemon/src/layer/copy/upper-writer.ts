import { closeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { fgetxattr, lsetxattr, pathBelow } from '../../system/extended-attributes.js'
import { fstat } from '../../system/file-stat.js'
import { AT_FDCWD } from '../../system/libc.js'
import { linkat, O_DIRECTORY, O_RDONLY, openat, S_IFBLK, S_IFCHR, S_IFIFO } from '../../system/syscalls.js'
import { hasErrno } from '../../system/system-error.js'
import type { JobControl } from '../job-control.js'
import { OPAQUE_MARKER, WHITEOUT_PREFIX } from '../overlay-form.js'
import { wholeLimit } from '../pipe/content-digest.js'
import { createPipeline, type Pipeline } from '../pipe/pipeline.js'
import { noAttributes, type TarEntry, type TarEntryType } from '../tar/entry.js'
import { openContent, openWritten, prefetchContent, readDigest } from './content-source.js'
import type { Child, Destination, DirectoryNode, Inode, Line, Metadata } from './destination.js'
import { changed } from './direct-reader.js'
import type { Reuse } from './reuse.js'
import { DamagedReuseError } from './reuse-errors.js'
import { StaleSourcesError } from './seen-sources.js'
import { mayShareExtents, shareExtents } from './shared-extents.js'
import { joinPath } from './source-reader.js'
import type { WrittenLayer } from './sources-log.js'
import { createTarFront, type MarkedTar, readKept } from './tar-front.js'
import { keepXattrs, restoreCapability, setXattrs } from './upper-attributes.js'
import { createUpperLog, performUpper } from './upper-log.js'
import { beginUpper, openKeptPath, type Stamp, setOwnerModeAndTime, upperState } from './upper-operations.js'

const filesAhead = 64
const nothingReused: ReadonlyMap<string, Buffer> = new Map()
const longestPath = 4096
const second = 1_000_000_000n

export interface UpperOptions {
  readonly upper: string
  /** Overrides every time stamp. */
  readonly fixedTime: bigint | undefined
  readonly control: JobControl
  /** Where files may be taken from. */
  readonly reuse: Reuse | undefined
  /**
   * Gets every entry of the tar in its order, with the content digest of a file (see `content-digest`); undefined for
   * everything else. The digest is valid during the call.
   */
  readonly onEntry?: ((entry: TarEntry, digest: Buffer | undefined) => void) | undefined
}

export interface WrittenUpper extends MarkedTar, WrittenLayer {}

/**
 * Writes what a plan holds into an empty upper directory, in the order of the canonical layer tar,
 * which is hashed on the way: one read feeds the file, its digest and the tar. Files are made by whichever thread has
 * time; what needs an answer (attributes that may not be kept, a link too many) is done here, after everything before it.
 */
export function writeUpper(destination: Destination, options: UpperOptions): WrittenUpper {
  const upperFd = openat(AT_FDCWD, options.upper, O_RDONLY | O_DIRECTORY)
  try {
    const pipeline = createPipeline(performUpper, options.control)
    beginUpper(pipeline.slots, { fd: upperFd, exact: shapesWhatIsMade(upperFd), kept: options.reuse?.fd })
    try {
      return write(destination, options, { upperFd, pipeline })
    } finally {
      // In this order: no other thread may have the descriptors in hand when they are closed.
      pipeline[Symbol.dispose]()
      upperState(pipeline.slots).closeAll()
    }
  } finally {
    closeSync(upperFd)
  }
}

interface Place {
  readonly name: string
  readonly path: string
}

interface Means {
  readonly upperFd: number
  readonly pipeline: Pipeline
}

function write(
  destination: Destination,
  { fixedTime, control, reuse, onEntry }: UpperOptions,
  { upperFd, pipeline }: Means,
): WrittenUpper {
  const front = createTarFront(pipeline, reuse?.marks ?? [], () => control.check())
  const log = createUpperLog(pipeline)
  const state = upperState(pipeline.slots)
  const upperDev = fstat(upperFd).dev
  let hardLinks = 0

  function stampOf(metadata: Metadata): Stamp {
    const mtimeNs = fixedTime ?? metadata.mtimeNs
    let rest = mtimeNs % second
    if (rest < 0n) rest += second
    return {
      mode: metadata.mode,
      uid: metadata.uid,
      gid: metadata.gid,
      seconds: Number((mtimeNs - rest) / second),
      nanoseconds: Number(rest),
    }
  }

  function entryOf(
    path: string,
    type: TarEntryType,
    metadata: Metadata,
    more: Partial<TarEntry> = {},
  ): TarEntry {
    const { mode, uid, gid, xattrs } = metadata
    return {
      path,
      type,
      mode: more.mode ?? mode,
      uid,
      gid,
      size: more.size ?? 0,
      mtimeNs: fixedTime ?? metadata.mtimeNs,
      linkName: more.linkName ?? '',
      deviceMajor: more.deviceMajor ?? 0,
      deviceMinor: more.deviceMinor ?? 0,
      xattrs:
        more.xattrs ??
        (xattrs.length === 0
          ? noAttributes
          : xattrs.map(([name, value]) => ({ name, value: Buffer.from(value, 'latin1') }))),
    }
  }

  /** A header without content. */
  function plainHeader(...fields: Parameters<typeof entryOf>): void {
    const entry = entryOf(...fields)
    front.put(entry, 'none', () => onEntry?.(entry, undefined))
  }

  function addLines(lines: readonly Line[] | undefined, path: string): void {
    for (const line of lines ?? []) {
      control.check()
      const { inode } = line
      // Replaced by a later source: never written, but part of what was to be copied.
      if (inode?.content !== undefined && inode.writtenAt === undefined) readDigest(inode, path)
      pipeline.log('none', () => {
        const size = inode?.size ?? 0
        const stamp = inode?.writtenAt === undefined ? undefined : { size, ...stampOf(inode.metadata) }
        line.part.add(line.record, size, inode?.digest, stamp)
        if (line.single) line.part.close()
      })
    }
  }

  function writeChildren(directory: DirectoryNode, path: string): void {
    let files: (readonly [string, Child])[] = []

    function writeFiles(): void {
      const now = files
      files = []
      const reused = reusedFiles(now)
      prefetchContent(now.filter(([name]) => !reused.has(name)))
      for (const [name, { node, lines }] of now) {
        control.check()
        const place = { name, path: joinPath(path, name) }
        checkPath(place)
        if (node.kind === 'inode') writeInode(node, place, reused.get(name))
        addLines(lines, place.path)
      }
    }

    destination.take(directory, (name, child) => {
      const { node, lines } = child
      if (node.kind === 'inode') {
        files.push([name, child])
        if (files.length === filesAhead) writeFiles()
      } else if (node.kind === 'directory' && node.written) {
        writeFiles()
        const place = { name, path: joinPath(path, name) }
        checkPath(place)
        writeDirectory(node, place, lines)
      }
    })
    writeFiles()
  }

  /** Content digests of what an earlier layer has of these files. */
  function reusedFiles(children: readonly (readonly [string, Child])[]): ReadonlyMap<string, Buffer> {
    if (reuse === undefined) return nothingReused
    const found = new Map<string, Buffer>()
    for (const [name, { node, lines }] of children) {
      // What was placed over something else stands in several lines, and is rare.
      const line = lines?.[0]
      if (node.kind !== 'inode' || line === undefined || lines?.length !== 1) continue
      if (node.metadata.xattrs.length > 0) continue
      const size = line.record.source?.size ?? 0
      const digest = reuse.find(line.record, { size, ...stampOf(node.metadata) })
      if (digest === undefined) continue
      node.size = size
      found.set(name, digest)
    }
    return found
  }

  function writeDirectory(directory: DirectoryNode, { name, path }: Place, lines: Child['lines']): void {
    control.check()
    let { metadata } = directory
    if (metadata.xattrs.length === 0) log.enter(name, stampOf(metadata), directory.opaque)
    else {
      pipeline.drain()
      state.enter(name, stampOf(metadata), directory.opaque)
      metadata = setXattrs(state.directory, metadata)
    }
    plainHeader(path, 'directory', metadata)
    if (directory.opaque) {
      plainHeader(joinPath(path, OPAQUE_MARKER), 'file', {
        ...{ mode: 0, uid: 0, gid: 0, mtimeNs: metadata.mtimeNs, xattrs: [] },
      })
    }
    addLines(lines, path)
    writeChildren(directory, path)
    log.leave(stampOf(metadata))
  }

  function writeInode(inode: Inode, place: Place, reused: Buffer | undefined): void {
    if (inode.writtenAt !== undefined) {
      pipeline.drain()
      if (tryLink(upperFd, inode.writtenAt, state.directory, place.name)) {
        const { writtenAt } = inode
        hardLinks += 1
        plainHeader(place.path, 'hardlink', inode.metadata, { linkName: writtenAt, xattrs: noAttributes })
        return
      }
    }
    if (reused !== undefined) linkFile(inode, place, reused)
    else if (inode.type === 'file') writeFile(inode, place)
    else writeSpecial(inode, place)
    inode.writtenAt = place.path
  }

  /**
   * The one place where a regular file comes to be. Its bytes go through the pipeline whatever is done about the file itself
   * (they are hashed for the tar and digested there), and the operations given to `log` say what that is.
   */
  function writeFile(inode: Inode, { name, path }: Place): void {
    const copy = inode.writtenAt
    const file = copy === undefined ? openContent(inode, path) : openWritten(upperFd, copy)
    try {
      const { size } = file
      const expected =
        copy === undefined && inode.content?.kind === 'source' ? inode.content.expected : undefined
      if (expected !== undefined && expected.size !== size) throw new StaleSourcesError(path)
      let { metadata } = inode
      const givesTime = copy === undefined && inode.content?.kind === 'source' && inode.content.givesTime
      if (givesTime && metadata.mtimeNs !== file.mtimeNs) {
        const { mode, uid, gid, xattrs } = metadata
        metadata = { mode, uid, gid, xattrs, mtimeNs: file.mtimeNs }
      }
      const hasXattrs = metadata.xattrs.length > 0
      const stamp = stampOf(metadata)
      const mayShare = mayShareExtents(file, upperDev)
      const isOpenHere = hasXattrs || mayShare
      const inPieces = isOpenHere || size > wholeLimit
      if (isOpenHere) {
        pipeline.drain()
        state.openFile(name, stamp, size)
        // What the file system cannot keep must not stand in the tar either.
        if (hasXattrs) metadata = setXattrs(state.file, metadata)
      } else if (inPieces) log.openFile(name, stamp, size)
      else if (size === 0) log.putFile(name, stamp, { offset: 0, length: 0 })

      const shared = mayShare ? shareExtents(file, state.file, upperDev) : undefined
      const content = shared ?? file
      inode.metadata = metadata
      inode.size = size
      const entry = entryOf(path, 'file', metadata, { size })
      front.put(entry, size, (digest) => {
        if (expected !== undefined && digest?.equals(expected.digest) !== true) {
          throw new StaleSourcesError(path)
        }
        inode.digest = digest === undefined ? undefined : Buffer.from(digest)
        onEntry?.(entry, digest)
      })
      const complete = pipeline.content(
        size,
        (target, offset, length) => {
          control.check()
          return content.read(target.subarray(offset, offset + length))
        },
        (offset, length) => {
          if (shared !== undefined) return
          if (inPieces) log.addToFile({ offset, length })
          else log.putFile(name, stamp, { offset, length })
        },
      )
      const after = file.finish()
      if (!complete || content.size !== size || after.size !== size || after.mtimeNs !== file.mtimeNs) {
        throw changed(inode.content?.kind === 'source' ? inode.content.path : path)
      }
      if (size > 0) front.placed(size)
      if (isOpenHere) {
        pipeline.drain()
        state.closeFile(stamp)
        if (hasXattrs) restoreCapability(pathBelow(state.directory, name), metadata)
      } else if (inPieces) log.closeFile(stamp)
    } finally {
      file.close()
    }
  }

  /** The file becomes one of this layer; its bytes are read for the tar, and checked, where the tar has to be hashed. */
  function linkFile(inode: Inode, { name, path }: Place, digest: Buffer): void {
    const { size } = inode
    if (reuse === undefined || size === undefined) throw new Error('nothing to reuse')
    const { fd } = reuse
    const stamp = { size, ...stampOf(inode.metadata) }
    const entry = entryOf(path, 'file', inode.metadata, { size })
    const settle = (found: Buffer | undefined): void => {
      if (found?.equals(digest) !== true) throw new DamagedReuseError(path)
      inode.digest = digest
      onEntry?.(entry, digest)
    }
    const kept = { digest, open: () => openKeptPath(fd, path, stamp) }
    if (front.put(entry, size, settle, kept)) log.putLink(name, stamp)
    else {
      if (size <= wholeLimit) {
        pipeline.broughtContent(size, (offset, length) => log.bringFile(name, stamp, { offset, length }))
      } else {
        log.putLink(name, stamp)
        readKept(pipeline, kept, entry, () => control.check())
      }
      front.placed(size)
    }
  }

  function writeSpecial(inode: Inode, { name, path }: Place): void {
    const { type, link, rdevMajor, rdevMinor } = inode
    const stamp = stampOf(inode.metadata)
    if (type === 'character' && rdevMajor === 0 && rdevMinor === 0) {
      throw new BuilderError('ISB_COPY_FAILED', `cannot copy the device 0:0 at /${textOfBytes(path)}`, {
        hint: 'In a layer this device stands for a removed file.',
      })
    }
    const hasXattrs = inode.metadata.xattrs.length > 0
    if (hasXattrs) pipeline.drain()
    const target = hasXattrs ? state : log
    if (type === 'symlink') target.putSymlink(name, link, stamp)
    else {
      const format = { fifo: S_IFIFO, character: S_IFCHR, block: S_IFBLK, file: 0 }[type]
      target.putNode(name, format, { major: rdevMajor, minor: rdevMinor }, stamp)
    }
    if (hasXattrs) {
      const made = pathBelow(state.directory, name)
      inode.metadata = keepXattrs(inode.metadata, (xattr, value) => lsetxattr(made, xattr, value))
    }
    if (type === 'symlink') plainHeader(path, 'symlink', inode.metadata, { linkName: link, mode: 0o777 })
    else {
      const shown = type === 'file' ? 'fifo' : type
      plainHeader(path, shown, inode.metadata, { deviceMajor: rdevMajor, deviceMinor: rdevMinor })
    }
  }

  const { root } = destination
  const metadata = setXattrs(upperFd, root.metadata)
  // The same rule as for sealing: the root has an entry only where its metadata says something.
  if (metadata.mode !== 0o755 || metadata.uid !== 0 || metadata.gid !== 0 || metadata.xattrs.length > 0) {
    plainHeader('.', 'directory', metadata)
  }
  writeChildren(root, '')
  const summary = front.finish()
  setOwnerModeAndTime(upperFd, stampOf(metadata))
  return { ...summary, hardLinks }
}

/** A group or access control list that what is made below gets without being asked. */
function shapesWhatIsMade(fd: number): boolean {
  return (fstat(fd).mode & 0o2000) !== 0 || fgetxattr(fd, 'system.posix_acl_default') !== undefined
}

/** False when the inode can have no further name (EMLINK): the content is then written once more. */
function tryLink(upperFd: number, from: string, dirfd: number, name: string): boolean {
  try {
    linkat(upperFd, from, dirfd, name)
    return true
  } catch (error) {
    if (hasErrno(error, 'EMLINK')) return false
    throw error
  }
}

function checkPath({ name, path }: Place): void {
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
