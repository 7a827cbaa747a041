import { compileIgnore } from '@isula-build/shared/dockerfile/ignore.js'
import { bytesOfText, rootedPath, textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { hasWildcard } from './source-view.js'

/** Decides by patterns which paths of a tree take no part. Paths are rooted byte paths. */
export interface PathFilter {
  /** Which rule excludes this path (itself or through a parent), e.g. `.dockerignore:4 (*.md)`. */
  excludes(path: string): string | undefined
  /** An excluded directory may still hold paths that are not. */
  mayDescend(path: string): boolean
}

/** `--exclude`; undefined when the patterns exclude nothing. */
export function excludeFilter(patterns: readonly string[]): PathFilter | undefined {
  return filterOf(patterns, '--exclude')
}

/**
 * The ignore file of a context, whose name `file` is for messages; undefined when it excludes nothing.
 * An excluded directory is looked into only for an exception that begins with its very path, as BuildKit's
 * context walk does: an exception that begins with a wildcard
 * brings back nothing from an excluded directory.
 */
export function ignoreFilter(lines: readonly string[], file: string): PathFilter | undefined {
  const known = ignoreFilters.get(lines)
  if (known?.file === file) return known.filter
  const filter = compileIgnoreFilter(lines, file)
  ignoreFilters.set(lines, { file, filter })
  return filter
}

/** The sources of one instruction share one list, however many they are. */
const ignoreFilters = new WeakMap<readonly string[], { file: string; filter: PathFilter | undefined }>()

function compileIgnoreFilter(lines: readonly string[], file: string): PathFilter | undefined {
  const filter = filterOf(lines, file)
  if (filter === undefined) return undefined
  const exceptions = lines
    .filter((line) => line.startsWith('!'))
    .map((line) => rootedPath(bytesOfText(line.slice(1).trim())))
  return {
    excludes: filter.excludes,
    mayDescend: (path) =>
      exceptions.some((pattern) => pattern.startsWith(`${path}/`)) && filter.mayDescend(path),
  }
}

function filterOf(patterns: readonly string[], origin: string): PathFilter | undefined {
  const matcher = compileIgnore(patterns, origin)
  if (!matcher.excludesAnything) return undefined
  return {
    excludes(path) {
      const { excluded, pattern, line } = matcher.match(path, false)
      return excluded ? `${origin}:${line ?? 0} (${pattern ?? ''})` : undefined
    },
    mayDescend: (path) => matcher.mayDescend(path),
  }
}

/** What `--parents` selects: the paths that match, and everything below them. */
export interface IncludeFilter {
  includes(path: string): boolean
  /** Something below this directory may match. */
  mayDescend(path: string): boolean
}

export function includeFilter(pattern: string): IncludeFilter {
  if (pattern === '') return { includes: () => true, mayDescend: () => true }
  const matcher = compileIgnore([textOfBytes(pattern)], '--parents')
  const components = pattern.split('/')
  const wild = components.findIndex(hasWildcard)
  const fixed = `${components.slice(0, wild === -1 ? undefined : wild).join('/')}/`
  return {
    includes: (path) => matcher.match(path, false).excluded,
    mayDescend: (path) => fixed === '/' || fixed.startsWith(`${path}/`) || `${path}/`.startsWith(fixed),
  }
}
