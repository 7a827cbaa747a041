/** 1-based line, 0-based column in UTF-16 units of that line. */
export interface Position {
  readonly line: number
  readonly column: number
}

/** Half-open range inside one source text. */
export interface Range {
  readonly start: Position
  readonly end: Position
}

/**
 * A range that can be shown without the file at hand: it carries the text of the lines it touches
 * (at most the first 20), so that an error can cross the wire and still be drawn with a caret.
 */
export interface SourceRange extends Range {
  readonly file: string
  readonly lines: readonly string[]
}
