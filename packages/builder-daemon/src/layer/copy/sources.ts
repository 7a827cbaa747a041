import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { rootedPath, textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { CopyParams, ResolvedCopyInput, SourceRoot } from '../../ports/layer-worker.js'
import { type MergedLayers, openMerged } from '../../system/detached-overlay.js'
import { lastOf } from '../../system/rooted.js'
import type { JobControl } from '../job-control.js'
import { createDirectReader } from './direct-reader.js'
import { createHelperReader } from './helper-reader.js'
import { excludeFilter, ignoreFilter, includeFilter } from './path-filter.js'
import type { SourceEntry, SourceReader } from './source-reader.js'
import { createSourceView, hasWildcard, isCopied, type SourceView } from './source-view.js'
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
  /** In the order of the pattern's matches. Fails with ISB_CONTEXT_NOT_FOUND. */
  matches(input: TreeInput, index: number): Iterable<MatchedSource>
}

/** The source trees of one instruction; each is opened on first use and stays open until disposal. */
export function openSources(params: CopyParams, control: JobControl): Sources {
  const readers = new Map<string, SourceReader>()
  const merged: MergedLayers[] = []

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
      return root.access === 'direct' ? createDirectReader(root.fd) : createHelperReader(root.fd, control)
    }
    const layers = openMerged(root.lowers)
    merged.push(layers)
    return createDirectReader(layers.fd)
  }

  const excluded = excludeFilter(params.excludes.map(textOfBytes))

  function* matches(input: TreeInput, index: number): Iterable<MatchedSource> {
    const filter = ignoreFilter(input.ignore, input.ignoreFile ?? 'the ignore file')
    const view = createSourceView(readerOf(input.root), filter)
    const split = params.parents ? splitParents(input.pattern) : undefined
    const selection: Selection = {
      exclude: excluded,
      include: split === undefined ? undefined : includeFilter(split.below),
    }
    if (split !== undefined) requireNamed(view, split)
    for (const match of view.expand(split?.pivot ?? input.pattern)) {
      const { path, entry } = view.resolve(match)
      if (entry === undefined) throw view.missing(match, path)
      if (!isCopied(entry)) {
        throw new BuilderError('ISB_COPY_FAILED', `"/${textOfBytes(match)}" is a ${entry.type}, not a file`)
      }
      const name = lastOf(match)
      // A pattern of --exclude is relative to the source directory, and to that of a source file.
      if (entry.type !== 'directory' && excluded?.excludes(name) !== undefined) continue
      yield { view, input, selection, path, entry, name, key: `${index}:${match}` }
    }
  }

  return {
    matches,
    [Symbol.dispose]() {
      for (const reader of readers.values()) reader.close()
      for (const layers of merged) layers.close()
    },
  }
}

interface ParentsSource {
  readonly pivot: string
  readonly below: string
}

/** `--parents`: what stands before the first `/./` is not recreated in the destination. */
function splitParents(pattern: string): ParentsSource {
  const at = pattern.indexOf('/./')
  return at === -1
    ? { pivot: '', below: rootedPath(pattern) }
    : { pivot: pattern.slice(0, at), below: rootedPath(pattern.slice(at + 3)) }
}

function requireNamed(view: SourceView, { pivot, below }: ParentsSource): void {
  const named = `${pivot}/${below}`
  if (named.split('/').some(hasWildcard)) return
  const { path, entry } = view.resolve(rootedPath(named))
  if (entry === undefined) throw view.missing(rootedPath(named), path)
}
