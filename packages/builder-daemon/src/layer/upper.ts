import { closeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { type MergedLayers, openMerged } from '../system/detached-overlay.js'
import { fsetxattr, pathBelow } from '../system/extended-attributes.js'
import { type FileStat, isWhiteoutDevice, lstatIfExists, readDirectory } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
import { lastOf, lstatCanonical, openCanonical, parentOf, resolveInRoot } from '../system/rooted.js'
import {
  AT_REMOVEDIR,
  futimens,
  mkdirat,
  mknodat,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_NOFOLLOW,
  O_RDONLY,
  O_WRONLY,
  openat,
  readlinkat,
  S_IFBLK,
  S_IFCHR,
  S_IFIFO,
  symlinkat,
  unlinkat,
  utimensat,
} from '../system/syscalls.js'
import { hasErrno } from '../system/system-error.js'
import { copyEntry } from './copy-up.js'
import { LowersUnknown } from './lowers-unknown.js'
import { type DescribeOptions, describe, describeNode, dropAttributes, type Metadata } from './metadata.js'
import { OPAQUE_ATTRIBUTE, OPAQUE_VALUE } from './overlay-form.js'
import { attributesAt, attributesOf } from './walk.js'

/** A directory in the upper, without links on the way to it. `fd` is valid until the next call on the upper. */
export interface Place {
  readonly fd: number
  /** '' for the root. */
  readonly path: string
  /** New entries inherit its group, so owner and mode have to be set in any case. */
  readonly inherits: boolean
}

/**
 * The upper directory of an overlay while it is filled, from empty, over `lowers` (top first). Links
 * are followed inside the upper only, as containerd and docker do when they unpack a layer.
 */
export interface Upper {
  /**
   * The directory `path` (cleaned, relative) with everything above it. What is missing is made: as the
   * lowers have it, else 0755 root with `mtimeNs` (undefined = now). Gives undefined, with `optional`, when the layer has
   * deleted it or has a file in its place; without, a file fails with ISB_ARCHIVE_INVALID.
   */
  directory(path: string, mtimeNs: bigint | undefined, optional?: boolean): Place | undefined
  /** Removes whatever is at the name; true when a deletion mark was there. */
  clear(place: Place, name: string): boolean
  /** Makes or updates the directory at the name. */
  putDirectory(place: Place, name: string, metadata: Metadata): void
  /** Metadata of the root itself. */
  putRoot(metadata: Metadata): void
  /** A new file open for writing; `finishFile` sets the metadata and closes it. */
  createFile(place: Place, name: string, mode: number): number
  finishFile(fd: number, place: Place, name: string, metadata: Metadata): void
  putSymlink(place: Place, name: string, target: string, metadata: Metadata): void
  putDevice(place: Place, name: string, device: Device, metadata: Metadata): void
  /** Marks the name as deleted in the lowers; what this layer itself has there stays. */
  putWhiteout(place: Place, name: string, mtimeNs: bigint): void
  /** Hides everything the lowers have in the directory; '' is the root. */
  makeOpaque(path: string): void
  /** What the lowers have at a place that this layer does not hide. */
  lower(path: string): FileStat | undefined
  /** The path with links in the lowers followed but the last; undefined without lowers. */
  throughLowers(path: string): string | undefined
  /** Copies a file, link or device up from the lowers. */
  copyUp(path: string): void
  /** Sets the times of directories, which have to come last, and hides what a deleted root hides. */
  finish(): void
  close(): void
  readonly rootFd: number
  /** Over other lowers it could have become something else. */
  readonly usedParents: boolean
}

export interface Device {
  readonly type: 'character' | 'block' | 'fifo'
  readonly major: number
  readonly minor: number
}

const MAX_LINKS = 40
const MAX_PATH = 4096
const tooLong = `a path in the layer has more than ${MAX_PATH} bytes`
const plainDirectory = { mode: 0o755, uid: 0, gid: 0, xattrs: [] }

/**
 * `onRemove` may take a file away itself (and say so by true) before it is unlinked. Without `lowers`, what
 * depends on them fails with LowersUnknown.
 */
export function openUpper(
  directory: string,
  lowers: readonly string[] | undefined,
  onRemove: (dirfd: number, name: string, path: string) => boolean = () => false,
): Upper {
  const rootFd = openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY)
  const opaque = new Set<string>()
  const times = new Map<string, bigint>()
  const copiedUp = new Set<string>()
  let merged: MergedLayers | undefined
  let usedParents = false
  let cachedFor: string | undefined
  let cached: Place | undefined

  function forget(): void {
    if (cached !== undefined && cached.fd !== rootFd) closeSync(cached.fd)
    cached = undefined
    cachedFor = undefined
  }
  function view(): MergedLayers | undefined {
    if (lowers === undefined) throw new LowersUnknown()
    usedParents = true
    if (lowers.length > 0) merged ??= openMerged(lowers)
    return merged
  }
  function lower(path: string): FileStat | undefined {
    for (let at = path; at !== ''; ) {
      at = parentOf(at)
      if (opaque.has(at)) return undefined
      const own = lstatCanonical(rootFd, at)
      if (own !== undefined && own.type !== 'directory') return undefined
    }
    const layers = view()
    return layers === undefined ? undefined : lstatCanonical(layers.fd, path)
  }
  function implied(dirfd: number, path: string, mtimeNs: bigint | undefined, hidden: boolean): void {
    const name = lastOf(path)
    const found = hidden ? undefined : lower(path)
    mkdirat(dirfd, name, 0o755)
    const fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
    try {
      if (found?.type === 'directory') {
        const layers = view()
        const source = openCanonical(layers?.fd ?? -1, path, O_RDONLY)
        try {
          describe(fd, { ...found, xattrs: attributesOf(source) }, { path, fresh: false })
        } finally {
          closeSync(source)
        }
        times.set(path, found.mtimeNs)
      } else {
        describe(fd, plainDirectory, { path, fresh: false })
        if (mtimeNs !== undefined) times.set(path, mtimeNs)
      }
      if (hidden) markOpaque(fd, path)
    } finally {
      closeSync(fd)
    }
  }
  function markOpaque(fd: number, path: string): void {
    fsetxattr(fd, OPAQUE_ATTRIBUTE, OPAQUE_VALUE)
    opaque.add(path)
  }
  function removeTree(dirfd: number, name: string, path: string, stat: FileStat): void {
    if (stat.type !== 'directory') {
      if (!onRemove(dirfd, name, path)) unlinkat(dirfd, name)
      copiedUp.delete(path)
      return
    }
    const fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
    try {
      for (const one of readDirectory(fd)) {
        const inner = lstatIfExists(fd, one)
        if (inner !== undefined) removeTree(fd, one, `${path}/${one}`, inner)
      }
    } finally {
      closeSync(fd)
    }
    unlinkat(dirfd, name, AT_REMOVEDIR)
    times.delete(path)
    opaque.delete(path)
  }

  /** Walks to a directory, making what is missing; the descriptors on the way are closed. */
  function walk(path: string, mtimeNs: bigint | undefined, optional: boolean): Place | undefined {
    const pending = path.split('/').reverse()
    const names: string[] = []
    const opened: number[] = []
    let links = 0
    let stat: FileStat | undefined
    try {
      for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
        if (name === '' || name === '.') continue
        if (name === '..') {
          names.pop()
          const fd = opened.pop()
          if (fd !== undefined) closeSync(fd)
          continue
        }
        const dirfd = opened.at(-1) ?? rootFd
        const here = names.length === 0 ? name : `${names.join('/')}/${name}`
        if (here.length > MAX_PATH) throw new BuilderError('ISB_LIMIT_EXCEEDED', tooLong)
        stat = lstatIfExists(dirfd, name)
        if (stat?.type === 'symlink') {
          links += 1
          if (links > MAX_LINKS) throw invalid(`"${textOfBytes(path)}" leads through too many symbolic links`)
          const target = readlinkat(dirfd, name)
          if (target.startsWith('/')) {
            for (const fd of opened.splice(0)) closeSync(fd)
            names.length = 0
          }
          pending.push(...target.split('/').reverse())
          continue
        }
        const deleted = stat !== undefined && isWhiteoutDevice(stat)
        if (stat === undefined || deleted) {
          if (deleted && optional) return undefined
          if (deleted) unlinkat(dirfd, name)
          implied(dirfd, here, mtimeNs, deleted)
        } else if (stat.type !== 'directory') {
          if (optional) return undefined
          throw invalid(`"${textOfBytes(path)}" leads through "${textOfBytes(here)}", which is no directory`)
        }
        opened.push(openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW))
        names.push(name)
      }
      const fd = opened.pop() ?? rootFd
      const own = lstatIfExists(fd, '.')
      return { fd, path: names.join('/'), inherits: ((own?.mode ?? 0) & 0o2000) !== 0 }
    } finally {
      for (const fd of opened) closeSync(fd)
    }
  }

  const upper: Upper = {
    rootFd,
    get usedParents() {
      return usedParents
    },
    directory(path, mtimeNs, optional = false) {
      if (path === cachedFor) return cached
      forget()
      const place = walk(path, mtimeNs, optional)
      cached = place
      cachedFor = place === undefined ? undefined : path
      return place
    },
    clear(place, name) {
      const stat = lstatIfExists(place.fd, name)
      if (stat === undefined) return false
      removeTree(place.fd, name, joined(place.path, name), stat)
      // What was resolved through the removed entry may lead elsewhere now; the given place stays.
      if (stat.type === 'symlink' || stat.type === 'directory') cachedFor = undefined
      return isWhiteoutDevice(stat)
    },
    putDirectory(place, name, metadata) {
      const path = joined(place.path, name)
      const stat = lstatIfExists(place.fd, name)
      let hidden = false
      if (stat !== undefined && stat.type !== 'directory') hidden = upper.clear(place, name)
      const exists = stat?.type === 'directory'
      if (!exists) mkdirat(place.fd, name, metadata.mode & 0o777)
      const fd = openat(place.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
      try {
        if (exists) dropAttributes(fd)
        describe(fd, metadata, { path, fresh: !exists && !place.inherits })
        if (hidden) markOpaque(fd, path)
      } finally {
        closeSync(fd)
      }
      times.set(path, metadata.mtimeNs)
    },
    putRoot(metadata) {
      dropAttributes(rootFd)
      describe(rootFd, metadata, { path: '', fresh: false })
      times.set('', metadata.mtimeNs)
      forget()
    },
    createFile(place, name, mode) {
      const flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW
      try {
        return openat(place.fd, name, flags, mode & 0o777)
      } catch (error) {
        if (!hasErrno(error, 'EEXIST')) throw error
      }
      upper.clear(place, name)
      return openat(place.fd, name, flags, mode & 0o777)
    },
    finishFile(fd, place, name, metadata) {
      try {
        describe(fd, metadata, { path: joined(place.path, name), fresh: !place.inherits })
        futimens(fd, undefined, metadata.mtimeNs)
      } finally {
        closeSync(fd)
      }
    },
    putSymlink(place, name, target, metadata) {
      upper.clear(place, name)
      symlinkat(target, place.fd, name)
      describeNode(place.fd, name, metadata, node(place, name, true))
    },
    putDevice(place, name, device, metadata) {
      upper.clear(place, name)
      const type = device.type === 'character' ? S_IFCHR : device.type === 'block' ? S_IFBLK : S_IFIFO
      mknodat(place.fd, name, type | 0o600, device.major, device.minor)
      describeNode(place.fd, name, metadata, node(place, name, false))
    },
    putWhiteout(place, name, mtimeNs) {
      const path = joined(place.path, name)
      if (copiedUp.delete(path)) upper.clear(place, name)
      const stat = lstatIfExists(place.fd, name)
      if (stat === undefined) {
        mknodat(place.fd, name, S_IFCHR, 0, 0)
        utimensat(place.fd, name, undefined, mtimeNs)
      } else if (stat.type === 'directory') upper.makeOpaque(path)
    },
    makeOpaque(path) {
      const fd = openCanonical(rootFd, path, O_RDONLY)
      try {
        // Overlayfs does not look at the mark on a root; `finish` does what it would mean.
        if (path === '') opaque.add('')
        else markOpaque(fd, path)
      } finally {
        closeSync(fd)
      }
    },
    lower,
    throughLowers(path) {
      const layers = view()
      if (layers === undefined) return undefined
      try {
        return resolveInRoot(layers.fd, path, { followLast: false }).path
      } catch (error) {
        if (hasErrno(error, 'ENOTDIR', 'ELOOP')) return undefined
        throw error
      }
    },
    copyUp(path) {
      const layers = view()
      const found = lower(path)
      if (layers === undefined || found === undefined) throw new Error('nothing to copy up')
      copiedUp.add(path)
      const place = upper.directory(parentOf(path), found.mtimeNs)
      if (place === undefined) throw new Error('a directory that must be there is not')
      const name = lastOf(path)
      const source = openCanonical(layers.fd, parentOf(path), O_RDONLY)
      try {
        const xattrs = attributesAt(pathBelow(source, name))
        const metadata = { ...found, xattrs }
        copyEntry(source, name, found, {
          createFile: () => upper.createFile(place, name, found.mode),
          finishFile: (fd) => upper.finishFile(fd, place, name, metadata),
          putSymlink: (target) => upper.putSymlink(place, name, target, metadata),
          putDevice: (device) => upper.putDevice(place, name, device, metadata),
        })
      } finally {
        closeSync(source)
      }
    },
    finish() {
      if (opaque.has('')) hideLowerRoot()
      forget()
      for (const [path, mtimeNs] of times) {
        const fd = openCanonical(rootFd, path, O_RDONLY)
        try {
          futimens(fd, undefined, mtimeNs)
        } finally {
          closeSync(fd)
        }
      }
    },
    close() {
      forget()
      merged?.close()
      closeSync(rootFd)
    },
  }

  function hideLowerRoot(): void {
    const layers = view()
    if (layers === undefined) return
    const place: Place = { fd: rootFd, path: '', inherits: false }
    for (const name of readDirectory(layers.fd)) upper.putWhiteout(place, name, 0n)
  }
  return upper
}

function node(place: Place, name: string, isLink: boolean): DescribeOptions & { readonly isLink: boolean } {
  return { path: joined(place.path, name), fresh: !place.inherits, isLink }
}

export function joined(directory: string, name: string): string {
  return directory === '' ? name : `${directory}/${name}`
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', message)
}
