import { closeSync, mkdtempSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AT_FDCWD, checked, cString, libc, otherCString } from './libc.js'
import { MNT_DETACH, MS_NODEV, MS_NOSUID, MS_RDONLY, mount, umount2 } from './processes.js'
import { O_DIRECTORY, O_RDONLY, openat } from './syscalls.js'
import { hasErrno } from './system-error.js'

/** Stacked layers to look at and read, never to write. */
export interface MergedLayers {
  /** The root directory, open for reading; everything goes through it. */
  readonly fd: number
  close(): void
}

const call = {
  fsopen: libc('long syscall(long, const void *, long)'),
  fsconfig: libc('long syscall(long, long, long, const void *, const void *, long)'),
  fsmount: libc('long syscall(long, long, long, long)'),
}

const FSOPEN_CLOEXEC = 1
const FSMOUNT_CLOEXEC = 1
const FSCONFIG_SET_FLAG = 0
const FSCONFIG_SET_STRING = 1
const FSCONFIG_CMD_CREATE = 6
const MOUNT_ATTR = 1 | 2 | 4 // read-only, no setuid, no devices

/**
 * The layers as one directory. `lowersTopFirst` are absolute directories. The overlay is mounted
 * nowhere, so no path leads to it and it is gone with its descriptor; only kernels without the mount
 * API (before 5.2) see it for a moment in a private directory. A layer that occurs twice counts
 * where it is on top: what it has and hides further down, it already has and hides there.
 */
export function openMerged(lowersTopFirst: readonly string[]): MergedLayers {
  const lowers = [...new Set(lowersTopFirst)]
  // Overlayfs needs two layers to be read-only, and even a single one may hold deletions to be hidden.
  const empty = lowers.length < 2 ? mkdtempSync(join(tmpdir(), 'isula-build-empty-')) : undefined
  if (empty !== undefined) lowers.push(empty)
  const descriptors: number[] = []
  let fd = -1
  try {
    for (const lower of lowers) descriptors.push(openat(AT_FDCWD, lower, O_RDONLY | O_DIRECTORY))
    // Through descriptors every path is short: an option holds 255 bytes, all of them a page.
    if (lowers.length > 1) fd = mountDetached(descriptors.map((one) => `/proc/self/fd/${one}`))
    else fd = descriptors.pop() ?? -1
  } finally {
    for (const one of descriptors) closeSync(one)
    if (fd < 0 && empty !== undefined) rmdirSync(empty)
  }
  return {
    fd,
    close() {
      if (fd < 0) return
      closeSync(fd)
      fd = -1
      // Not earlier: a removed directory can no longer be listed.
      if (empty !== undefined) rmdirSync(empty)
    },
  }
}

function mountDetached(paths: readonly string[]): number {
  try {
    return mountWithApi((context) => {
      for (const path of paths) configure(context, FSCONFIG_SET_STRING, 'lowerdir+', path)
    })
  } catch (error) {
    if (hasErrno(error, 'ENOSYS')) return mountClassic(paths)
    // Linux before 6.7 has no `lowerdir+`.
    if (!hasErrno(error, 'EINVAL')) throw error
  }
  const list = paths.join(':')
  if (list.length > 255) return mountClassic(paths)
  return mountWithApi((context) => configure(context, FSCONFIG_SET_STRING, 'lowerdir', list))
}

function mountWithApi(setLayers: (context: number) => void): number {
  const context = checked(call.fsopen(430, cString('overlay', 'fsopen'), FSOPEN_CLOEXEC), 'fsopen')
  try {
    configure(context, FSCONFIG_SET_FLAG, 'ro')
    setLayers(context)
    configure(context, FSCONFIG_SET_STRING, 'redirect_dir', 'nofollow')
    configure(context, FSCONFIG_SET_STRING, 'metacopy', 'off')
    configure(context, FSCONFIG_CMD_CREATE)
    const mounted = checked(call.fsmount(432, context, FSMOUNT_CLOEXEC, MOUNT_ATTR), 'fsmount')
    try {
      return openat(mounted, '.', O_RDONLY | O_DIRECTORY)
    } finally {
      closeSync(mounted)
    }
  } finally {
    closeSync(context)
  }
}

function configure(context: number, command: number, key?: string, value?: string): void {
  const name = key === undefined ? null : cString(key, 'fsconfig')
  const text = value === undefined ? null : otherCString(value, 'fsconfig')
  checked(call.fsconfig(431, context, command, name, text, 0), 'fsconfig', value ?? key)
}

function mountClassic(paths: readonly string[]): number {
  const target = mkdtempSync(join(tmpdir(), 'isula-build-view-'))
  try {
    const options = `lowerdir=${paths.join(':')},metacopy=off`
    mount('overlay', target, 'overlay', MS_RDONLY | MS_NOSUID | MS_NODEV, options)
    try {
      return openat(AT_FDCWD, target, O_RDONLY | O_DIRECTORY)
    } finally {
      umount2(target, MNT_DETACH)
    }
  } finally {
    rmdirSync(target)
  }
}
