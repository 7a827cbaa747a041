import { closeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { CopyParams, ResolvedCopyInput, SourceRoot } from '../../ports/layer-worker.js'
import { openMerged } from '../../system/detached-overlay.js'
import { lastOf } from '../../system/rooted.js'
import { O_DIRECTORY, O_RDONLY, openat } from '../../system/syscalls.js'
import type { JobControl } from '../job-control.js'
import { createDirectReader } from './direct-reader.js'
import { createHelperReader } from './helper-reader.js'
import { ignoreFilter } from './path-filter.js'
import { createSeenReader, type Seen } from './seen-sources.js'
import { matchPattern } from './source-matches.js'
import type { ReaderOptions, SourceEntry, SourceReader } from './source-reader.js'
import { createSourceView, isCopied, type SourceView } from './source-view.js'
import type { Selection } from './source-walk.js'

export type TreeInput = Extract<ResolvedCopyInput, { kind: 'tree' }>

/** A file or directory that a source pattern named. */
export interface MatchedSource {
  readonly view: SourceView
  readonly input: TreeInput
  readonly selection: Selection
  /** With links resolved. */
  readonly path: string
  readonly entry: SourceEntry
  /** The last component before links were resolved; '' for the root. */
  readonly name: string
  /** Tells the matches of one instruction apart. */
  readonly key: string
}

export interface Sources extends Disposable {
  /** In the order of the pattern's matches; directories that were `seen` are not listed. Fails with ISB_CONTEXT_NOT_FOUND. */
  matches(input: TreeInput, index: number, seen?: Seen): Iterable<MatchedSource>
  readerOf(root: SourceRoot): SourceReader
}

/**
 * The source trees of one instruction; each is opened on first use and stays open until disposal, whatever becomes
 * of the descriptors in `params`.
 */
export function openSources(params: CopyParams, control: JobControl, options: ReaderOptions = {}): Sources {
  const readers = new Map<string, SourceReader>()
  const opened: { close(): void }[] = []

  function readerOf(root: SourceRoot): SourceReader {
    const key = root.access === 'layers' ? root.lowers.join('\n') : `${root.access} ${root.fd}`
    const known = readers.get(key)
    if (known !== undefined) return known
    const reader = openReader(root)
    readers.set(key, reader)
    return reader
  }

  function openReader(root: SourceRoot): SourceReader {
    if (root.access !== 'layers') {
      if (root.access === 'helper') return createHelperReader(root.fd, control, options)
      const fd = openat(root.fd, '.', O_RDONLY | O_DIRECTORY)
      opened.push({ close: () => closeSync(fd) })
      return createDirectReader(fd, { ...options, check: control.check })
    }
    const layers = openMerged(root.lowers)
    opened.push(layers)
    return createDirectReader(layers.fd, { check: control.check })
  }

  function* matches(input: TreeInput, index: number, seen?: Seen): Iterable<MatchedSource> {
    control.check()
    const filter = ignoreFilter(input.ignore, input.ignoreFile ?? 'the ignore file')
    const reader = readerOf(input.root)
    const bare = options.bare === true
    const view = createSourceView(
      seen === undefined ? reader : createSeenReader(reader, { seen, input: index, bare }),
      filter,
      control.check,
    )
    const { parents, excludes } = params
    for (const found of matchPattern(view, { pattern: input.pattern, parents, excludes })) {
      control.check()
      const { match, path, entry, selection } = found
      if (entry === undefined) throw view.missing(match, path)
      if (!isCopied(entry)) {
        throw new BuilderError('ISB_COPY_FAILED', `"/${textOfBytes(match)}" is a ${entry.type}, not a file`)
      }
      const name = lastOf(match)
      // A pattern of --exclude is relative to the source directory, and to that of a source file.
      if (entry.type !== 'directory' && selection.exclude?.excludes(name) !== undefined) continue
      yield { view, input, selection, path, entry, name, key: `${index}:${match}` }
    }
  }

  return {
    matches,
    readerOf,
    [Symbol.dispose]() {
      for (const reader of readers.values()) reader.close()
      for (const tree of opened) tree.close()
    },
  }
}
