import { closeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { fgetxattr, flistxattr, lgetxattr, llistxattr, pathBelow } from '../system/extended-attributes.js'
import { type FileStat, fstat, fstatat, readDirectory } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
import {
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  openat,
  readlinkat,
  utimensat,
} from '../system/syscalls.js'
import type { JobControl } from './job-control.js'
import { exportedAttributes, isOpaque, isWhiteout, OPAQUE_MARKER, WHITEOUT_PREFIX } from './overlay-form.js'
import { type ExtendedAttribute, noAttributes, type TarEntry } from './tar/entry.js'

/** Receives the entries of an upper in canonical order. */
export interface LayerVisitor {
  /** `fd` is open for reading at the start of a file with content, else undefined. */
  entry(entry: TarEntry, fd: number | undefined): void
}

const MAX_PATH = 4096
const SECOND = 1_000_000_000n

export interface WalkOptions {
  /** Seconds: every mtime becomes that, on disk too. */
  readonly fixedTime: number | undefined
  /** No two names in the upper are one file, so that none has to be remembered for another. */
  readonly hasSingleNames?: boolean
  readonly control: JobControl
}

/**
 * Walks the upper directory of an overlay as the changeset it is: names sorted by bytes, a directory
 * before what is in it, deletions as `.wh.` entries, the later names of a file as hard links to the
 * first. Sockets are left out, as by every builder.
 *
 * The root directory itself has no entry (docker, BuildKit and containerd write none) unless it has
 * another mode than 0755, another owner than root or extended attributes: those would be lost.
 */
export function walkUpper(
  upper: string,
  { fixedTime, hasSingleNames = false, control }: WalkOptions,
  visitor: LayerVisitor,
): void {
  const seen = new Map<bigint, Map<bigint, string>>()
  const fixedNs = fixedTime === undefined ? undefined : BigInt(fixedTime) * SECOND
  const rootFd = openat(AT_FDCWD, upper, O_RDONLY | O_DIRECTORY)
  try {
    const stat = fstat(rootFd)
    const xattrs = attributesOf(rootFd)
    const exported = exportedAttributes(xattrs)
    if (stat.mode !== 0o755 || stat.uid !== 0 || stat.gid !== 0 || exported.length > 0) {
      visitor.entry(toEntry('.', stat, fixedNs ?? stat.mtimeNs, exported), undefined)
    }
    if (isOpaque(xattrs)) visitor.entry(marker(OPAQUE_MARKER, fixedNs ?? stat.mtimeNs), undefined)
    children(rootFd, '')
    if (fixedNs !== undefined) utimensat(rootFd, '.', undefined, fixedNs)
  } finally {
    closeSync(rootFd)
  }

  function children(dirfd: number, prefix: string): void {
    // latin1 strings compare as their bytes do.
    for (const name of readDirectory(dirfd).sort(byBytes)) {
      control.check()
      const path = prefix + name
      if (path.length > MAX_PATH) {
        throw new BuilderError('ISB_LIMIT_EXCEEDED', `a path in the layer has more than ${MAX_PATH} bytes`)
      }
      child(dirfd, prefix, name, path)
    }
  }
  function child(dirfd: number, prefix: string, name: string, path: string): void {
    const stat = fstatat(dirfd, name)
    if (stat.type === 'socket') return
    const mtimeNs = fixedNs ?? stat.mtimeNs
    const place = pathBelow(dirfd, name)
    if (isWhiteout(stat, () => llistxattr(place))) {
      visitor.entry(marker(`${prefix}${WHITEOUT_PREFIX}${name}`, mtimeNs), undefined)
      if (fixedNs !== undefined) utimensat(dirfd, name, undefined, fixedNs)
      return
    }
    if (name.startsWith(WHITEOUT_PREFIX)) throw reserved(path)
    if (stat.type === 'directory') {
      const fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
      try {
        const xattrs = attributesOf(fd)
        visitor.entry(toEntry(path, stat, mtimeNs, exportedAttributes(xattrs)), undefined)
        if (isOpaque(xattrs)) visitor.entry(marker(`${path}/${OPAQUE_MARKER}`, mtimeNs), undefined)
        children(fd, `${path}/`)
      } finally {
        closeSync(fd)
      }
    } else {
      const first = stat.nlink > 1 && !hasSingleNames ? remember(stat, path) : undefined
      if (first !== undefined) {
        const entry = toEntry(path, stat, mtimeNs, noAttributes)
        visitor.entry({ ...entry, type: 'hardlink', size: 0, linkName: first }, undefined)
        return
      }
      if (stat.type === 'file') file(dirfd, name, path, stat, mtimeNs)
      else {
        const entry = toEntry(path, stat, mtimeNs, exportedAttributes(attributesAt(place)))
        const linkName = stat.type === 'symlink' ? readlinkat(dirfd, name) : ''
        visitor.entry(linkName === '' ? entry : { ...entry, linkName }, undefined)
      }
    }
    if (fixedNs !== undefined) utimensat(dirfd, name, undefined, fixedNs)
  }
  function file(dirfd: number, name: string, path: string, stat: FileStat, mtimeNs: bigint): void {
    const fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    try {
      visitor.entry(toEntry(path, stat, mtimeNs, exportedAttributes(attributesOf(fd))), fd)
    } finally {
      closeSync(fd)
    }
  }
  /** The first name of this inode in the walk, or undefined when this is it. */
  function remember(stat: FileStat, path: string): string | undefined {
    const inodes = seen.get(stat.dev)
    const first = inodes?.get(stat.ino)
    if (inodes === undefined) seen.set(stat.dev, new Map([[stat.ino, path]]))
    else if (first === undefined) inodes.set(stat.ino, path)
    return first
  }
}

function byBytes(a: string, b: string): number {
  return a < b ? -1 : 1
}

/** All attributes of an open file, sorted by name. */
export function attributesOf(fd: number): readonly ExtendedAttribute[] {
  const names = flistxattr(fd)
  return names.length === 0 ? noAttributes : collect(names, (name) => fgetxattr(fd, name))
}

/** All attributes of the entry at a safe path, without following it. */
export function attributesAt(path: string): readonly ExtendedAttribute[] {
  const names = llistxattr(path)
  return names.length === 0 ? noAttributes : collect(names, (name) => lgetxattr(path, name))
}

function collect(names: readonly string[], get: (name: string) => Buffer | undefined): ExtendedAttribute[] {
  const found: ExtendedAttribute[] = []
  for (const name of [...names].sort(byBytes)) {
    const value = get(name)
    if (value !== undefined) found.push({ name, value })
  }
  return found
}

/** The tar entry of a file system entry; hard links and link targets are the caller's. */
export function toEntry(
  path: string,
  stat: FileStat,
  mtimeNs: bigint,
  xattrs: readonly ExtendedAttribute[],
): TarEntry {
  if (stat.type === 'socket') throw new Error('a socket has no tar entry')
  const device = stat.type === 'character' || stat.type === 'block'
  return {
    path,
    type: stat.type,
    mode: stat.mode,
    uid: stat.uid,
    gid: stat.gid,
    size: stat.type === 'file' ? stat.size : 0,
    mtimeNs,
    linkName: '',
    deviceMajor: device ? stat.rdevMajor : 0,
    deviceMinor: device ? stat.rdevMinor : 0,
    xattrs,
  }
}

/** A whiteout or opaque marker: an empty file without owner or mode that would mean anything. */
function marker(path: string, mtimeNs: bigint): TarEntry {
  return {
    path,
    type: 'file',
    mode: 0,
    uid: 0,
    gid: 0,
    size: 0,
    mtimeNs,
    linkName: '',
    deviceMajor: 0,
    deviceMinor: 0,
    xattrs: noAttributes,
  }
}

function reserved(path: string): BuilderError {
  return new BuilderError(
    'ISB_UNSUPPORTED',
    `"/${textOfBytes(path)}" cannot be stored: in a layer, names that begin with ".wh." mean deleted files`,
    { hint: 'Remove or rename the file before the step ends.' },
  )
}
