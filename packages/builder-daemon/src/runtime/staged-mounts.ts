import { chmodSync, chownSync, closeSync, mkdirSync, rmdirSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bytesOfText, textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { fstat } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
import {
  MNT_DETACH,
  MS_BIND,
  MS_NODEV,
  MS_NOEXEC,
  MS_NOSUID,
  MS_RDONLY,
  MS_REMOUNT,
  mount,
  umount2,
} from '../system/processes.js'
import { openInRoot } from '../system/rooted.js'
import { O_DIRECTORY, O_NOFOLLOW, O_PATH, openat } from '../system/syscalls.js'
import { hasErrno } from '../system/system-error.js'
import type { LaunchMount } from './launcher-protocol.js'
import type { MountKind } from './mount-points.js'
import { mountOverlay } from './overlay-mount.js'
import { copyRootAttributes } from './root-attributes.js'

/** A mount made at a private place with all its flags, ready to be moved onto its target. */
export interface StagedMount {
  readonly place: string
  readonly kind: MountKind
  /** As given, absolute inside the container. */
  readonly target: string
  /** /etc/hosts and /etc/resolv.conf: left out where they cannot be mounted. */
  readonly system: boolean
}

/**
 * Makes the mounts of one RUN below `directory`, which nobody else can reach. Flags are set before
 * anything is visible in the container, and sources are opened once and bound by descriptor, so no
 * link that changes meanwhile can lead elsewhere (CVE-2024-23651, CVE-2024-1753).
 */
export interface MountStage {
  add(mount: LaunchMount): StagedMount
  addSystemFile(path: string, target: string): StagedMount
  /** An empty directory, for overlays that have too few layers. */
  readonly empty: string
  /** Undoes everything that was not moved away, and removes the places. */
  release(): void
}

export function createMountStage(directory: string, dataRoot: string): MountStage {
  mkdirSync(directory, { mode: 0o700 })
  const places: { readonly path: string; readonly kind: MountKind }[] = []
  const helpers: string[] = []
  let privateFiles: string | undefined

  const newPlace = (kind: MountKind): string => {
    const path = join(directory, String(places.length))
    if (kind === 'directory') mkdirSync(path, { mode: 0o755 })
    else writeFileSync(path, '', { mode: 0o600 })
    places.push({ path, kind })
    return path
  }
  const empty = newPlace('directory')

  const bindDescriptor = (fd: number, flags: number): { place: string; kind: MountKind } => {
    const kind = fstat(fd).type === 'directory' ? 'directory' : 'file'
    const place = newPlace(kind)
    mount(`/proc/self/fd/${fd}`, bytesOfText(place), '', MS_BIND)
    mount('', bytesOfText(place), '', MS_REMOUNT | MS_BIND | flags)
    return { place, kind }
  }

  const bind = (source: string, flags: number): { place: string; kind: MountKind } => {
    const fd = openSource(source)
    try {
      return bindDescriptor(fd, flags)
    } finally {
      closeSync(fd)
    }
  }

  const overlay = (wanted: Extract<LaunchMount, { type: 'overlay' }>): { place: string; kind: MountKind } => {
    const base = newPlace('directory')
    const lowers = wanted.lowers.length < 2 ? [empty, ...wanted.lowers] : wanted.lowers
    mountOverlay(base, { lowers, writable: writableLayers(wanted, dataRoot) }, dataRoot, MS_NODEV)
    const flags = MS_NODEV | (wanted.readOnly ? MS_RDONLY : 0)
    if (wanted.subpath === '' && !wanted.readOnly) return { place: base, kind: 'directory' }
    helpers.push(base)
    const root = openat(AT_FDCWD, bytesOfText(base), O_PATH | O_DIRECTORY)
    try {
      const fd = openSubpath(root, wanted.subpath)
      try {
        return bindDescriptor(fd, flags)
      } finally {
        closeSync(fd)
      }
    } finally {
      closeSync(root)
    }
  }

  const privateFile = (
    wanted: Extract<LaunchMount, { type: 'file' }>,
  ): { place: string; kind: MountKind } => {
    if (privateFiles === undefined) {
      const made = newPlace('directory')
      mountPrivate(made)
      helpers.push(made)
      privateFiles = made
    }
    const file = join(privateFiles, String(places.length))
    writeFileSync(file, Buffer.from(wanted.content, 'base64'), { mode: 0o600 })
    chownSync(file, wanted.uid, wanted.gid)
    chmodSync(file, wanted.mode)
    return bind(file, MS_RDONLY | MS_NOSUID | MS_NODEV)
  }

  const tmpfs = (size: number | undefined): { place: string; kind: MountKind } => {
    const place = newPlace('directory')
    const options = size === undefined ? 'mode=1777' : `mode=1777,size=${size}`
    mount('tmpfs', bytesOfText(place), 'tmpfs', MS_NOSUID | MS_NODEV, options)
    return { place, kind: 'directory' }
  }

  const stage = (wanted: LaunchMount): { place: string; kind: MountKind } => {
    switch (wanted.type) {
      case 'bind':
        return bind(wanted.source, MS_NODEV | (wanted.readOnly ? MS_RDONLY : 0))
      case 'overlay':
        return overlay(wanted)
      case 'tmpfs':
        return tmpfs(wanted.size)
      case 'file':
        return privateFile(wanted)
    }
  }

  return {
    empty,
    add: (wanted) => ({ ...stage(wanted), target: wanted.target, system: false }),
    addSystemFile: (path, target) => ({
      ...bind(path, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC),
      target,
      system: true,
    }),
    release() {
      for (const path of [...places.map((place) => place.path), ...helpers]) detach(path)
      for (const { path, kind } of places) {
        if (kind === 'directory') rmdirSync(path)
        else unlinkSync(path)
      }
      rmdirSync(directory)
    },
  }
}

/** Unmounts everything at `path`; nothing when nothing is mounted there. */
export function detach(path: string): void {
  for (;;) {
    try {
      umount2(bytesOfText(path), MNT_DETACH)
    } catch (error) {
      if (hasErrno(error, 'EINVAL', 'ENOENT')) return
      throw error
    }
  }
}

function openSource(source: string): number {
  let fd: number
  try {
    fd = openat(AT_FDCWD, bytesOfText(source), O_PATH | O_NOFOLLOW)
  } catch (error) {
    if (!hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) throw error
    throw new BuilderError('ISB_STEP_FAILED', `the source of a mount is gone: ${source}`, { cause: error })
  }
  if (fstat(fd).type !== 'symlink') return fd
  closeSync(fd)
  throw new BuilderError('ISB_STEP_FAILED', `the source of a mount is a symbolic link: ${source}`)
}

function openSubpath(root: number, subpath: string): number {
  try {
    return openInRoot(root, subpath, O_PATH)
  } catch (error) {
    if (!hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) throw error
    throw new BuilderError('ISB_STEP_FAILED', `no "/${textOfBytes(subpath)}" in the source of a mount`, {
      hint: 'Check `source` of the mount.',
      cause: error,
    })
  }
}

function writableLayers(
  wanted: Extract<LaunchMount, { type: 'overlay' }>,
  dataRoot: string,
): { upper: string; work: string } | undefined {
  if (wanted.readOnly) return undefined
  const upper = join(wanted.scratch, 'mount-upper')
  const work = join(wanted.scratch, 'mount-work')
  mkdirSync(upper)
  mkdirSync(work)
  copyRootAttributes(wanted.lowers, upper, dataRoot)
  return { upper, work }
}

/** A file system in memory, not swapped out where the kernel can promise that, for root alone. */
export function mountPrivate(place: string): void {
  const target = bytesOfText(place)
  const flags = MS_NOSUID | MS_NODEV
  try {
    mount('tmpfs', target, 'tmpfs', flags, 'mode=0700,noswap')
  } catch (error) {
    // Kernels before 6.4 do not know noswap.
    if (!hasErrno(error, 'EINVAL')) throw error
    mount('tmpfs', target, 'tmpfs', flags, 'mode=0700')
  }
}
