import { fstatSync, readSync } from 'node:fs'
import { cloneFile } from '../../system/syscalls.js'
import type { SourceFile } from './source-reader.js'

// Big files whose content is not written but shared with the source, where the file system can (btrfs, XFS).

/** Smaller files are written at once with everything around them, bytes. */
const worthwhile = 8 << 20
/** Pairs of file systems that were seen not to share. */
const unable = new Set<string>()

function pairOf(source: SourceFile, targetDev: bigint): string {
  return `${source.local?.dev} ${targetDev}`
}

export function mayShareExtents(source: SourceFile, targetDev: bigint): boolean {
  return source.local !== undefined && source.size >= worthwhile && !unable.has(pairOf(source, targetDev))
}

/**
 * Makes the empty file `fd` hold what the source holds, and gives the content to be read: that of the new file, which
 * nobody else writes, so that what is hashed is what is stored. undefined when that cannot be had.
 */
export function shareExtents(source: SourceFile, fd: number, targetDev: bigint): SharedContent | undefined {
  if (source.local === undefined) return undefined
  const outcome = cloneFile(source.local.fd, fd)
  if (outcome === 'never') unable.add(pairOf(source, targetDev))
  if (outcome !== 'cloned') return undefined
  let at = 0
  return {
    size: fstatSync(fd).size,
    read(buffer) {
      const count = readSync(fd, buffer, 0, buffer.length, at)
      at += count
      return count
    },
  }
}

export type SharedContent = Pick<SourceFile, 'size' | 'read'>
