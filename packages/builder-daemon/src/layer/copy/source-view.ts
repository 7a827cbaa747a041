import { matchGlob } from '@isula-build/shared/dockerfile/ignore.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { rootedPath, textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { PathFilter } from './path-filter.js'
import { resolvePath } from './resolution.js'
import { joinPath, type SourceEntry, type SourceReader } from './source-reader.js'

/** A source tree as COPY sees it: what the ignore file excludes does not exist. */
export interface SourceView {
  readonly reader: SourceReader
  stat(path: string): SourceEntry | undefined
  list(path: string): SourceEntry[]
  /** A path whose components hold no link; the entry is undefined when nothing is there. */
  resolve(path: string): { readonly path: string; readonly entry: SourceEntry | undefined }
  /**
   * The paths a source pattern names, sorted, unresolved. Without wildcards it is the cleaned pattern
   * itself; with them it may be none.
   */
  expand(pattern: string): readonly string[]
  /** The error for a source that is not there; `path` as it was named, `resolved` where it led to. */
  missing(path: string, resolved: string): BuilderError
}

/** `check` is called before the filter is asked, which takes long when it is large. */
export function createSourceView(
  reader: SourceReader,
  filter: PathFilter | undefined,
  check: () => void,
): SourceView {
  const exceptions = new Map<string, boolean>()

  function isVisible(path: string, entry: SourceEntry): boolean {
    if (filter === undefined || path === '') return true
    check()
    if (filter.excludes(path) === undefined) return true
    return entry.type === 'directory' && holdsException(path)
  }

  /** An excluded directory exists for the sake of what is not excluded below it. */
  function holdsException(path: string): boolean {
    const known = exceptions.get(path)
    if (known !== undefined) return known
    const found =
      filter?.mayDescend(path) === true &&
      reader.list(path).some((entry) => isVisible(joinPath(path, entry.name), entry))
    exceptions.set(path, found)
    return found
  }

  function stat(path: string): SourceEntry | undefined {
    const entry = reader.stat(path)
    return entry !== undefined && isVisible(path, entry) ? entry : undefined
  }

  function list(path: string): SourceEntry[] {
    return reader
      .list(path)
      .filter((entry) => isCopied(entry) && isVisible(joinPath(path, entry.name), entry))
  }

  function resolve(path: string) {
    const resolved = resolvePath(path, stat, true)
    return { path: resolved, entry: stat(resolved) }
  }

  function expand(pattern: string): readonly string[] {
    const components = rootedPath(pattern).split('/')
    const first = components.findIndex(hasWildcard)
    if (first === -1) return [components.join('/')]
    const named = components.slice(0, first).join('/')
    const base = resolve(named)
    if (base.entry === undefined) throw missing(named, base.path)
    const matches: string[] = []
    if (base.entry.type === 'directory') collect(base.path, components.slice(first), matches)
    return matches
  }

  function collect(directory: string, patterns: readonly string[], matches: string[]): void {
    const [pattern = '', ...rest] = patterns
    for (const entry of list(directory)) {
      if (!matchGlob(pattern, entry.name)) continue
      const path = joinPath(directory, entry.name)
      if (rest.length === 0) matches.push(path)
      else if (entry.type === 'directory') collect(path, rest, matches)
    }
  }

  function missing(path: string, resolved: string): BuilderError {
    const rule = resolved === '' ? undefined : filter?.excludes(resolved)
    const reason = rule === undefined ? 'not found' : `not found: excluded by ${rule}`
    return new BuilderError('ISB_CONTEXT_NOT_FOUND', `"/${textOfBytes(path)}": ${reason}`)
  }

  return { reader, stat, list, resolve, expand, missing }
}

/** A socket without the process that listens is nothing that could be copied. */
export function isCopied(entry: SourceEntry): boolean {
  return entry.type !== 'socket'
}

/** As Go's filepath.Match understands a component; a backslash quotes what follows. */
export function hasWildcard(component: string): boolean {
  return /[*?[]/.test(component.replace(/\\./gs, ''))
}
