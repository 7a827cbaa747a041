import { BuilderError, type ErrorDetails } from '../errors/builder-error.js'
import type { ErrorCode } from '../errors/codes.js'
import type { Position, Range, SourceRange } from './source.js'

/** Bytes a Dockerfile may have; the limit of the original isula-build. */
export const maxSourceBytes = 1024 * 1024

const maxFrameLines = 20
/** Text kept of a line behind the marked token, so that a long line does not travel whole. */
const keptTail = 4096

export interface SourceFile {
  readonly file: string
  /** Without a byte order mark. */
  readonly text: string
  /** Offset of the first character of each line; a final line feed opens no line. */
  readonly lineStarts: readonly number[]
}

/**
 * Decodes and checks a source. Fails with ISB_LIMIT_EXCEEDED above 1 MiB, and with ISB_DOCKERFILE_SYNTAX for
 * anything but UTF-8 text without NUL; a leading byte order mark is dropped.
 */
export function readSource(source: Uint8Array | string, file: string): SourceFile {
  const size = typeof source === 'string' ? Buffer.byteLength(source) : source.byteLength
  if (size > maxSourceBytes) {
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `${file} has ${size} bytes; 1 MiB is allowed`, {
      hint: 'Move scripts and data into files and COPY them.',
    })
  }
  const decoded = typeof source === 'string' ? checkedText(source, file) : decodeUtf8(source, file)
  const text = decoded.charCodeAt(0) === 0xfeff ? decoded.slice(1) : decoded
  const result = { file, text, lineStarts: lineStartsOf(text) }
  const nul = text.indexOf('\0')
  if (nul >= 0) {
    throw sourceError(result, nul, nul + 1, 'ISB_DOCKERFILE_SYNTAX', 'the file contains a NUL byte', {
      hint: 'Save the Dockerfile as UTF-8 text.',
    })
  }
  return result
}

/**
 * Line terminators are `\n` and `\r\n`; the end given here stands before all carriage returns at the end of
 * the line.
 */
export function lineBounds(
  source: SourceFile,
  line: number,
): { readonly start: number; readonly end: number } {
  const start = source.lineStarts[line] ?? source.text.length
  let end = rawLineEnd(source, line)
  while (end > start && source.text.charCodeAt(end - 1) === 0x0d) end--
  return { start, end }
}

/**
 * Like `lineBounds`, but a carriage return counts as part of the terminator only directly before the line
 * feed.
 */
export function lineContent(source: SourceFile, line: number): string {
  const start = source.lineStarts[line] ?? source.text.length
  const end = rawLineEnd(source, line)
  const isCrlf =
    source.text.charCodeAt(end) === 0x0a && end > start && source.text.charCodeAt(end - 1) === 0x0d
  return source.text.slice(start, isCrlf ? end - 1 : end)
}

export function positionAt(source: SourceFile, offset: number): Position {
  const line = lineAt(source.lineStarts, offset)
  return { line: line + 1, column: offset - (source.lineStarts[line] ?? 0) }
}

export function rangeAt(source: SourceFile, start: number, end: number): Range {
  return { start: positionAt(source, start), end: positionAt(source, Math.max(start, end)) }
}

/** The range between two offsets with the text of its lines. */
export function sourceRangeAt(source: SourceFile, start: number, end: number): SourceRange {
  return withLines(source, rangeAt(source, start, end))
}

/** A BuilderError that points at `text.slice(start, end)`. */
export function sourceError(
  source: SourceFile,
  start: number,
  end: number,
  code: ErrorCode,
  message: string,
  details: ErrorDetails = {},
): BuilderError {
  return new BuilderError(code, message, { ...details, source: sourceRangeAt(source, start, end) })
}

/** The lines of a parsed file that `range` touches: what an error about an instruction carries. */
export function sourceRange(
  parsed: { readonly file: string; readonly text: string },
  range: Range,
): SourceRange {
  return withLines(indexed(parsed), range)
}

/**
 * Narrows `range` to the first place inside it where `token` stands as written; the whole range when it
 * stands nowhere (a token may be spread over continuation lines).
 */
export function tokenRange(
  parsed: { readonly file: string; readonly text: string },
  range: Range,
  token: string,
): SourceRange {
  const source = indexed(parsed)
  const start = offsetOf(source, range.start)
  const at = token === '' ? -1 : source.text.slice(start, offsetOf(source, range.end)).indexOf(token)
  return at < 0 ? withLines(source, range) : sourceRangeAt(source, start + at, start + at + token.length)
}

const indexes = new WeakMap<object, SourceFile>()

function indexed(parsed: { readonly file: string; readonly text: string }): SourceFile {
  const known = indexes.get(parsed)
  if (known !== undefined) return known
  const source = { file: parsed.file, text: parsed.text, lineStarts: lineStartsOf(parsed.text) }
  indexes.set(parsed, source)
  return source
}

function offsetOf(source: SourceFile, position: Position): number {
  return (source.lineStarts[position.line - 1] ?? source.text.length) + position.column
}

function withLines(source: SourceFile, range: Range): SourceRange {
  const last = Math.min(range.end.line, range.start.line + maxFrameLines - 1)
  const lines: string[] = []
  for (let line = range.start.line; line <= last; line++) {
    const { start, end } = lineBounds(source, line - 1)
    const startColumn = line === range.start.line ? range.start.column : 0
    const endColumn = line === range.end.line ? range.end.column : 0
    const kept = Math.max(startColumn, endColumn) + keptTail
    lines.push(source.text.slice(start, Math.min(end, start + kept)))
  }
  return { file: source.file, start: range.start, end: range.end, lines }
}

function rawLineEnd(source: SourceFile, line: number): number {
  const next = source.lineStarts[line + 1]
  if (next !== undefined) return next - 1
  return source.text.endsWith('\n') ? source.text.length - 1 : source.text.length
}

function lineStartsOf(text: string): number[] {
  const starts = text.length > 0 ? [0] : []
  for (let at = text.indexOf('\n'); at >= 0 && at + 1 < text.length; at = text.indexOf('\n', at + 1)) {
    starts.push(at + 1)
  }
  return starts
}

function lineAt(lineStarts: readonly number[], offset: number): number {
  let low = 0
  let high = lineStarts.length - 1
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if ((lineStarts[middle] ?? 0) <= offset) low = middle
    else high = middle - 1
  }
  return low
}

function checkedText(text: string, file: string): string {
  const lone = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.exec(text)
  if (lone === null) return text
  const source = { file, text, lineStarts: lineStartsOf(text) }
  throw notUtf8(source, lone.index)
}

function decodeUtf8(bytes: Uint8Array, file: string): string {
  const isUtf16 =
    bytes.length >= 2 && (bytes[0] ?? 0) + (bytes[1] ?? 0) === 0xff + 0xfe && (bytes[0] ?? 0) >= 0xfe
  if (!isUtf16) {
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    } catch (error) {
      if (!(error instanceof TypeError)) throw error
    }
  }
  const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)
  const source = { file, text, lineStarts: lineStartsOf(text) }
  if (isUtf16) {
    throw sourceError(source, 0, 1, 'ISB_DOCKERFILE_SYNTAX', 'the file is UTF-16, not UTF-8', {
      hint: 'Save the Dockerfile as UTF-8.',
    })
  }
  throw notUtf8(source, firstInvalid(bytes, text))
}

/** Offset in `text`, the lenient decoding of `bytes`, of the first byte that is not UTF-8. */
function firstInvalid(bytes: Uint8Array, text: string): number {
  let byteAt = 0
  for (let at = text.indexOf('\ufffd'), from = 0; at >= 0; at = text.indexOf('\ufffd', at + 1)) {
    byteAt += Buffer.byteLength(text.slice(from, at))
    const isReal = bytes[byteAt] === 0xef && bytes[byteAt + 1] === 0xbf && bytes[byteAt + 2] === 0xbd
    if (!isReal) return at
    byteAt += 3
    from = at + 1
  }
  return 0
}

function notUtf8(source: SourceFile, at: number): BuilderError {
  const line = positionAt(source, at).line
  return sourceError(source, at, at + 1, 'ISB_DOCKERFILE_SYNTAX', `line ${line} is not valid UTF-8`, {
    hint: 'Save the Dockerfile as UTF-8.',
  })
}
