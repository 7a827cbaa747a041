import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** An ext4 file system in a file, mounted. */
export interface LoopImage {
  readonly mountPoint: string
  /**
   * What the disk would hold if the power failed now: only what was flushed. Mounts that in place of the
   * live one, which must not be in use any more.
   */
  cutPower(): void
  /** Keeps a copy of the disk as it is now, for `cutPower`. */
  snapshot(): void
  remove(): void
}

/**
 * Mounted so that nothing reaches the image by itself: a long commit interval, and renames that flush
 * nothing.
 */
export function mountLoopImage(mebibytes: number, inodes?: number): LoopImage {
  const base = mkdtempSync(join(tmpdir(), 'isula-loop-'))
  const [image, copy, mountPoint] = [join(base, 'image'), join(base, 'copy'), join(base, 'mnt')]
  mkdirSync(mountPoint)
  writeFileSync(image, '')
  truncateSync(image, mebibytes * 1024 * 1024)
  const limits = inodes === undefined ? [] : ['-N', String(inodes)]
  execFileSync('mkfs.ext4', ['-q', '-m', '0', ...limits, image])
  const mount = (file: string) =>
    execFileSync('mount', ['-o', 'loop,commit=300,noauto_da_alloc', file, mountPoint])
  const unmount = () => execFileSync('umount', [mountPoint])
  let mounted = true
  try {
    mount(image)
  } catch (error) {
    rmSync(base, { recursive: true })
    throw error
  }
  return {
    mountPoint,
    snapshot: () => copyFileSync(image, copy),
    cutPower() {
      unmount()
      mounted = false
      mount(copy)
      mounted = true
    },
    remove() {
      if (mounted) unmount()
      rmSync(base, { recursive: true })
    },
  }
}

/** A Btrfs file system in a file, mounted; undefined where this machine has none. */
export function mountBtrfs(mebibytes: number): (Disposable & { readonly mountPoint: string }) | undefined {
  const base = mkdtempSync(join(tmpdir(), 'isula-loop-'))
  const [image, mountPoint] = [join(base, 'image'), join(base, 'mnt')]
  mkdirSync(mountPoint)
  writeFileSync(image, '')
  truncateSync(image, mebibytes * 1024 * 1024)
  try {
    execFileSync('mkfs.btrfs', ['-q', image])
    execFileSync('mount', ['-o', 'loop', image, mountPoint], { stdio: 'ignore' })
  } catch {
    rmSync(base, { recursive: true })
    return undefined
  }
  return {
    mountPoint,
    [Symbol.dispose]() {
      execFileSync('umount', [mountPoint])
      rmSync(base, { recursive: true })
    },
  }
}

/** Whether this machine lets a test mount a loop image. */
export function canMountLoop(): boolean {
  try {
    mountLoopImage(8).remove()
    return true
  } catch {
    return false
  }
}
