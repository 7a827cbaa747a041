import { BuilderError } from '../errors/builder-error.js'
import { quoted } from './go-text.js'

/**
 * Glob patterns over byte strings (one byte per character). `?` and classes take one UTF-8 character, or one
 * byte where there is none. Matching simulates all ways at once: path × pattern steps, whatever the pattern.
 */
export type GlobToken =
  | { readonly kind: 'literal'; readonly point: number }
  /** `?`: anything but `/`. */
  | { readonly kind: 'any' }
  | {
      readonly kind: 'class'
      readonly negated: boolean
      readonly ranges: readonly (readonly [number, number])[]
    }
  /** `*`: any number of characters but `/`. */
  | { readonly kind: 'star' }
  /** `**` inside a pattern: nothing, or anything that ends in `/`. The entry stands before its loop. */
  | { readonly kind: 'deep-entry' }
  | { readonly kind: 'deep-loop' }
  /** `**` at the end. */
  | { readonly kind: 'rest' }

const slash = 0x2f
/** Points for bytes that are no UTF-8 lie above Unicode, so that no literal matches them by accident. */
const invalidByte = 0x110000

/**
 * The tokens of a byte pattern; with `deep`, `**` crosses directories as in ignore files. Fails with
 * ISB_ARGUMENT_INVALID for a malformed pattern.
 */
export function parseGlob(pattern: string, options: { readonly deep?: boolean } = {}): GlobToken[] {
  const points = pointsOf(pattern)
  const tokens: GlobToken[] = []
  let at = 0
  while (at < points.length) {
    const point = points[at++] ?? 0
    switch (String.fromCharCode(point < invalidByte ? point : 0)) {
      case '*':
        if (!options.deep || points[at] !== point) {
          tokens.push({ kind: 'star' })
          break
        }
        at++
        if (points[at] === slash) at++
        if (at === points.length) tokens.push({ kind: 'rest' })
        else tokens.push({ kind: 'deep-entry' }, { kind: 'deep-loop' })
        break
      case '?':
        tokens.push({ kind: 'any' })
        break
      case '[': {
        const { token, next } = parseClass(pattern, points, at)
        tokens.push(token)
        at = next
        break
      }
      case '\\': {
        const escaped = points[at++]
        if (escaped === undefined) throw malformed(pattern)
        tokens.push({ kind: 'literal', point: escaped })
        break
      }
      default:
        tokens.push({ kind: 'literal', point })
    }
  }
  return tokens
}

export function matchTokens(tokens: readonly GlobToken[], points: readonly number[]): boolean {
  if (!tailMatches(tokens, points)) return false
  return run(tokens, points)?.[tokens.length] === 1
}

/** True when some continuation of `points` may match. */
export function mayContinue(tokens: readonly GlobToken[], points: readonly number[]): boolean {
  const live = run(tokens, points)
  return live?.slice(0, tokens.length).includes(1) ?? false
}

/** UTF-8 characters of a byte string as code points; a byte that belongs to none is a point of its own. */
export function pointsOf(bytes: string): number[] {
  const points: number[] = []
  for (let at = 0; at < bytes.length; ) {
    const byte = bytes.charCodeAt(at)
    const size = byte < 0x80 ? 1 : sequenceLength(bytes, at)
    if (size === 0) {
      points.push(invalidByte + byte)
      at++
      continue
    }
    let point = size === 1 ? byte : byte & (0xff >> (size + 1))
    for (let index = 1; index < size; index++) point = (point << 6) | (bytes.charCodeAt(at + index) & 0x3f)
    points.push(point)
    at += size
  }
  return points
}

/** Length of the well-formed UTF-8 sequence at `at` (RFC 3629), 0 when there is none. */
function sequenceLength(bytes: string, at: number): number {
  const lead = bytes.charCodeAt(at)
  const size = lead >= 0xc2 && lead <= 0xdf ? 2 : lead >> 4 === 0xe ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0
  if (size === 0) return 0
  for (let index = 1; index < size; index++) {
    if (bytes.charCodeAt(at + index) >> 6 !== 0b10) return 0
  }
  const second = bytes.charCodeAt(at + 1)
  const isOverlong = (lead === 0xe0 && second < 0xa0) || (lead === 0xf0 && second < 0x90)
  const isOutside = (lead === 0xed && second > 0x9f) || (lead === 0xf4 && second > 0x8f)
  return isOverlong || isOutside ? 0 : size
}

function parseClass(pattern: string, points: readonly number[], from: number) {
  let at = from
  const negated = points[at] === 0x5e
  if (negated) at++
  const ranges: [number, number][] = []
  const read = () => {
    let point = points[at++]
    if (point === 0x2d || point === 0x5d) throw malformed(pattern)
    if (point === 0x5c) point = points[at++]
    if (point === undefined || at >= points.length) throw malformed(pattern)
    return point
  }
  while (points[at] !== 0x5d || ranges.length === 0) {
    const low = read()
    if (points[at] !== 0x2d) {
      ranges.push([low, low])
      continue
    }
    at++
    ranges.push([low, read()])
  }
  const token: GlobToken = { kind: 'class', negated, ranges }
  return { token, next: at + 1 }
}

/**
 * The states after all points: 1 at index i means that tokens up to i have matched. undefined = none is left.
 */
function run(tokens: readonly GlobToken[], points: readonly number[]): Uint8Array | undefined {
  let current = new Uint8Array(tokens.length + 1)
  let next = new Uint8Array(tokens.length + 1)
  enter(tokens, current, 0)
  for (const point of points) {
    next.fill(0)
    let isLive = false
    for (let state = 0; state < tokens.length; state++) {
      const token = tokens[state]
      if (current[state] === 0 || token === undefined) continue
      const reached = step(token, state, point)
      if (reached === undefined) continue
      isLive = true
      enter(tokens, next, reached)
      if (token.kind === 'deep-loop' && point === slash) enter(tokens, next, state + 1)
    }
    if (!isLive) return undefined
    const spare = current
    current = next
    next = spare
  }
  return current
}

function step(token: GlobToken, state: number, point: number): number | undefined {
  switch (token.kind) {
    case 'literal':
      return token.point === point ? state + 1 : undefined
    case 'any':
      return point === slash ? undefined : state + 1
    case 'class':
      return inClass(token.ranges, point) === token.negated ? undefined : state + 1
    case 'star':
      return point === slash ? undefined : state
    case 'deep-loop':
    case 'rest':
      return state
    case 'deep-entry':
      return undefined
  }
}

function enter(tokens: readonly GlobToken[], states: Uint8Array, state: number): void {
  for (let at = state; states[at] === 0; ) {
    states[at] = 1
    const kind = tokens[at]?.kind
    if (kind === 'deep-entry') {
      states[at + 1] = 1
      at += 2
    } else if (kind === 'star' || kind === 'rest') at++
    else return
  }
}

function inClass(ranges: readonly (readonly [number, number])[], point: number): boolean {
  return ranges.some(([low, high]) => low <= point && point <= high)
}

/** Rejects most paths cheaply: the literals behind the last wildcard must end the path. */
function tailMatches(tokens: readonly GlobToken[], points: readonly number[]): boolean {
  for (let back = 1; back <= tokens.length; back++) {
    const token = tokens[tokens.length - back]
    if (token?.kind !== 'literal') return true
    if (points[points.length - back] !== token.point) return false
  }
  return points.length === tokens.length
}

function malformed(pattern: string): BuilderError {
  const text = Buffer.from(pattern, 'latin1').toString('utf8')
  return new BuilderError('ISB_ARGUMENT_INVALID', `malformed pattern ${quoted(text)}`, {
    hint: 'Close every [ with ]; write \\[ for the character itself.',
  })
}
