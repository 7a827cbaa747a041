import { createHash, type Hash } from 'node:crypto'
import { closeSync } from 'node:fs'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { fstat } from '../../system/file-stat.js'
import { createTypeFinder, keepsChangeTimes } from '../../system/file-system-kind.js'
import { openCanonical } from '../../system/rooted.js'
import { O_RDONLY } from '../../system/syscalls.js'
import { SystemError } from '../../system/system-error.js'
import { createTreeScan, type Wanted } from '../../system/tree-scan.js'
import { ignoreFilter, type PathFilter } from './path-filter.js'
import { matchPattern } from './source-matches.js'
import {
  joinPath,
  type ScanRequest,
  type SourceEntry,
  type SourceReader,
  type SourceState,
  type TreeRecorder,
} from './source-reader.js'
import { createSourceView } from './source-view.js'
import type { Selection } from './source-walk.js'
import { stampOf } from './stat-table.js'

class UnreliableError extends Error {}

export interface ScannedSource {
  readonly fd: number
  /** Gives bare entries; it is closed. */
  readonly reader: SourceReader
  readonly recorder?: TreeRecorder | undefined
}

/**
 * Sums up what a COPY from below `source` would look at, without opening a file: the way to every match, the
 * directories that wildcards were looked up in, and everything that takes part below, all as stat sees it. May
 * take in more than is copied, never less.
 */
export function scanSource(
  source: ScannedSource,
  request: ScanRequest,
  check: () => void,
): SourceState | undefined {
  try {
    return scan(source, request, check)
  } catch (error) {
    // What fails here fails again where the content is read, and is told from there.
    if (error instanceof UnreliableError || error instanceof SystemError) return undefined
    if (isBuilderError(error) && !isBuilderError(error, 'ISB_CANCELLED')) return undefined
    throw error
  } finally {
    source.reader.close()
  }
}

function scan(
  { fd: rootFd, reader, recorder }: ScannedSource,
  request: ScanRequest,
  check: () => void,
): SourceState {
  const hash = createHash('sha256')
  const typeOf = createTypeFinder()
  let latestNs = 0n

  function requireTimes(fd: number): void {
    const type = typeOf(fd)
    if (type === undefined || !keepsChangeTimes(type)) throw new UnreliableError(type)
  }
  function note(timeNs: bigint): void {
    if (timeNs > latestNs) latestNs = timeNs
  }

  requireTimes(rootFd)
  const { dev } = fstat(rootFd)
  const tree = createTreeScan({
    bytes(chunk) {
      check()
      hash.update(chunk)
      recorder?.bytes(chunk)
    },
    latest: note,
    device: requireTimes,
  })

  function add(kind: string, path: string, entry: SourceEntry | undefined): void {
    putText(hash, kind)
    putText(hash, path)
    if (entry === undefined) return
    // Another file system than the root's that is not scanned below may be of any kind.
    if (entry.dev !== dev) throw new UnreliableError('device')
    hash.update(stampOf(entry))
    note(entry.mtimeNs)
    note(entry.ctimeNs)
  }

  const observed: SourceReader = {
    ...reader,
    stat(path) {
      const entry = reader.stat(path)
      // On the way, a directory counts for what it is and not for what it holds.
      if (entry?.type === 'directory') putText(hash, `way ${path} ${entry.dev}:${entry.ino}\n`)
      else add('stat', path, entry)
      return entry
    },
    list(path) {
      add('list', path, reader.stat(path))
      return reader.list(path)
    },
  }
  const filter = ignoreFilter(request.ignore, '')
  for (const found of matchPattern(createSourceView(observed, filter, check), request)) {
    const { match, path, entry, selection } = found
    putText(hash, `match ${match}\n`)
    if (entry?.type !== 'directory') continue
    const fd = openCanonical(rootFd, path, O_RDONLY)
    try {
      recorder?.begin(path)
      tree.add(fd, checking(check, wantedOf(path, filter, selection)))
    } finally {
      closeSync(fd)
    }
  }
  return { digest: hash.digest(), latestNs }
}

function checking(check: () => void, wanted: Wanted | undefined): Wanted | undefined {
  if (wanted === undefined) return undefined
  return (relative, isDirectory) => {
    check()
    return wanted(relative, isDirectory)
  }
}

/** Lets pass what the walk of the content visits, and directories that lead to it or may do so. */
function wantedOf(top: string, filter: PathFilter | undefined, selection: Selection): Wanted | undefined {
  const { exclude, include } = selection
  if (filter === undefined && exclude === undefined && include === undefined) return undefined
  return (relative, isDirectory) => {
    const path = joinPath(top, relative)
    if (filter?.excludes(path) !== undefined && !(isDirectory && filter.mayDescend(path))) return false
    if (exclude?.excludes(relative) !== undefined && !(isDirectory && exclude.mayDescend(relative)))
      return false
    return (
      include === undefined || include.includes(relative) || (isDirectory && include.mayDescend(relative))
    )
  }
}

function putText(hash: Hash, text: string): void {
  hash.update(`${text.length}:`).update(text, 'latin1')
}
