import { skipSpaces } from './go-text.js'

/** Nesting that Go's decoder accepts; deeper input is no JSON for it. */
const maxNesting = 10_000

/**
 * The JSON array at the start of `text`, as BuildKit decodes it: text behind the closing bracket is ignored.
 * `'no-strings'` when it is valid JSON with an element that is not a string; undefined when it is no JSON
 * array at all, which makes the shell form of it.
 */
export function stringArray(text: string): readonly string[] | 'no-strings' | undefined {
  const start = skipSpaces(text, 0)
  if (text.charAt(start) !== '[') return undefined
  const end = arrayEnd(text, start)
  if (end === undefined) return undefined
  const values = decode(text.slice(start, end))
  if (!Array.isArray(values)) return undefined
  const strings: string[] = []
  for (const value of values) {
    if (typeof value !== 'string') return 'no-strings'
    strings.push(wellFormed(value))
  }
  return strings
}

function decode(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

function arrayEnd(text: string, start: number): number | undefined {
  let depth = 0
  for (let at = start; at < text.length; at++) {
    const character = text.charAt(at)
    if (character === '"') {
      at = stringEnd(text, at)
    } else if (character === '[' || character === '{') {
      if (++depth > maxNesting) return undefined
    } else if ((character === ']' || character === '}') && --depth === 0) return at + 1
  }
  return undefined
}

function stringEnd(text: string, start: number): number {
  let at = start + 1
  while (at < text.length && text.charAt(at) !== '"') at += text.charAt(at) === '\\' ? 2 : 1
  return at
}

/** `\ud800` alone becomes U+FFFD, as in Go; it has no UTF-8 form. */
function wellFormed(text: string): string {
  return Buffer.from(text, 'utf8').toString('utf8')
}
