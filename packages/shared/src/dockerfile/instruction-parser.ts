import { isBuilderError } from '../errors/builder-error.js'
import { suggest } from '../text/suggest.js'
import { parseCmd, parseRun, parseShell } from './command-parser.js'
import { argumentList, parseCopy } from './copy-parser.js'
import { isSeparator, keywordOf, quoted, trimSpace } from './go-text.js'
import { parseHealthcheck } from './healthcheck-parser.js'
import { base, failure, type InstructionInput, parseFlags } from './instruction-input.js'
import type {
  ArgInstruction,
  ExposeInstruction,
  FromInstruction,
  Instruction,
  KeyValue,
  OnbuildInstruction,
  StopsignalInstruction,
  VolumeInstruction,
} from './instructions.js'
import { parsePortRange } from './ports.js'
import { isSignal } from './signals.js'
import { splitQuotedWords, splitStatement, splitWords } from './statement.js'

const parsers: Readonly<Record<string, (input: InstructionInput) => Instruction | FromInstruction>> = {
  ADD: (input) => parseCopy(input, 'add'),
  ARG: parseArg,
  CMD: (input) => parseCmd(input, 'cmd'),
  COPY: (input) => parseCopy(input, 'copy'),
  ENTRYPOINT: (input) => parseCmd(input, 'entrypoint'),
  ENV: (input) => ({ ...base(input), kind: 'env', pairs: keyValues(input) }),
  EXPOSE: parseExpose,
  FROM: parseFrom,
  HEALTHCHECK: parseHealthcheck,
  LABEL: (input) => ({ ...base(input), kind: 'label', pairs: keyValues(input) }),
  MAINTAINER: (input) => ({ ...base(input), kind: 'maintainer', name: singleArgument(input) }),
  ONBUILD: parseTrigger,
  RUN: parseRun,
  SHELL: parseShell,
  STOPSIGNAL: parseStopsignal,
  USER: (input) => ({ ...base(input), kind: 'user', user: singleArgument(input) }),
  VOLUME: parseVolume,
  WORKDIR: (input) => ({ ...base(input), kind: 'workdir', path: singleArgument(input) }),
}

/** Parses one instruction; `keyword` decides. Fails with ISB_UNKNOWN_INSTRUCTION and the syntax codes. */
export function parseInstruction(input: InstructionInput): Instruction | FromInstruction {
  const parser = Object.hasOwn(parsers, input.keyword) ? parsers[input.keyword] : undefined
  if (parser !== undefined) return parser(input)
  const { keyword } = input.statement
  const similar = suggest(keyword.text, Object.keys(parsers))
  throw failure(input, keyword, `unknown instruction ${quoted(keyword.text)}`, {
    code: 'ISB_UNKNOWN_INSTRUCTION',
    hint:
      similar === undefined
        ? `If it belongs to the line above, end that line with ${input.escape}`
        : `Did you mean ${similar}?`,
  })
}

const stageName = /^[a-z0-9][a-z0-9\-_.\\]*$/i
const maxStageName = 64

function parseFrom(input: InstructionInput): FromInstruction {
  const { keyword, rest } = input.statement
  const flags = parseFlags(input, { platform: 'string' })
  const [image, as, name, extra] = splitWords(rest)
  const hint = 'Write FROM IMAGE or FROM IMAGE AS NAME.'
  if (image === undefined) throw failure(input, keyword, 'FROM requires an image', { hint })
  if (as !== undefined && (name === undefined || extra !== undefined || as.text.toLowerCase() !== 'as')) {
    throw failure(input, { start: as.start, end: rest.end }, 'FROM requires one or three arguments', { hint })
  }
  if (name !== undefined && (!stageName.test(name.text) || name.text.length > maxStageName)) {
    throw failure(input, name, `invalid stage name ${quoted(name.text)}`, {
      hint: 'Up to 64 letters, digits and - _ . with a letter or digit first.',
    })
  }
  return {
    ...base(input),
    kind: 'from',
    image: image.text,
    platform: flags.string('platform') || undefined,
    name: name?.text,
  }
}

function parseArg(input: InstructionInput): ArgInstruction {
  parseFlags(input)
  const words = splitQuotedWords(input.statement.rest, input.escape)
  if (words.length === 0) throw noArguments(input)
  const args = words.map((word) => {
    const equals = word.text.indexOf('=')
    if (equals === 0) throw failure(input, word, 'ARG has a blank name', { hint: 'Write ARG NAME=VALUE.' })
    return equals < 0
      ? { key: word.text, value: undefined }
      : { key: word.text.slice(0, equals), value: word.text.slice(equals + 1) }
  })
  return { ...base(input), kind: 'arg', args }
}

/** The pairs of ENV and LABEL: `key=value …`, or the old `key rest of the line`. */
function keyValues(input: InstructionInput): KeyValue[] {
  parseFlags(input)
  const { keyword, statement } = input
  const words = splitQuotedWords(statement.rest, input.escape)
  const [first] = words
  if (first === undefined) throw noArguments(input)
  if (!first.text.includes('=')) return [spacedPair(input)]
  return words.map((word) => {
    const equals = word.text.indexOf('=')
    if (equals > 0) return { key: word.text.slice(0, equals), value: word.text.slice(equals + 1) }
    throw equals === 0
      ? failure(input, word, `${keyword} has a blank name`, { hint: `Write ${keyword} NAME=VALUE.` })
      : failure(input, word, `${keyword} has no = in ${quoted(word.text)}`, {
          hint: 'Write NAME=VALUE; quote a value with blanks.',
        })
  })
}

function spacedPair(input: InstructionInput): KeyValue {
  const { rest } = input.statement
  let keyEnd = 0
  while (keyEnd < rest.text.length && !isSeparator(rest.text.charCodeAt(keyEnd))) keyEnd++
  let valueStart = keyEnd
  while (valueStart < rest.text.length && isSeparator(rest.text.charCodeAt(valueStart))) valueStart++
  if (valueStart === keyEnd) {
    throw failure(input, rest, `${input.keyword} ${quoted(rest.text)} has no value`, {
      hint: `Write ${input.keyword} NAME=VALUE.`,
    })
  }
  return { key: rest.text.slice(0, keyEnd), value: rest.text.slice(valueStart), noDelimiter: true }
}

/** Ports come sorted, as BuildKit keeps them; only those that hold nothing to expand can be checked here. */
function parseExpose(input: InstructionInput): ExposeInstruction {
  parseFlags(input)
  const words = splitWords(input.statement.rest)
  if (words.length === 0) throw noArguments(input)
  for (const word of words) {
    if (!isLiteral(input, word.text)) continue
    try {
      parsePortRange(word.text)
    } catch (error) {
      if (!isBuilderError(error)) throw error
      throw failure(input, word, error.message, error.hint === undefined ? {} : { hint: error.hint })
    }
  }
  const ports = words
    .map((word) => word.text)
    .sort((left, right) => (left < right ? -1 : left > right ? 1 : 0))
  return { ...base(input), kind: 'expose', ports }
}

function parseVolume(input: InstructionInput): VolumeInstruction {
  parseFlags(input)
  const { rest } = input.statement
  const paths = argumentList(input).map(trimSpace)
  if (paths.length === 0) throw noArguments(input)
  if (paths.includes('')) {
    throw failure(input, rest, 'VOLUME has an empty path', { hint: 'Name a directory.' })
  }
  return { ...base(input), kind: 'volume', paths }
}

function parseStopsignal(input: InstructionInput): StopsignalInstruction {
  const signal = singleArgument(input)
  if (isLiteral(input, signal) && !isSignal(signal)) {
    throw failure(input, input.statement.rest, `STOPSIGNAL: ${quoted(signal)} is no signal`, {
      hint: 'Write a name such as SIGTERM or a number from 1 to 64.',
    })
  }
  return { ...base(input), kind: 'stopsignal', signal }
}

const forbiddenTriggers = new Set(['ONBUILD', 'FROM', 'MAINTAINER'])

/** The trigger is parsed as well, so that its errors appear where it is written and not where it runs. */
function parseTrigger(input: InstructionInput): OnbuildInstruction {
  parseFlags(input)
  const { rest } = input.statement
  const { line } = input
  if (rest.text === '') throw noArguments(input)
  const statement = splitStatement(line.text, rest.start, input.escape)
  checkTrigger({ ...input, statement, keyword: keywordOf(statement.keyword.text) })

  const bodies = line.heredocs.map(({ content, name }) => `\n${content}${name}`)
  return { ...base(input), kind: 'onbuild', expression: line.text.slice(rest.start) + bodies.join('') }
}

/** Fails when the instruction may not be a trigger, or is wrong in itself. */
export function checkTrigger(input: InstructionInput): Instruction {
  if (forbiddenTriggers.has(input.keyword)) {
    throw failure(input, input.statement.keyword, `${input.keyword} is not allowed as an ONBUILD trigger`, {
      hint: 'A trigger is any instruction but FROM, MAINTAINER and ONBUILD.',
    })
  }
  const instruction = parseInstruction(input)
  if (instruction.kind === 'from') throw new Error('FROM passed as a trigger')
  return instruction
}

function singleArgument(input: InstructionInput): string {
  parseFlags(input)
  const { keyword, rest } = input.statement
  if (rest.text !== '') return rest.text
  throw failure(input, keyword, `${input.keyword} requires exactly one argument`, {
    hint: `Write the argument behind ${input.keyword}.`,
  })
}

function noArguments(input: InstructionInput) {
  return failure(input, input.statement.keyword, `${input.keyword} requires at least one argument`, {
    hint: `Write the arguments behind ${input.keyword}.`,
  })
}

function isLiteral(input: InstructionInput, text: string): boolean {
  return !/[$'"]/.test(text) && !text.includes(input.escape)
}
