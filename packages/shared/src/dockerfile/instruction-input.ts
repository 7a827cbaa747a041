import { BuilderError } from '../errors/builder-error.js'
import type { ErrorCode } from '../errors/codes.js'
import { suggest } from '../text/suggest.js'
import { quoted, trimSpace } from './go-text.js'
import type { InstructionBase } from './instructions.js'
import { type Escape, type LogicalLine, rangeInLine } from './lexer.js'
import { rangeAt, type SourceFile } from './source-file.js'
import type { Statement } from './statement.js'

/** What the parser of one instruction gets. */
export interface InstructionInput {
  readonly source: SourceFile
  readonly line: LogicalLine
  /** That of the line, or of the trigger inside an ONBUILD. */
  readonly statement: Statement
  /** Upper case. */
  readonly keyword: string
  readonly escape: Escape
}

/** A part of the logical line; a Token will do. */
export interface Span {
  readonly start: number
  readonly end: number
}

export interface FailureOptions {
  readonly code?: ErrorCode
  readonly hint?: string
}

/** An error about `span`; ISB_DOCKERFILE_SYNTAX unless told otherwise. */
export function failure(
  input: InstructionInput,
  span: Span,
  message: string,
  options: FailureOptions = {},
): BuilderError {
  return new BuilderError(options.code ?? 'ISB_DOCKERFILE_SYNTAX', message, {
    source: rangeInLine(input.source, input.line, span.start, span.end),
    ...(options.hint === undefined ? {} : { hint: options.hint }),
  })
}

/** What every node of the line carries. */
export function base(input: InstructionInput): InstructionBase {
  const { source, line } = input
  return { range: rangeAt(source, line.start, line.end), text: trimSpace(line.text) }
}

export type FlagKind = 'boolean' | 'string' | 'strings'

export interface FlagValues {
  /** undefined when the flag is absent. */
  boolean(name: string): boolean | undefined
  /** The value as written; undefined when the flag is absent. */
  string(name: string): string | undefined
  strings(name: string): readonly string[]
  /** Where the flag stands; the keyword when it is absent. */
  span(name: string): Span
}

/**
 * Reads `--name`, `--name=value`. Fails with ISB_UNKNOWN_FLAG, or with ISB_DOCKERFILE_SYNTAX for a flag that
 * comes twice, has no value or is not the boolean it should be.
 */
export function parseFlags(
  input: InstructionInput,
  kinds: Readonly<Record<string, FlagKind>> = {},
): FlagValues {
  const values = new Map<string, string[]>()
  const spans = new Map<string, Span>()
  for (const token of input.statement.flags) {
    const equals = token.text.indexOf('=')
    const flag = equals < 0 ? token.text : token.text.slice(0, equals)
    const name = flag.slice(2)
    const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined
    if (kind === undefined) throw unknownFlag(input, token, flag, Object.keys(kinds))
    const earlier = values.get(name)
    if (earlier !== undefined && kind !== 'strings') {
      throw failure(input, token, `duplicate flag ${flag}`, { hint: 'Remove one of the two.' })
    }
    const value = equals < 0 ? undefined : token.text.slice(equals + 1)
    if (kind === 'boolean') checkBoolean(input, token, flag, value)
    else if (value === undefined) {
      throw failure(input, token, `flag ${flag} has no value`, {
        hint: `Write ${flag}=VALUE, without a blank.`,
      })
    }
    spans.set(name, token)
    if (earlier === undefined) values.set(name, [value ?? 'true'])
    else earlier.push(value ?? '')
  }
  return {
    boolean: (name) => {
      const value = values.get(name)?.[0]
      return value === undefined ? undefined : value.toLowerCase() === 'true'
    },
    string: (name) => values.get(name)?.[0],
    strings: (name) => values.get(name) ?? [],
    span: (name) => spans.get(name) ?? input.statement.keyword,
  }
}

function checkBoolean(input: InstructionInput, span: Span, flag: string, value: string | undefined): void {
  if (value === undefined || /^(true|false)$/i.test(value)) return
  const problem = value === '' ? `flag ${flag} has no value` : `flag ${flag} cannot be ${quoted(value)}`
  throw failure(input, span, problem, { hint: `Write ${flag}, ${flag}=true or ${flag}=false.` })
}

function unknownFlag(
  input: InstructionInput,
  token: Span,
  flag: string,
  known: readonly string[],
): BuilderError {
  const similar = suggest(flag.slice(2), known, { caseSensitive: true })
  const flags = known.map((name) => `--${name}`).join(', ')
  const all = known.length === 0 ? `${input.keyword} takes no flags.` : `${input.keyword} knows ${flags}.`
  return failure(input, token, `unknown flag ${quoted(flag)} for ${input.keyword}`, {
    code: 'ISB_UNKNOWN_FLAG',
    hint: similar === undefined ? all : `Did you mean --${similar}?`,
  })
}
