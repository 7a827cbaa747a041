import { closeSync, fstatSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { programMode, sealedCopy } from '../system/sealed-copy.js'

/** Programs to start in place of others. */
export interface SealedPrograms {
  /** Where the same program can be started from; the path itself when there is nothing to gain. */
  pathOf(path: string): string
}

interface Copy {
  readonly stamp: string
  readonly fd: number | undefined
}

/**
 * runc lets no container reach the file it runs from (CVE-2019-5736): for each it copies itself into memory, unless it
 * has been started from a sealed copy, as here. A runc that is replaced on the disk is copied anew; one that cannot be
 * copied, which `failed` hears of, runs from where it is. Seals stop who writes, but not a container whose first program
 * was /proc/self/exe and which takes the copy's mode away: then there is a new copy.
 */
export function createSealedPrograms(failed: (path: string, error: unknown) => void): SealedPrograms {
  const copies = new Map<string, Copy>()

  const copyOf = (path: string): Copy | undefined => {
    const stat = statSync(path, { bigint: true, throwIfNoEntry: false })
    if (stat === undefined) return undefined
    const stamp = `${stat.dev} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}`
    const known = copies.get(path)
    if (known?.stamp === stamp && isExecutable(known)) return known
    const made = { stamp, fd: tryCopy(path) }
    copies.set(path, made)
    // What runs from it keeps it; who is only about to is started from the disk.
    if (known?.fd !== undefined) closeSync(known.fd)
    return made
  }

  const tryCopy = (path: string): number | undefined => {
    try {
      return sealedCopy(path, basename(path))
    } catch (error) {
      failed(path, error)
      return undefined
    }
  }

  return {
    pathOf(path) {
      if (basename(path) !== 'runc') return path
      const fd = copyOf(path)?.fd
      // Not /proc/self: whoever is started has no such descriptor.
      return fd === undefined ? path : `/proc/${process.pid}/fd/${fd}`
    },
  }
}

function isExecutable({ fd }: Copy): boolean {
  if (fd === undefined) return true
  const { mode, uid, gid } = fstatSync(fd)
  return (mode & 0o7777) === programMode && uid === 0 && gid === 0
}
