import { closeSync } from 'node:fs'
import { join } from 'node:path'
import type { FileStamp } from '../../system/file-stat.js'
import { AT_FDCWD } from '../../system/libc.js'
import { O_DIRECTORY, O_PATH, openat } from '../../system/syscalls.js'
import { sharesTarSums } from '../pipe/tar-sum.js'
import type { ContentRecord } from './content-log.js'
import { comparePaths } from './row-file.js'
import { openSourcesLog, rowPath, sourcesLogName } from './sources-log.js'
import { readTarMarks, type TarMark } from './tar-marks.js'

/**
 * An earlier result of the same instruction, whose files become those of the new layer, too, by hard links. Only a
 * sealed layer is taken, only what lies at the same path with the same metadata and content, and only where neither
 * layer has further names for it: two names of one inode within a layer are a hard link of that layer, and an inode
 * with names in two layers says nothing in either. What is found here goes by the log beside the layer; whoever takes
 * a file sees to it that it is as the log says: by what it holds where that is read, else by what stat tells of it, as a
 * layer from the cache is believed to be what it was.
 */
export interface Reuse extends Disposable {
  /** Its `diff`. */
  readonly fd: number
  /** Of its tar, where they can be used. */
  readonly marks: readonly TarMark[]
  /**
   * Content digest of the file to take for a record, asked for in the order of the sources; `stamp` as it will be
   * written, without attributes.
   */
  find(record: ContentRecord, stamp: FileStamp): Buffer | undefined
}

/** undefined where nothing is known of the layer in `directory`. */
export function openReuse(
  directory: string,
  recall: (record: ContentRecord) => Buffer | undefined,
): Reuse | undefined {
  const log = openSourcesLog(join(directory, sourcesLogName))
  if (log === undefined) return undefined
  const rows = log
  const fd = openDiff()

  function openDiff(): number {
    try {
      return openat(AT_FDCWD, join(directory, 'diff'), O_PATH | O_DIRECTORY)
    } catch (error) {
      rows[Symbol.dispose]()
      throw error
    }
  }

  /** First bytes of the content digest of a file by its record, where it could be taken. */
  function held(record: ContentRecord, stamp: FileStamp): Buffer | undefined {
    const wanted = rowPath(record.path)
    for (;;) {
      const order = rows.next === undefined ? 1 : comparePaths(rows.next, wanted)
      if (order > 0) return undefined
      const prefix = order === 0 ? rows.plainContent(stamp) : undefined
      rows.advance()
      if (order === 0) return prefix
    }
  }

  return {
    fd,
    marks: sharesTarSums() ? readTarMarks(directory) : [],
    find(record, stamp) {
      const { source } = record
      if (source?.type !== 'file' || source.inode !== undefined || source.size === 0) return undefined
      const known = recall(record)
      const prefix = held(record, stamp)
      if (known === undefined || prefix === undefined) return undefined
      return known.compare(prefix, 0, prefix.length, 0, prefix.length) === 0 ? known : undefined
    },
    [Symbol.dispose]() {
      closeSync(fd)
      rows[Symbol.dispose]()
    },
  }
}
