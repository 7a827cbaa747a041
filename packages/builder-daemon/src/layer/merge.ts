import { closeSync, rmSync } from 'node:fs'
import type { MergeParams } from '../ports/layer-worker.js'
import { fgetxattr, flistxattr, fremovexattr, fsetxattr } from '../system/extended-attributes.js'
import { type FileStat, fstat, isWhiteoutDevice, lstatIfExists, readDirectory } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
import {
  AT_EMPTY_PATH,
  fchmod,
  fchownat,
  futimens,
  linkat,
  mkdirat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  unlinkat,
} from '../system/syscalls.js'

const opaqueAttribute = 'trusted.overlay.opaque'

/**
 * Folds overlay changesets, bottom first, into one that does the same to whatever lies below them.
 * Files of sealed layers are hard-linked: nobody writes to either name again.
 */
export function mergeLayers(params: MergeParams): Record<never, never> {
  const target = openDirectory(AT_FDCWD, params.upper)
  const lowers = params.lowers.map((lower) => openDirectory(AT_FDCWD, lower))
  try {
    for (const diff of params.diffs) {
      const source = openDirectory(AT_FDCWD, diff)
      try {
        mergeDirectory({ source, target, lowers, path: params.upper })
      } finally {
        closeSync(source)
      }
    }
  } finally {
    for (const fd of [target, ...lowers]) closeSync(fd)
  }
  return {}
}

function openDirectory(dirfd: number, name: string): number {
  return openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
}

/** One directory of a changeset, of the result, and of whatever may show through the result. */
interface Directories {
  readonly source: number
  readonly target: number
  readonly lowers: readonly number[]
  /** Of the target. */
  readonly path: string
}

/** Times last: filling a directory changes them. */
function mergeDirectory({ source, target, lowers, path }: Directories): void {
  if (isOpaque(source)) empty(target, path)
  const below = isOpaque(target) ? [] : lowers
  for (const name of readDirectory(source)) {
    const stat = lstatIfExists(source, name)
    if (stat === undefined) throw new Error(`${path}/${name} vanished from a sealed layer`)
    if (stat.type === 'directory') mergeChild({ source, target, lowers: below, path }, name)
    else {
      remove(target, name, `${path}/${name}`)
      // Overlayfs lists a deletion as a name that is not there where it merges nothing.
      if (below.length > 0 || !isWhiteoutDevice(stat)) linkat(source, name, target, name)
    }
  }
  copyMetadata(source, target)
}

function mergeChild({ source, target, lowers, path }: Directories, name: string): void {
  const existing = lstatIfExists(target, name)
  if (existing !== undefined && existing.type !== 'directory') unlinkat(target, name)
  const made = existing === undefined || existing.type !== 'directory'
  if (made) mkdirat(target, name, 0o700)
  const from = openDirectory(source, name)
  const to = openDirectory(target, name)
  const below = lowers.filter((lower) => lstatIfExists(lower, name)?.type === 'directory')
  const belowChildren = below.map((lower) => openDirectory(lower, name))
  try {
    // What it replaces hid everything below; so does the directory in its place.
    if (made && hides(existing)) fsetxattr(to, opaqueAttribute, Buffer.from('y'))
    mergeDirectory({ source: from, target: to, lowers: belowChildren, path: `${path}/${name}` })
  } finally {
    for (const fd of [to, from, ...belowChildren]) closeSync(fd)
  }
}

function hides(existing: FileStat | undefined): boolean {
  return existing !== undefined && (isWhiteoutDevice(existing) || existing.type !== 'directory')
}

function remove(target: number, name: string, path: string): void {
  const existing = lstatIfExists(target, name)
  if (existing?.type === 'directory') rmSync(latin1(path), { recursive: true })
  else if (existing !== undefined) unlinkat(target, name)
}

function empty(directory: number, path: string): void {
  for (const name of readDirectory(directory)) rmSync(latin1(`${path}/${name}`), { recursive: true })
  fsetxattr(directory, opaqueAttribute, Buffer.from('y'))
}

function isOpaque(directory: number): boolean {
  return fgetxattr(directory, opaqueAttribute)?.toString() === 'y'
}

function copyMetadata(source: number, target: number): void {
  const stat = fstat(source)
  fchownat(target, '', stat.uid, stat.gid, AT_EMPTY_PATH)
  fchmod(target, stat.mode)
  const wanted = flistxattr(source).filter((name) => !name.startsWith('trusted.overlay.'))
  for (const name of flistxattr(target)) {
    if (!name.startsWith('trusted.overlay.') && !wanted.includes(name)) fremovexattr(target, name)
  }
  for (const name of wanted) {
    const value = fgetxattr(source, name)
    if (value !== undefined) fsetxattr(target, name, value)
  }
  futimens(target, undefined, stat.mtimeNs)
}

/** Paths are bytes; node:fs takes them as a Buffer. */
function latin1(path: string): Buffer {
  return Buffer.from(path, 'latin1')
}
