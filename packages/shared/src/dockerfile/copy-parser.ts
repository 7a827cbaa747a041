import { isBuilderError } from '../errors/builder-error.js'
import { quoted } from './go-text.js'
import { type HeredocWord, parseHeredocWord } from './heredoc.js'
import { base, type FlagKind, failure, type InstructionInput, parseFlags } from './instruction-input.js'
import type { CopyInstruction, Heredoc } from './instructions.js'
import { stringArray } from './json-array.js'
import { splitWords } from './statement.js'

const copyFlags: Readonly<Record<string, FlagKind>> = {
  from: 'string',
  chown: 'string',
  chmod: 'string',
  link: 'boolean',
  parents: 'boolean',
  exclude: 'strings',
}
const addFlags: Readonly<Record<string, FlagKind>> = {
  chown: 'string',
  chmod: 'string',
  link: 'boolean',
  exclude: 'strings',
  checksum: 'string',
  'keep-git-dir': 'boolean',
  unpack: 'boolean',
}

/** COPY and ADD. An empty value of --from, --chown, --chmod or --checksum counts as none. */
export function parseCopy(input: InstructionInput, kind: 'copy' | 'add'): CopyInstruction {
  const flags = parseFlags(input, kind === 'copy' ? copyFlags : addFlags)
  const words = argumentList(input)
  const destination = words.at(-1)
  if (destination === undefined || words.length < 2) {
    throw failure(
      input,
      input.statement.keyword,
      `${input.keyword} needs at least one source and a destination`,
      {
        hint: `Write ${input.keyword} SOURCE DESTINATION.`,
      },
    )
  }
  const { rest } = input.statement
  if (heredocWord(destination) !== undefined) {
    throw failure(input, rest, `the destination of ${input.keyword} cannot be a here-document`, {
      hint: 'Write the destination behind it.',
    })
  }

  const sources: string[] = []
  const heredocs: Heredoc[] = []
  // The last of a name counts.
  const bodies = new Map(input.line.heredocs.map((heredoc) => [heredoc.name, heredoc]))
  for (const source of words.slice(0, -1)) {
    const name = heredocWord(source)?.name
    if (name === undefined) {
      sources.push(source)
      continue
    }
    const heredoc = bodies.get(name)
    if (heredoc === undefined) {
      throw failure(input, rest, `the here-document ${quoted(name)} has no body`, {
        hint: 'Close every quote on the line.',
      })
    }
    heredocs.push(heredoc)
  }
  const used = new Set(heredocs.map(({ name }) => name))
  const unused = input.line.heredocs.find(({ name }) => !used.has(name))
  if (unused !== undefined) {
    throw failure(
      input,
      rest,
      `the here-document ${quoted(unused.name)} is not a source of ${input.keyword}`,
      {
        hint: 'Write << and its delimiter without blanks.',
      },
    )
  }

  return {
    ...base(input),
    kind,
    sources,
    heredocs,
    destination,
    from: flags.string('from') || undefined,
    chown: flags.string('chown') || undefined,
    chmod: flags.string('chmod') || undefined,
    link: flags.boolean('link') ?? false,
    parents: flags.boolean('parents') ?? false,
    excludes: flags.strings('exclude'),
    checksum: flags.string('checksum') || undefined,
    keepGitDir: flags.boolean('keep-git-dir') ?? false,
    unpack: flags.boolean('unpack'),
  }
}

/** The arguments of an instruction that takes a JSON array or words between blanks. */
export function argumentList(input: InstructionInput): readonly string[] {
  const { rest } = input.statement
  const strings = stringArray(rest.text)
  if (strings === undefined) return splitWords(rest).map((word) => word.text)
  if (strings === 'no-strings') throw notStrings(input)
  const nul = strings.find((value) => value.includes('\0'))
  if (nul === undefined) return strings
  throw failure(input, rest, `${quoted(nul)} contains a NUL character`, { hint: 'Remove \\u0000.' })
}

export function notStrings(input: InstructionInput) {
  return failure(input, input.statement.rest, `the JSON array of ${input.keyword} holds more than strings`, {
    hint: 'Write every element in double quotes.',
  })
}

/** A word that only looks like a here-document, an unclosed quote in it, is a path. */
function heredocWord(word: string): HeredocWord | undefined {
  try {
    return parseHeredocWord(word)
  } catch (error) {
    if (isBuilderError(error, 'ISB_DOCKERFILE_SYNTAX')) return undefined
    throw error
  }
}
