import { rootedPath, textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { excludeFilter, includeFilter } from './path-filter.js'
import type { SourceEntry } from './source-reader.js'
import { hasWildcard, type SourceView } from './source-view.js'
import type { Selection } from './source-walk.js'

/** A path that a source pattern named. */
export interface PatternMatch {
  /** As it was named, wildcards apart. */
  readonly match: string
  /** With links resolved; nothing has to be there. */
  readonly path: string
  readonly entry: SourceEntry | undefined
  readonly selection: Selection
}

export interface SourcePattern {
  readonly pattern: string
  readonly parents: boolean
  readonly excludes: readonly string[]
}

/** In sorted order. Fails with ISB_CONTEXT_NOT_FOUND where a directory of the pattern is missing. */
export function* matchPattern(view: SourceView, source: SourcePattern): Iterable<PatternMatch> {
  const split = source.parents ? splitParents(source.pattern) : undefined
  const selection: Selection = {
    exclude: excludeFilter(source.excludes.map(textOfBytes)),
    include: split === undefined ? undefined : includeFilter(split.below),
  }
  if (split !== undefined) requireNamed(view, split)
  for (const match of view.expand(split?.pivot ?? source.pattern)) {
    yield { match, selection, ...view.resolve(match) }
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
