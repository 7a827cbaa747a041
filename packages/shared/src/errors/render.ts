import type { SourceRange } from '../dockerfile/source.js'
import { type DisplayCell, displayCells, displayText } from '../text/display-width.js'
import { redactUrls } from '../text/redact.js'
import type { BuilderError } from './builder-error.js'
import type { ErrorCode } from './codes.js'

export interface RenderableError {
  readonly code: ErrorCode
  readonly message: string
  readonly hint?: string
  readonly source?: SourceRange
  readonly step?: string
  /** The last lines that the failed step wrote. */
  readonly logTail?: readonly string[]
}

export interface RenderOptions {
  readonly color: boolean
  /** Columns of the terminal; lines of the code frame are cut to them. Default 120, at least 40. */
  readonly width?: number
  /** The message begins without `error: ` and its further lines are not indented. */
  readonly bare?: boolean
}

/** What `renderError` shows of an error. */
export function renderable(error: BuilderError): RenderableError {
  const { source, step, logTail } = error.details
  return {
    code: error.code,
    message: error.message,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...(source === undefined ? {} : { source }),
    ...(step === undefined ? {} : { step }),
    ...(logTail === undefined ? {} : { logTail }),
  }
}

/**
 * An error for people, in lines without line feeds: the cause, the step, a code frame with carets, the step's
 * last output, the hint. Control characters and passwords in URLs are masked; only `color` adds escape
 * sequences.
 */
export function renderError(error: RenderableError, options: RenderOptions): string[] {
  const paint = painter(options.color)
  const [cause = '', ...more] = safeLines(error.message)
  const lines = options.bare
    ? [paint('bold', cause), ...more]
    : [`${paint('red', 'error')}: ${paint('bold', cause)}`, ...more.map((line) => `  ${line}`)]
  if (error.step !== undefined) lines.push(`  in ${safeLines(error.step).join(' ')}`)
  if (error.source !== undefined) {
    lines.push(...renderFrame(error.source, Math.max(40, options.width ?? 120), paint))
  }
  if (error.logTail !== undefined && error.logTail.length > 0) {
    lines.push(paint('blue', '  last output:'))
    for (const line of error.logTail)
      lines.push(...safeLines(line).map((text) => `  ${paint('blue', '|')} ${text}`))
  }
  const hint = error.hint === undefined ? '' : safeLines(error.hint).join(' ')
  if (hint !== '') lines.push(`${paint('cyan', 'hint')}: ${hint}`)
  return lines
}

/** Lines of a frame that are shown; a longer range ends in an ellipsis. */
const maxFrameLines = 6
/** Columns kept in front of the marked token when a long line is cut. */
const leadColumns = 24
/** Characters of `://user:password` that masking looks at. */
const maxUserInfo = 1300

type Paint = (style: 'red' | 'blue' | 'cyan' | 'bold', text: string) => string

function painter(color: boolean): Paint {
  const codes = { red: '1;31', blue: '34', cyan: '36', bold: '1' }
  return (style, text) => (color && text !== '' ? `\x1b[${codes[style]}m${text}\x1b[0m` : text)
}

function renderFrame(source: SourceRange, width: number, paint: Paint): string[] {
  const { start, end } = source
  const shown = source.lines.slice(0, maxFrameLines)
  const gutter = String(start.line + Math.max(0, shown.length - 1)).length
  const margin = ' '.repeat(gutter + 2)
  const place = `${displayText(source.file)}:${start.line}:${start.column + 1}`
  const lines = [`${' '.repeat(gutter + 1)}${paint('blue', '-->')} ${place}`]
  if (shown.length === 0) return lines
  lines.push(margin + paint('blue', '|'))
  for (const [index, text] of shown.entries()) {
    const from = index === 0 ? start.column : 0
    const to = index === 0 && end.line === start.line ? end.column : text.length
    const cut = cutLine(text, from, to, width - margin.length - 2)
    const number = String(start.line + index).padStart(gutter)
    lines.push(`${paint('blue', ` ${number} |`)}${cut.text === '' ? '' : ` ${cut.text}`}`)
    if (index > 0) continue
    const carets = '^'.repeat(Math.max(1, cut.markWidth))
    lines.push(`${margin}${paint('blue', '|')} ${' '.repeat(cut.markStart)}${paint('red', carets)}`)
  }
  const isCut = end.line >= start.line + shown.length
  if (isCut) lines.push(`${margin}${paint('blue', '|')} …`)
  return lines
}

/** The part of a line that fits, with the columns of `from` to `to` in it. */
function cutLine(line: string, from: number, to: number, width: number) {
  const windowStart = characterStart(line, from - 4 * width)
  const windowEnd = characterStart(line, Math.min(to, from + width) + 4 * width)
  const cells = displayCells(maskedSlice(line, windowStart, windowEnd))
  const marked = cells.findIndex((cell) => windowStart + cell.offset >= from)
  const before = marked < 0 ? cells.length : marked
  const lead = windowStart > 0 || columnsOf(cells, before) > width / 2 ? leadStart(cells, before, width) : 0
  const isHeadCut = windowStart > 0 || lead > 0
  const parts = isHeadCut ? ['…'] : []
  let used = parts.length
  let markStart = used
  let markEnd = used
  for (let index = lead; index < cells.length; index++) {
    const cell = cells[index]
    if (cell === undefined) break
    const isLast = index === cells.length - 1 && windowEnd === line.length
    if (used + cell.width > width - (isLast ? 0 : 1)) {
      parts.push('…')
      break
    }
    parts.push(cell.text)
    used += cell.width
    if (windowStart + cell.offset < from) markStart = used
    if (windowStart + cell.offset < to) markEnd = used
  }
  return { text: parts.join('').trimEnd(), markStart, markWidth: markEnd - markStart }
}

/** `line.slice(from, to)`; a URL may begin before it or end behind it. */
function maskedSlice(line: string, from: number, to: number): string {
  const start = Math.max(0, from - maxUserInfo)
  return withoutPasswords(line.slice(start, to + maxUserInfo)).slice(from - start, to - start)
}

function columnsOf(cells: readonly DisplayCell[], count: number): number {
  return cells.slice(0, count).reduce((sum, cell) => sum + cell.width, 0)
}

/** The first of the cells that stay in front of the token when the head of the line is cut. */
function leadStart(cells: readonly DisplayCell[], marked: number, width: number): number {
  let first = marked
  for (let kept = 0; first > 0; first--) {
    kept += cells[first - 1]?.width ?? 0
    if (kept > Math.min(leadColumns, width / 2)) break
  }
  return first
}

/** `at` inside the line, moved off the middle of a surrogate pair. */
function characterStart(line: string, at: number): number {
  const inside = Math.min(Math.max(at, 0), line.length)
  const unit = line.charCodeAt(inside)
  return unit >= 0xdc00 && unit <= 0xdfff && inside > 0 ? inside - 1 : inside
}

function safeLines(text: string): string[] {
  return redactUrls(text)
    .split(/\r?\n/)
    .map((line) => displayText(line).trimEnd())
}

/** Unlike `redactUrls` it keeps the length, so that columns stay right. */
function withoutPasswords(text: string): string {
  return text.replace(
    /(:\/\/[^\s/:@]{1,256}:)([^\s/@]{1,1024})(?=@)/g,
    (_, before: string, password: string) => before + '*'.repeat(password.length),
  )
}
