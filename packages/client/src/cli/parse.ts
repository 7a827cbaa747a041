import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { suggest } from '@isula-build/shared/text/suggest.js'
import { type Command, type Flag, type FlagReader, globalFlags, type Invocation } from './command.js'

export interface Parsed {
  /** From the program to the command that was named. */
  readonly path: readonly Command[]
  readonly command: Command
  readonly invocation: Invocation
}

type Values = Map<string, boolean | string | string[]>

/** A mistake on the command line: what is wrong, then where help is. */
export class UsageError extends BuilderError {
  constructor(message: string, path: readonly Command[], hint?: string) {
    const details = hint === undefined ? {} : { hint }
    super('ISB_ARGUMENT_INVALID', `${message}\nSee '${pathText(path)} --help'.`, details)
  }
}

export function pathText(path: readonly Command[]): string {
  return path.map((command) => command.name).join(' ')
}

/** Flags may stand anywhere; `--` ends them. Fails with UsageError. */
export function parseCommandLine(program: Command, argv: readonly string[]): Parsed {
  const path = [program]
  const values: Values = new Map()
  const args: string[] = []
  let command = program
  let onlyArgs = false
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] ?? ''
    if (onlyArgs || word === '-' || !word.startsWith('-')) {
      const child = args.length === 0 && !onlyArgs ? find(command, word) : undefined
      if (child !== undefined) {
        command = child
        path.push(child)
      } else args.push(word)
    } else if (word === '--') onlyArgs = true
    else if (word.startsWith('--')) i += longFlag(path, values, word, argv[i + 1])
    else i += shortFlags(path, values, word, argv[i + 1])
  }
  return { path, command, invocation: { args, flags: reader(path, values) } }
}

function find(command: Command, word: string): Command | undefined {
  return command.commands?.find(({ name }) => name === word)
}

export function flagsOf(path: readonly Command[]): readonly Flag[] {
  return [...path.flatMap((command) => command.flags ?? []), ...globalFlags]
}

function visible(flags: readonly Flag[]): readonly string[] {
  return flags.filter(({ hidden }) => hidden !== true).map(({ name }) => name)
}

/** Gives back how many further words it took. */
function longFlag(path: readonly Command[], values: Values, word: string, next: string | undefined): number {
  const equals = word.indexOf('=')
  const name = equals === -1 ? word.slice(2) : word.slice(2, equals)
  const flag = flagsOf(path).find((known) => known.name === name)
  if (flag === undefined) {
    const names = visible(flagsOf(path))
    const meant = suggest(name, names) ?? names.find((known) => known.startsWith(`${name}-`))
    const hint = meant === undefined ? undefined : `Did you mean --${meant}?`
    throw new UsageError(`unknown flag: --${name}`, path, hint)
  }
  if (equals !== -1) {
    put(path, values, flag, word.slice(equals + 1))
    return 0
  }
  return valueOrNext(path, values, flag, next, `--${name}`)
}

function shortFlags(
  path: readonly Command[],
  values: Values,
  word: string,
  next: string | undefined,
): number {
  for (let at = 1; at < word.length; at++) {
    const short = word[at] ?? ''
    const flag = flagsOf(path).find((known) => known.short === short)
    if (flag === undefined) throw new UsageError(`unknown shorthand flag: '${short}' in ${word}`, path)
    const rest = word.slice(at + 1)
    if (flag.type === 'bool' && !rest.startsWith('=')) values.set(flag.name, true)
    else if (rest !== '') {
      put(path, values, flag, rest.replace(/^=/, ''))
      return 0
    } else return valueOrNext(path, values, flag, next, `'${short}' in ${word}`)
  }
  return 0
}

function valueOrNext(
  path: readonly Command[],
  values: Values,
  flag: Flag,
  next: string | undefined,
  shown: string,
): number {
  if (flag.type === 'bool') {
    values.set(flag.name, true)
    return 0
  }
  if (flag.bare !== undefined) {
    put(path, values, flag, flag.bare)
    return 0
  }
  if (next === undefined) throw new UsageError(`flag needs an argument: ${shown}`, path)
  put(path, values, flag, next)
  return 1
}

/** What Go's strconv.ParseBool accepts. */
const booleans: Readonly<Record<string, boolean>> = {
  ...{ '1': true, t: true, T: true, TRUE: true, true: true, True: true },
  ...{ '0': false, f: false, F: false, FALSE: false, false: false, False: false },
}

function put(path: readonly Command[], values: Values, flag: Flag, text: string): void {
  if (flag.type === 'strings') {
    const list = values.get(flag.name)
    if (Array.isArray(list)) list.push(text)
    else values.set(flag.name, [text])
  } else if (flag.type === 'string') values.set(flag.name, text)
  else {
    const value = Object.hasOwn(booleans, text) ? booleans[text] : undefined
    if (value === undefined) {
      throw new UsageError(
        `invalid argument ${JSON.stringify(text)} for "--${flag.name}" flag: true or false expected`,
        path,
      )
    }
    values.set(flag.name, value)
  }
}

function reader(path: readonly Command[], values: Values): FlagReader {
  const known = new Map(flagsOf(path).map((flag) => [flag.name, flag]))
  const get = (name: string): boolean | string | string[] | undefined => {
    const flag = known.get(name)
    if (flag === undefined) throw new Error(`no flag --${name}`)
    return values.get(name) ?? flag.default
  }
  return {
    bool: (name) => get(name) === true,
    string: (name) => {
      const value = get(name)
      return typeof value === 'string' ? value : ''
    },
    strings: (name) => {
      const value = get(name)
      return Array.isArray(value) ? value : []
    },
    has: (name) => values.has(name),
  }
}
