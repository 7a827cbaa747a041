import { BuilderError, isBuilderError } from '../errors/builder-error.js'
import { bytesOfText } from '../oci/byte-path.js'
import { type GlobToken, matchTokens, mayContinue, parseGlob, pointsOf } from './glob.js'
import { trimSpace } from './go-text.js'

export interface IgnoreDecision {
  readonly excluded: boolean
  /** The pattern that decided, `!` included; absent when none matched. */
  readonly pattern?: string
  /** Its line, from 1. */
  readonly line?: number
}

/**
 * Decides about the paths of one tree: slash-separated, relative to its root, without `.` and `..`, as bytes
 * (one per character; text with characters above U+00FF is taken as UTF-8). Walking in depth-first order is
 * fastest.
 */
export interface IgnoreMatcher {
  /** False when nothing is ever excluded. */
  readonly excludesAnything: boolean
  match(path: string, isDirectory: boolean): IgnoreDecision
  /** False when `directory` is excluded and no exception can bring back anything below it. */
  mayDescend(directory: string): boolean
}

/**
 * The patterns of a `.dockerignore`, cleaned: one entry for each line, so that an index is a line number; ''
 * for comments and empty lines (https://docs.docker.com/build/concepts/context/#dockerignore-files).
 */
export function parseIgnoreFile(text: string): readonly string[] {
  return text
    .replace(/^\ufeff/, '')
    .split('\n')
    .map((line) => (line.startsWith('#') ? '' : cleanLine(trimSpace(line))))
}

/**
 * Compiles patterns as moby's patternmatcher understands them; the last one that matches the path or one of
 * its parents decides. Also for `COPY --exclude`. Empty entries are skipped. Fails with ISB_CONTEXT_INVALID
 * for a lone `!` and a malformed class; `file` is the name that error gives.
 */
export function compileIgnore(patterns: readonly string[], file = '.dockerignore'): IgnoreMatcher {
  const compiled: Pattern[] = []
  for (const [index, text] of patterns.entries()) {
    const pattern = trimSpace(text)
    if (pattern !== '') compiled.push(compile(pattern, index + 1, file))
  }
  return matcherOf(compiled)
}

/**
 * Go's `filepath.Match` for Unix: `*`, `?`, `[a-z]`, `[^a]`, `\x`; the whole name must match. Pattern and
 * name are byte strings. Fails with ISB_ARGUMENT_INVALID for a malformed pattern.
 */
export function matchGlob(pattern: string, name: string): boolean {
  return matchTokens(parseGlob(pattern), pointsOf(name))
}

type Shape =
  | { readonly kind: 'exact' | 'prefix' | 'suffix'; readonly bytes: string }
  | { readonly kind: 'tokens'; readonly tokens: readonly GlobToken[] }

interface Pattern {
  readonly text: string
  readonly line: number
  readonly isException: boolean
  readonly shape: Shape
}

/** What is known about a path: its children start from the patterns that matched it. */
interface State {
  readonly matched: Uint8Array
  readonly excluded: boolean
  /** Index of the pattern that decided, or -1. */
  readonly decidedBy: number
}

function matcherOf(patterns: readonly Pattern[]): IgnoreMatcher {
  const lastException = patterns.findLastIndex((pattern) => pattern.isException)
  /** The ancestors of the last path, outermost first. */
  const ancestors: { readonly path: string; readonly state: State }[] = []

  const stateOf = (path: string, keep: boolean): State => {
    while (ancestors.length > 0) {
      const { path: top = '', state } = ancestors.at(-1) ?? {}
      if (path === top && state !== undefined) return state
      if (path.startsWith(`${top}/`)) break
      ancestors.pop()
    }
    let from = (ancestors.at(-1)?.path.length ?? -1) + 1
    for (let at = path.indexOf('/', from); at >= 0; at = path.indexOf('/', from)) {
      const parent = path.slice(0, at)
      ancestors.push({ path: parent, state: evaluate(patterns, parent, ancestors.at(-1)?.state) })
      from = at + 1
    }
    const state = evaluate(patterns, path, ancestors.at(-1)?.state)
    if (keep) ancestors.push({ path, state })
    return state
  }

  return {
    excludesAnything: patterns.some((pattern) => !pattern.isException),
    match(path, isDirectory) {
      const bytes = asBytes(path)
      if (bytes === '' || bytes === '.') return { excluded: false }
      const { excluded, decidedBy } = stateOf(bytes, isDirectory)
      const pattern = patterns[decidedBy]
      return pattern === undefined ? { excluded } : { excluded, pattern: pattern.text, line: pattern.line }
    },
    mayDescend(directory) {
      const bytes = asBytes(directory)
      if (bytes === '' || bytes === '.') return true
      const { excluded, decidedBy } = stateOf(bytes, true)
      if (!excluded) return true
      for (let index = decidedBy + 1; index <= lastException; index++) {
        const pattern = patterns[index]
        if (pattern?.isException && mayMatchBelow(pattern.shape, `${bytes}/`)) return true
      }
      return false
    },
  }
}

/**
 * A pattern that matched the parent matches everything below. Others are tried only where they could change
 * the result; a pattern skipped for the parent is therefore not inherited, which is what BuildKit does.
 */
function evaluate(patterns: readonly Pattern[], path: string, parent: State | undefined): State {
  const matched = new Uint8Array(patterns.length)
  let excluded = false
  let decidedBy = -1
  let points: readonly number[] | undefined
  for (const [index, pattern] of patterns.entries()) {
    let isMatch = parent?.matched[index] === 1
    if (!isMatch) {
      if (pattern.isException !== excluded) continue
      if (pattern.shape.kind === 'tokens') points ??= pointsOf(path)
      isMatch = matches(pattern.shape, path, points ?? [])
    }
    if (!isMatch) continue
    matched[index] = 1
    excluded = !pattern.isException
    decidedBy = index
  }
  return { matched, excluded, decidedBy }
}

function matches(shape: Shape, path: string, points: readonly number[]): boolean {
  switch (shape.kind) {
    case 'exact':
      return path === shape.bytes
    case 'prefix':
      return path.startsWith(shape.bytes)
    case 'suffix':
      return path.endsWith(shape.bytes) || `/${path}` === shape.bytes
    case 'tokens':
      return matchTokens(shape.tokens, points)
  }
}

function mayMatchBelow(shape: Shape, directory: string): boolean {
  switch (shape.kind) {
    case 'exact':
      return shape.bytes.startsWith(directory)
    case 'prefix':
      return shape.bytes.startsWith(directory) || directory.startsWith(shape.bytes)
    case 'suffix':
      return true
    case 'tokens':
      return mayContinue(shape.tokens, pointsOf(directory))
  }
}

function compile(text: string, line: number, file: string): Pattern {
  const cleaned = cleanPath(text)
  const isException = cleaned.startsWith('!')
  const pattern = isException ? cleaned.slice(1) : cleaned
  const source = {
    file,
    start: { line, column: 0 },
    end: { line, column: text.length },
    lines: [text],
  }
  if (pattern === '') {
    throw new BuilderError('ISB_CONTEXT_INVALID', 'an exception needs a pattern behind the "!"', {
      source,
      hint: 'Write !PATTERN, or remove the line.',
    })
  }
  try {
    return { text: cleaned, line, isException, shape: shapeOf(bytesOfText(pattern)) }
  } catch (error) {
    if (!isBuilderError(error)) throw error
    throw new BuilderError('ISB_CONTEXT_INVALID', error.message, {
      source,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    })
  }
}

/**
 * `**` in front or at the end of a pattern without other wildcards compares texts: `**foo` matches `barfoo`,
 * which `**fo?` does not.
 */
function shapeOf(pattern: string): Shape {
  const tokens = parseGlob(pattern, { deep: true })
  const isPlain = (text: string) => !/[*?[\]\\]/.test(text)
  if (pattern.startsWith('**') && isPlain(pattern.slice(2)))
    return { kind: 'suffix', bytes: pattern.slice(2) }
  if (pattern.endsWith('**') && isPlain(pattern.slice(0, -2))) {
    return { kind: 'prefix', bytes: pattern.slice(0, -2) }
  }
  return isPlain(pattern) ? { kind: 'exact', bytes: pattern } : { kind: 'tokens', tokens }
}

function cleanLine(line: string): string {
  const isException = line.startsWith('!')
  const pattern = isException ? trimSpace(line.slice(1)) : line
  if (pattern === '') return line === '' ? '' : '!'
  const cleaned = cleanPath(pattern)
  const relative = cleaned.length > 1 && cleaned.startsWith('/') ? cleaned.slice(1) : cleaned
  return isException ? `!${relative}` : relative
}

/** Go's `filepath.Clean`. */
function cleanPath(path: string): string {
  const isRooted = path.startsWith('/')
  const parts: string[] = []
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue
    if (part !== '..') parts.push(part)
    else if (parts.length > 0 && parts.at(-1) !== '..') parts.pop()
    else if (!isRooted) parts.push(part)
  }
  const joined = parts.join('/')
  return isRooted ? `/${joined}` : joined || '.'
}

function asBytes(path: string): string {
  return /[^\0-\xff]/.test(path) ? bytesOfText(path) : path
}
