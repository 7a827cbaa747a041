import { isBuilderError } from '../errors/builder-error.js'
import { stringArray } from './json-array.js'
import { type Statement, splitStatement } from './statement.js'
import { processWords } from './words.js'

/** A here-document as announced by its word, before its body is read. */
export interface HeredocWord {
  /** The delimiter, without quotes. */
  readonly name: string
  /** False when part of the delimiter is quoted. */
  readonly expand: boolean
  /** `<<-` */
  readonly chomp: boolean
  /** The word as written, a file descriptor number in front included. */
  readonly original: string
}

const nothingSet = { get: () => undefined }
const keywords = new Set(['run', 'copy', 'add'])

/**
 * Reads a word such as `<<EOF`, `3<<-'EOF'` or `<< "EOF"`; undefined when it is none. Fails with
 * ISB_DOCKERFILE_SYNTAX when a quote of the delimiter is not closed.
 */
export function parseHeredocWord(word: string): HeredocWord | undefined {
  const match = /^\d*<<(-?)[\t\n\f\r ]*([^<]*)$/.exec(word)
  const delimiter = match?.[2] ?? ''
  if (match === null || delimiter === '') return undefined
  const names = processWords(delimiter, nothingSet, { keepUnset: true })
  const [name] = names
  if (name === undefined || names.length !== 1) return undefined
  const [raw = ''] = processWords(delimiter, nothingSet, { keepUnset: true, rawQuotes: true })
  return { name, expand: quotes(raw) === quotes(name), chomp: match[1] === '-', original: word }
}

/** The here-documents that a RUN, COPY or ADD, or an ONBUILD of one, announces; exec forms have none. */
export function heredocWords(
  line: string,
  statement: Statement,
  escapeToken: string,
): readonly HeredocWord[] {
  if (!line.includes('<<')) return []
  const isOnbuild = statement.keyword.text.toLowerCase() === 'onbuild'
  const inner = isOnbuild ? splitStatement(line, statement.rest.start, escapeToken) : statement
  if (!keywords.has(inner.keyword.text.toLowerCase())) return []
  if (stringArray(inner.rest.text) !== undefined) return []

  const found: HeredocWord[] = []
  for (const word of rawWords(line)) {
    const heredoc = parseHeredocWord(word)
    if (heredoc !== undefined) found.push(heredoc)
  }
  return found
}

/**
 * A line that is no sequence of words, such as one with a lone apostrophe, announces nothing: it is left to
 * the shell of the RUN, which may know more syntax than the builder.
 */
function rawWords(line: string): readonly string[] {
  try {
    return processWords(line, nothingSet, { keepUnset: true, rawQuotes: true, rawEscapes: true })
  } catch (error) {
    if (isBuilderError(error, 'ISB_DOCKERFILE_SYNTAX')) return []
    throw error
  }
}

function quotes(text: string): number {
  return text.replace(/[^'"]/g, '').length
}
