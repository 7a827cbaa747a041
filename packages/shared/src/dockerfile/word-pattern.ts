import { BuilderError } from '../errors/builder-error.js'
import { quoted } from './go-text.js'

/** Characters a word may have after expansion: doubling a variable thirty times must not fill the memory. */
export const maxExpansion = 4 * 1024 * 1024

export function tooLong(): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', 'a word has more than 4 Mi characters after expansion')
}

/**
 * The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and literals, no brackets (POSIX.1-2017 2.13 as
 * BuildKit narrows it). Neither wildcard matches a line feed. Matching takes time proportional to
 * value × longest literal run, whatever the pattern.
 */
export interface WordPattern {
  /** Runs of characters between the stars: code points, or -1 for `?`. */
  readonly runs: readonly (readonly number[])[]
  readonly text: string
}

const anyCharacter = -1
const lineFeed = 0x0a
const maxWork = 2 ** 26

export function parseWordPattern(text: string): WordPattern {
  const characters = Array.from(text)
  const runs: number[][] = []
  let run: number[] = []
  for (let at = 0; at < characters.length; at++) {
    const character = characters[at]
    if (character === '*') {
      runs.push(run)
      run = []
    } else if (character === '?') run.push(anyCharacter)
    else if (character === '\\') {
      const escaped = characters[++at]
      if (escaped === undefined || !'*?\\}/'.includes(escaped)) {
        throw new BuilderError(
          'ISB_DOCKERFILE_SYNTAX',
          `invalid escape ${quoted(`\\${escaped ?? ''}`)} in pattern ${quoted(text)}`,
          { hint: 'A backslash may stand before * ? \\ / and } only.' },
        )
      }
      run.push(escaped.codePointAt(0) ?? 0)
    } else run.push(character?.codePointAt(0) ?? 0)
  }
  runs.push(run)
  return { runs, text }
}

export function removePrefix(value: string, pattern: WordPattern, longest: boolean): string {
  const points = Array.from(value)
  const end = matchHere(searchable(points, pattern), 0, pattern.runs, longest).end
  return end === undefined ? value : points.slice(end).join('')
}

export function removeSuffix(value: string, pattern: WordPattern, longest: boolean): string {
  const points = Array.from(value).reverse()
  const runs = pattern.runs.map((run) => [...run].reverse()).reverse()
  const end = matchHere(searchable(points, pattern), 0, runs, longest).end
  return end === undefined ? value : points.slice(end).reverse().join('')
}

/** Replaces the leftmost match, or every one; `*` takes as much as it can. */
export function replacePattern(
  value: string,
  pattern: WordPattern,
  replacement: string,
  all: boolean,
): string {
  const characters = Array.from(value)
  const points = searchable(characters, pattern)
  const parts: string[] = []
  let copied = 0
  let from = 0
  let size = 0
  while (from <= points.length) {
    const match = search(points, from, pattern.runs)
    if (match === undefined) break
    const isEmptyAfterMatch = match.start === match.end && match.start === copied && parts.length > 0
    if (!isEmptyAfterMatch) {
      const kept = characters.slice(copied, match.start).join('')
      parts.push(kept, replacement)
      size += kept.length + replacement.length
      if (size > maxExpansion) throw tooLong()
      copied = match.end
      if (!all) break
    }
    from = match.end > match.start ? match.end : match.end + 1
  }
  return parts.join('') + characters.slice(copied).join('')
}

interface Match {
  readonly start: number
  readonly end: number
}

function search(points: readonly number[], from: number, runs: WordPattern['runs']): Match | undefined {
  const first = runs[0] ?? []
  let start = from
  while (start <= points.length) {
    if (!runAt(points, start, first)) {
      start++
      continue
    }
    const { end, resume } = matchHere(points, start, runs, true)
    if (end !== undefined) return { start, end }
    start = Math.max(start + 1, resume - first.length)
  }
  return undefined
}

/**
 * Matches at `at`. What follows a star is taken at its first place (the last run at its last place when the
 * longest match is wanted): a later place never makes a match possible that the first one does not. A failure
 * holds for every start whose first star begins before `resume`.
 */
function matchHere(
  points: readonly number[],
  at: number,
  runs: WordPattern['runs'],
  longest: boolean,
): { readonly end: number | undefined; readonly resume: number } {
  const first = runs[0] ?? []
  if (!runAt(points, at, first)) return { end: undefined, resume: at + 1 }
  let end = at + first.length
  const resume = runs.length > 1 ? endOfLine(points, end) + 1 : end
  for (let index = 1; index < runs.length; index++) {
    const run = runs[index] ?? []
    const lineEnd = endOfLine(points, end)
    const found =
      longest && index === runs.length - 1
        ? lastRun(points, end, lineEnd, run)
        : firstRun(points, end, lineEnd, run)
    if (found === undefined) return { end: undefined, resume }
    end = found + run.length
  }
  return { end, resume }
}

function firstRun(points: readonly number[], from: number, to: number, run: readonly number[]) {
  for (let at = from; at <= to; at++) if (runAt(points, at, run)) return at
  return undefined
}

function lastRun(points: readonly number[], from: number, to: number, run: readonly number[]) {
  for (let at = to; at >= from; at--) if (runAt(points, at, run)) return at
  return undefined
}

function runAt(points: readonly number[], at: number, run: readonly number[]): boolean {
  if (at + run.length > points.length) return false
  for (let index = 0; index < run.length; index++) {
    const wanted = run[index]
    const point = points[at + index]
    if (wanted === anyCharacter ? point === lineFeed : point !== wanted) return false
  }
  return true
}

function endOfLine(points: readonly number[], from: number): number {
  const end = points.indexOf(lineFeed, from)
  return end < 0 ? points.length : end
}

function searchable(characters: readonly string[], pattern: WordPattern): number[] {
  if (characters.length * pattern.text.length > maxWork) {
    throw new BuilderError(
      'ISB_LIMIT_EXCEEDED',
      `the pattern ${quoted(pattern.text)} is too long for its value`,
    )
  }
  return characters.map((character) => character.codePointAt(0) ?? 0)
}
