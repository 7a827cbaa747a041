import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { describe, expect, test } from 'vitest'
import type { Command, Flag } from './command.js'
import { flagsOf, type Parsed, parseCommandLine } from './parse.js'
import { program } from './tree.js'

const parse = (...argv: readonly string[]): Parsed => parseCommandLine(program, argv)
const build = (...argv: readonly string[]) => parse('ctr-img', 'build', ...argv).invocation

function failure(...argv: readonly string[]): { message: string; hint: string | undefined } {
  try {
    parse(...argv)
  } catch (error) {
    if (isBuilderError(error, 'ISB_ARGUMENT_INVALID')) return { message: error.message, hint: error.hint }
    throw error
  }
  throw new Error('nothing failed')
}

/** Every command with its path, from the tree itself. */
function commands(
  command: Command = program,
  path: readonly Command[] = [],
): readonly (readonly Command[])[] {
  const own = [...path, command]
  return [own, ...(command.commands ?? []).flatMap((child) => commands(child, own))]
}

const cases = commands().flatMap((path) =>
  flagsOf(path).map((flag): [string, readonly Command[], Flag] => [
    [...path.map(({ name }) => name), `--${flag.name}`].join(' '),
    path,
    flag,
  ]),
)

describe('every flag of every command', () => {
  test.each(cases)('%s is read in each of its forms', (_name, path, flag) => {
    const words = path.slice(1).map(({ name }) => name)
    const value = flag.type === 'bool' ? 'false' : 'some=value, with blanks'
    const forms = [
      [`--${flag.name}=${value}`],
      ...(flag.short === undefined ? [] : [[`-${flag.short}=${value}`]]),
    ]
    if (flag.type !== 'bool' && flag.bare === undefined) {
      forms.push([`--${flag.name}`, value])
      if (flag.short !== undefined) forms.push([`-${flag.short}`, value], [`-${flag.short}${value}`])
    }
    for (const form of forms) {
      const { flags } = parse(...words, ...form).invocation
      expect(flags.has(flag.name)).toBe(true)
      if (flag.type === 'bool') expect(flags.bool(flag.name)).toBe(false)
      else if (flag.type === 'string') expect(flags.string(flag.name)).toBe(value)
      else expect(flags.strings(flag.name)).toEqual([value])
    }
  })

  test.each(cases)(
    '%s without a value or with a wrong one is refused, or means what it says',
    (_name, path, flag) => {
      const names = path.map(({ name }) => name)
      const see = `See '${names.join(' ')} --help'.`
      if (flag.type === 'bool') {
        expect(failure(...names.slice(1), `--${flag.name}=perhaps`).message).toBe(
          `invalid argument "perhaps" for "--${flag.name}" flag: true or false expected\n${see}`,
        )
        return
      }
      if (flag.bare !== undefined) {
        const { flags, args } = parse(...names.slice(1), `--${flag.name}`, 'next').invocation
        expect([flags.string(flag.name), args]).toEqual([flag.bare, ['next']])
        return
      }
      expect(failure(...names.slice(1), `--${flag.name}`).message).toBe(
        `flag needs an argument: --${flag.name}\n${see}`,
      )
      if (flag.short === undefined) return
      expect(failure(...names.slice(1), `-${flag.short}`).message).toBe(
        `flag needs an argument: '${flag.short}' in -${flag.short}\n${see}`,
      )
    },
  )

  test('no two flags of a command share a name or a letter', () => {
    for (const path of commands()) {
      const keys = flagsOf(path).flatMap(({ name, short }) => [name, ...(short === undefined ? [] : [short])])
      expect(new Set(keys).size).toBe(keys.length)
    }
  })
})

test('defaults are those of the original', () => {
  const { flags, args } = build()
  expect(args).toEqual([])
  expect(flags.bool('proxy')).toBe(true)
  expect(flags.string('format')).toBe('docker')
  expect(flags.string('timeout')).toBe('20s')
  expect(flags.string('log-level')).toBe('error')
  expect(flags.string('filename')).toBe('')
  expect(flags.string('pull')).toBe('missing')
  expect(flags.strings('tag')).toEqual([])
  expect(flags.has('proxy')).toBe(false)
})

test('flags stand before and behind arguments, several times, and end at --', () => {
  const { flags, args } = build('-t', 'a', 'dir', '--tag=b', '-tc', '--', '-t', 'd')
  expect(flags.strings('tag')).toEqual(['a', 'b', 'c'])
  expect(args).toEqual(['dir', '-t', 'd'])
})

test('the last value of a single flag counts', () => {
  expect(build('-f', 'one', '-f', 'two').flags.string('filename')).toBe('two')
  expect(build('-q', '-q=false').flags.bool('quiet')).toBe(false)
})

test('short flags are combined, the last one takes the rest', () => {
  const { flags } = build('-qDtname', '.')
  expect([flags.bool('quiet'), flags.bool('debug'), flags.strings('tag')]).toEqual([true, true, ['name']])
})

test('a lone dash and an empty word are arguments', () => {
  expect(build('-', '').args).toEqual(['-', ''])
  expect(build('-f', '-').flags.string('filename')).toBe('-')
})

test('an empty value is a value', () => {
  const { flags } = build('--target=', '-f', '')
  expect(flags.has('target')).toBe(true)
  expect(flags.string('filename')).toBe('')
})

test('a name of a command behind an argument is an argument', () => {
  const { path, invocation } = parse('ctr-img', 'rm', 'images', 'rm')
  expect(path.map(({ name }) => name)).toEqual(['isula-build', 'ctr-img', 'rm'])
  expect(invocation.args).toEqual(['images', 'rm'])
})

test('global flags work in front of the command', () => {
  const { command, invocation } = parse('--timeout', '5s', '-D', 'info', '-H')
  expect(command.name).toBe('info')
  expect(invocation.flags.string('timeout')).toBe('5s')
  expect(invocation.flags.bool('human-readable')).toBe(true)
})

test('unknown flags are told with where help is, and with what was meant', () => {
  expect(failure('ctr-img', 'build', '--nope')).toEqual({
    message: "unknown flag: --nope\nSee 'isula-build ctr-img build --help'.",
    hint: undefined,
  })
  expect(failure('ctr-img', 'build', '--no-cahe', '.').hint).toBe('Did you mean --no-cache?')
  expect(failure('ctr-img', 'build', '-qx')).toEqual({
    message: "unknown shorthand flag: 'x' in -qx\nSee 'isula-build ctr-img build --help'.",
    hint: undefined,
  })
  expect(failure('--__proto__').message).toContain('unknown flag: --__proto__')
  expect(failure('info', '-H=constructor').message).toContain('invalid argument "constructor"')
  expect(failure('ctr-img', 'images', '--all').message).toContain('unknown flag: --all')
})

test.each(['1', 't', 'T', 'TRUE', 'true', 'True'])('%s is true', (text) => {
  expect(build(`--proxy=${text}`).flags.bool('proxy')).toBe(true)
})

test.each(['0', 'f', 'F', 'FALSE', 'false', 'False'])('%s is false', (text) => {
  expect(build(`--proxy=${text}`).flags.bool('proxy')).toBe(false)
})
