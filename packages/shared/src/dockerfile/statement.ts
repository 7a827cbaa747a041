import { isSeparator, isSpace, skipSpaces, trimmedEnd } from './go-text.js'

/** A part of a logical line; offsets count in its text. */
export interface Token {
  readonly text: string
  readonly start: number
  readonly end: number
}

/** One instruction, split as far as all instructions are alike. */
export interface Statement {
  /** As written. */
  readonly keyword: Token
  /** Leading words that begin with `--`, without quotes and escapes. */
  readonly flags: readonly Token[]
  /** What follows, trimmed. */
  readonly rest: Token
}

/** Splits `line.slice(from)`; `keyword` is empty when there is nothing but spaces. */
export function splitStatement(line: string, from: number, escapeToken: string): Statement {
  const start = skipSpaces(line, from)
  const end = trimmedEnd(line, start)
  let at = start
  while (at < end && !isSeparator(line.charCodeAt(at))) at++
  const keyword = { text: line.slice(start, at), start, end: at }
  const flags: Token[] = []
  for (;;) {
    at = skipSpaces(line, at, end)
    if (!line.startsWith('--', at) || at >= end) break
    const flag = readFlag(line, at, end, escapeToken)
    at = flag.end
    if (flag.text === '--') break
    if (flag.text !== '') flags.push(flag)
  }
  const restStart = skipSpaces(line, at, end)
  return { keyword, flags, rest: { text: line.slice(restStart, end), start: restStart, end } }
}

function readFlag(line: string, start: number, end: number, escapeToken: string): Token {
  const parts: string[] = []
  let quote = ''
  let at = start
  let plainFrom = start
  const flush = (skipped: number) => {
    parts.push(line.slice(plainFrom, at))
    plainFrom = at + skipped
  }
  for (; at < end; at++) {
    const character = line.charAt(at)
    if (quote === '' && isSpace(line.charCodeAt(at))) break
    if (character === quote || (quote === '' && (character === "'" || character === '"'))) {
      flush(1)
      quote = quote === '' ? character : ''
    } else if (character === escapeToken) {
      flush(1)
      at++
    }
  }
  at = Math.min(at, end)
  parts.push(line.slice(plainFrom, at))
  return { text: parts.join(''), start, end: at }
}

/** The words between runs of separators, quotes and all. */
export function splitWords(token: Token): Token[] {
  const words: Token[] = []
  let from = 0
  const { text } = token
  for (let at = 0; at <= text.length; at++) {
    if (at < text.length && !isSeparator(text.charCodeAt(at))) continue
    if (at > from)
      words.push({ text: text.slice(from, at), start: token.start + from, end: token.start + at })
    from = at + 1
  }
  return words
}

/**
 * The words between unquoted, unescaped white space, quotes and escapes kept: what ENV, LABEL and ARG are
 * made of. An escape character at the very end is dropped.
 */
export function splitQuotedWords(token: Token, escapeToken: string): Token[] {
  const { text } = token
  const words: Token[] = []
  let start = -1
  let quote = ''
  const push = (end: number, dropped: number) => {
    if (start < 0) return
    const word = text.slice(start, end - dropped)
    if (word !== '') words.push({ text: word, start: token.start + start, end: token.start + end })
    start = -1
  }
  let dropped = 0
  for (let at = 0; at < text.length; at++) {
    const character = text.charAt(at)
    if (start < 0) {
      if (isSpace(text.charCodeAt(at))) continue
      start = at
    }
    if (quote === '' && isSpace(text.charCodeAt(at))) {
      push(at, 0)
      continue
    }
    if (quote === '' && (character === "'" || character === '"')) quote = character
    else if (character === quote) quote = ''
    else if (character === escapeToken && quote !== "'") {
      if (at + 1 === text.length) dropped = 1
      at++
    }
  }
  push(text.length, dropped)
  return words
}
