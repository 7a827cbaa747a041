import { parseCommand } from './command-parser.js'
import { parseGoDuration } from './go-duration.js'
import { isSpace, quoted, skipSpaces } from './go-text.js'
import {
  base,
  type FlagKind,
  type FlagValues,
  failure,
  type InstructionInput,
  parseFlags,
} from './instruction-input.js'
import type { HealthcheckInstruction } from './instructions.js'
import type { Token } from './statement.js'

const healthcheckFlags: Readonly<Record<string, FlagKind>> = {
  interval: 'string',
  timeout: 'string',
  'start-period': 'string',
  'start-interval': 'string',
  retries: 'string',
}
const millisecond = 1_000_000

/** HEALTHCHECK. A duration or number of 0 means the default and is undefined in the node. */
export function parseHealthcheck(input: InstructionInput): HealthcheckInstruction {
  const { keyword, rest } = input.statement
  if (rest.text === '') {
    throw failure(input, keyword, 'HEALTHCHECK requires at least one argument', {
      hint: 'Write HEALTHCHECK CMD … or HEALTHCHECK NONE.',
    })
  }
  const flags = parseFlags(input, healthcheckFlags)
  return {
    ...base(input),
    kind: 'healthcheck',
    test: parseTest(input),
    interval: duration(input, flags, 'interval'),
    timeout: duration(input, flags, 'timeout'),
    startPeriod: duration(input, flags, 'start-period'),
    startInterval: duration(input, flags, 'start-interval'),
    retries: retries(input, flags),
  }
}

function parseTest(input: InstructionInput): HealthcheckInstruction['test'] {
  const { rest } = input.statement
  let wordEnd = 0
  while (wordEnd < rest.text.length && !isSpace(rest.text.charCodeAt(wordEnd))) wordEnd++
  const word = { text: rest.text.slice(0, wordEnd), start: rest.start, end: rest.start + wordEnd }
  const commandAt = skipSpaces(rest.text, wordEnd)
  const command: Token = { text: rest.text.slice(commandAt), start: rest.start + commandAt, end: rest.end }
  switch (word.text.toUpperCase()) {
    case 'NONE':
      if (command.text === '') return { none: true }
      throw failure(input, command, 'HEALTHCHECK NONE takes no arguments', {
        hint: 'Remove what follows NONE.',
      })
    case 'CMD': {
      const parsed = parseCommand(input, command)
      const isEmpty = parsed.form === 'exec' ? parsed.args.length === 0 : parsed.line === ''
      if (!isEmpty) return { none: false, command: parsed }
      throw failure(input, word, 'HEALTHCHECK CMD has no command', { hint: 'Write HEALTHCHECK CMD COMMAND.' })
    }
    default:
      throw failure(input, word, `unknown type ${quoted(word.text)} of HEALTHCHECK`, {
        hint: 'Write HEALTHCHECK CMD … or HEALTHCHECK NONE.',
      })
  }
}

function duration(input: InstructionInput, flags: FlagValues, name: string): number | undefined {
  const text = flags.string(name) ?? ''
  if (text === '') return undefined
  const value = parseGoDuration(text)
  if (value === undefined) {
    throw failure(input, flags.span(name), `--${name}: ${quoted(text)} is no duration`, {
      hint: 'Write a number with a unit: 500ms, 30s, 1m30s.',
    })
  }
  if (value !== 0 && value < millisecond) {
    throw failure(input, flags.span(name), `--${name}: ${quoted(text)} is less than 1ms`, {
      hint: 'Write 1ms or more, or 0 for the default.',
    })
  }
  return value === 0 ? undefined : value
}

function retries(input: InstructionInput, flags: FlagValues): number | undefined {
  const text = flags.string('retries') ?? ''
  if (text === '') return undefined
  const value = /^[+-]?\d{1,20}$/.test(text) ? Number(text) : Number.NaN
  if (value >= 0 && value < 2 ** 31) return value === 0 ? undefined : value
  const problem = value < 0 ? 'is negative' : 'is no number of retries'
  throw failure(input, flags.span('retries'), `--retries: ${quoted(text)} ${problem}`, {
    hint: 'Write a whole number.',
  })
}
