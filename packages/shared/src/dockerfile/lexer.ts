import { BuilderError, isBuilderError } from '../errors/builder-error.js'
import { quoted, skipSpaces, trimmedEnd } from './go-text.js'
import { type HeredocWord, heredocWords } from './heredoc.js'
import type { Heredoc } from './instructions.js'
import type { SourceRange } from './source.js'
import { lineBounds, lineContent, type SourceFile, sourceError, sourceRangeAt } from './source-file.js'
import { type Statement, splitStatement } from './statement.js'

export type Escape = '\\' | '`'

export interface Directives {
  readonly escape: Escape
  readonly values: Readonly<Record<string, string>>
}

/** An instruction with its continuations joined and its here-documents read. */
export interface LogicalLine {
  /** Without leading spaces; comments and empty lines inside are gone. */
  readonly text: string
  readonly statement: Statement
  readonly heredocs: readonly Heredoc[]
  /** Offsets in the source: the first character, and the end of the last line. */
  readonly start: number
  readonly end: number
  /** Where each physical line begins in `text` and in the source, ascending. */
  readonly pieces: readonly { readonly at: number; readonly offset: number }[]
}

const knownDirectives = new Set(['syntax', 'escape', 'check'])

/**
 * The parser directives: comments of the form `# name=value` before anything else in the file, an unknown
 * name included (https://docs.docker.com/reference/dockerfile/#parser-directives).
 */
export function readDirectives(source: SourceFile): Directives {
  const values: Record<string, string> = {}
  let escapeToken: Escape = '\\'
  for (let line = 0; line < source.lineStarts.length; line++) {
    const bounds = lineBounds(source, line)
    const start = skipSpaces(source.text, bounds.start, bounds.end)
    if (source.text.charAt(start) !== '#') break
    const comment = source.text.slice(skipSpaces(source.text, start + 1, bounds.end), bounds.end)
    const match = /^([a-zA-Z][a-zA-Z0-9]*)[\t\f\r ]*=/.exec(comment)
    const name = (match?.[1] ?? '').toLowerCase()
    const valueStart = bounds.end - comment.length + (match?.[0].length ?? 0)
    if (!knownDirectives.has(name) || valueStart === bounds.end) break
    const value = source.text.slice(
      skipSpaces(source.text, valueStart, bounds.end),
      trimmedEnd(source.text, valueStart, bounds.end),
    )
    const fail = (message: string, hint: string) =>
      sourceError(source, start, bounds.end, 'ISB_DOCKERFILE_SYNTAX', message, { hint })
    if (values[name] !== undefined) {
      throw fail(`the ${name} directive is given twice`, 'Remove one of the two lines.')
    }
    values[name] = value
    if (name !== 'escape') continue
    if (value !== '\\' && value !== '`') {
      throw fail(
        `invalid escape character ${quoted(value)}`,
        'Write `# escape=\\` or `# escape=` with a backquote.',
      )
    }
    escapeToken = value
  }
  return { escape: escapeToken, values }
}

/**
 * The instructions of a source in order; read on demand, so that the first error in the file is the one
 * reported.
 */
export function* logicalLines(source: SourceFile, escapeToken: Escape): Generator<LogicalLine> {
  const { text } = source
  const count = source.lineStarts.length
  let next = 0
  while (next < count) {
    const bounds = lineBounds(source, next++)
    const start = skipSpaces(text, bounds.start, bounds.end)
    if (start === bounds.end || text.charAt(start) === '#') continue

    const parts: string[] = []
    const pieces: { at: number; offset: number }[] = []
    let length = 0
    let end = bounds.end
    const add = (from: number, to: number) => {
      pieces.push({ at: length, offset: from })
      parts.push(text.slice(from, to))
      length += to - from
    }
    let continued = continuationAt(text, start, bounds.end, escapeToken)
    add(start, continued ?? bounds.end)
    while (continued !== undefined && next < count) {
      const line = lineBounds(source, next++)
      end = line.end
      const first = skipSpaces(text, line.start, line.end)
      if (first === line.end || text.charAt(first) === '#') continue
      continued = continuationAt(text, line.start, line.end, escapeToken)
      add(line.start, continued ?? line.end)
    }

    const joined = parts.join('')
    const statement = splitStatement(joined, 0, escapeToken)
    const line = { text: joined, statement, heredocs: [], start, end, pieces }
    if (statement.keyword.text === '') {
      throw sourceError(
        source,
        start,
        bounds.end,
        'ISB_DOCKERFILE_SYNTAX',
        'a line continuation without an instruction',
        {
          hint: `Remove the ${quoted(escapeToken)} or write an instruction in front of it.`,
        },
      )
    }
    const words = announced(source, line, escapeToken)
    if (words.length === 0) {
      yield line
      continue
    }
    const heredocs: Heredoc[] = []
    for (const word of words) {
      const body = readBody(source, next, word)
      if (body === undefined) throw unterminated(source, line, word)
      heredocs.push({ ...word, content: body.content })
      next = body.next
      end = lineBounds(source, next - 1).end
    }
    yield { ...line, heredocs, end }
  }
}

/** The source range of `line.text.slice(start, end)`. */
export function rangeInLine(source: SourceFile, line: LogicalLine, start: number, end: number): SourceRange {
  const from = sourceOffset(line, start)
  const to = end > start ? sourceOffset(line, end - 1) + 1 : from
  return sourceRangeAt(source, from, to)
}

function sourceOffset(line: LogicalLine, at: number): number {
  let low = 0
  let high = line.pieces.length - 1
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if ((line.pieces[middle]?.at ?? 0) <= at) low = middle
    else high = middle - 1
  }
  const piece = line.pieces[low]
  return piece === undefined ? line.start : Math.min(line.end, piece.offset + at - piece.at)
}

/**
 * Where the line ends when its last character but blanks is a lone escape character; two of them are text.
 */
function continuationAt(text: string, start: number, end: number, escapeToken: Escape): number | undefined {
  let at = end
  while (at > start && (text.charAt(at - 1) === ' ' || text.charAt(at - 1) === '\t')) at--
  if (at === start || text.charAt(at - 1) !== escapeToken) return undefined
  return at - 1 > start && text.charAt(at - 2) === escapeToken ? undefined : at - 1
}

function announced(source: SourceFile, line: LogicalLine, escapeToken: Escape): readonly HeredocWord[] {
  try {
    return heredocWords(line.text, line.statement, escapeToken)
  } catch (error) {
    if (!isBuilderError(error)) throw error
    throw error.with({
      source: rangeInLine(source, line, line.statement.rest.start, line.statement.rest.end),
    })
  }
}

function readBody(source: SourceFile, from: number, word: HeredocWord) {
  const lines: string[] = []
  for (let next = from; next < source.lineStarts.length; next++) {
    const content = word.chomp ? withoutTabs(lineContent(source, next)) : lineContent(source, next)
    if (content.startsWith(word.name) && onlyReturns(content, word.name.length)) {
      return { content: lines.join(''), next: next + 1 }
    }
    lines.push(content, '\n')
  }
  return undefined
}

function withoutTabs(line: string): string {
  let at = 0
  while (line.charAt(at) === '\t') at++
  return line.slice(at)
}

function onlyReturns(line: string, from: number): boolean {
  let at = from
  while (line.charAt(at) === '\r') at++
  return at === line.length
}

function unterminated(source: SourceFile, line: LogicalLine, word: HeredocWord): BuilderError {
  const at = Math.max(0, line.text.indexOf(word.original))
  return new BuilderError('ISB_DOCKERFILE_SYNTAX', `unterminated here-document ${quoted(word.name)}`, {
    hint: `Add a line that holds only ${word.name}${word.chomp ? '' : ', without blanks around it'}.`,
    source: rangeInLine(source, line, at, at + word.original.length),
  })
}
