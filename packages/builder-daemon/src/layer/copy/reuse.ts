import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { fstat } from '../../system/file-stat.js'
import { AT_FDCWD } from '../../system/libc.js'
import { lastOf, openCanonical, parentOf } from '../../system/rooted.js'
import { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, openat } from '../../system/syscalls.js'
import { hasErrno } from '../../system/system-error.js'
import type { ContentRecord } from './content-log.js'
import type { Metadata } from './destination.js'
import { comparePaths } from './row-file.js'
import { openSourcesLog, rowPath, sourcesLogName } from './sources-log.js'
import type { StatRow } from './stat-table.js'

/**
 * An earlier result of the same instruction, whose files become those of the new layer, too, by hard links. Only a
 * sealed layer is taken, only what lies at the same path with the same metadata and content, and only where neither
 * layer has further names for it: two names of one inode within a layer are a hard link of that layer, and an inode
 * with names in two layers says nothing in either.
 */
export interface Reuse extends Disposable {
  /** Its `diff`. */
  readonly fd: number
  /** The file to take for a record, asked for in the order of the sources; `metadata` as it will be written. */
  find(record: ContentRecord, path: string, metadata: Metadata): ReusedFile | undefined
}

export interface ReusedFile {
  /** Open for reading, the receiver's to close. */
  readonly fd: number
  readonly size: number
  /** What it must hold. */
  readonly digest: Buffer
}

/** The earlier layer does not hold what it should: it is damaged. */
export class DamagedReuseError extends Error {
  override readonly name = 'DamagedReuseError'
}

function openFile(dirfd: number, name: string): number | undefined {
  try {
    return openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ELOOP', 'ENXIO')) return undefined
    throw error
  }
}

/** undefined where nothing is known of the layer in `directory`. */
export function openReuse(
  directory: string,
  recall: (record: ContentRecord) => StatRow | undefined,
): Reuse | undefined {
  const log = openSourcesLog(join(directory, sourcesLogName))
  if (log === undefined) return undefined
  const rows = log
  const fd = openat(AT_FDCWD, join(directory, 'diff'), O_PATH | O_DIRECTORY)
  let parentPath: string | undefined
  let parentFd: number | undefined

  /** undefined when the layer has no such directory. */
  function parent(path: string): number | undefined {
    if (path === parentPath) return parentFd
    forget()
    parentPath = path
    try {
      parentFd = openCanonical(fd, path)
    } catch (error) {
      if (!hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) throw error
    }
    return parentFd
  }
  function forget(): void {
    if (parentFd !== undefined) closeSync(parentFd)
    parentFd = undefined
    parentPath = undefined
  }

  /** Content digest of a file by its record; undefined when it was none, or had other attributes or names. */
  function held(record: ContentRecord): Buffer | undefined {
    const wanted = rowPath(record.path)
    for (;;) {
      const order = rows.next === undefined ? 1 : comparePaths(rows.next, wanted)
      if (order > 0) return undefined
      const prefix = order === 0 ? rows.plainContent() : undefined
      rows.advance()
      if (order === 0) return prefix
    }
  }

  function find(record: ContentRecord, path: string, metadata: Metadata): ReusedFile | undefined {
    const { source } = record
    if (source?.type !== 'file' || source.inode !== undefined || source.size === 0) return undefined
    const known = recall(record)
    const prefix = held(record)
    if (known?.digest === undefined || prefix === undefined || metadata.xattrs.length > 0) return undefined
    if (!known.digest.subarray(0, prefix.length).equals(prefix)) return undefined
    const dirfd = parent(parentOf(path))
    if (dirfd === undefined) return undefined
    const opened = openFile(dirfd, lastOf(path))
    if (opened === undefined) return undefined
    const stat = fstat(opened)
    const isSame =
      stat.type === 'file' &&
      stat.size === source.size &&
      stat.mode === metadata.mode &&
      stat.uid === metadata.uid &&
      stat.gid === metadata.gid &&
      stat.mtimeNs === metadata.mtimeNs
    if (isSame) return { fd: opened, size: stat.size, digest: known.digest }
    closeSync(opened)
    return undefined
  }

  return {
    fd,
    find,
    [Symbol.dispose]() {
      forget()
      closeSync(fd)
      rows[Symbol.dispose]()
    },
  }
}
