// biome-ignore-all lint/suspicious/noTemplateCurlyInString: shell variables, not template strings
import { describe, expect, test } from 'vitest'
import { processorTime } from '../../../../test/support/processor-time.js'
import { isBuilderError } from '../errors/builder-error.js'
import { expandHeredoc, processWord, processWords } from './words.js'

const env = new Map([
  ['HOME', '/root'],
  ['EMPTY', ''],
  ['PATHS', '/a/b:/c/d'],
  ['FILE', 'dir/archive.tar.gz'],
  ['STARS', 'x**y?'],
  ['WORDS', '  two  words '],
  ['名', 'ネ'],
  ['LINES', 'one\ntwo'],
])
const expand = (word: string) => processWord(word, env).result

describe('processWord', () => {
  test.each([
    ['plain', 'plain'],
    ['two  words', 'two  words'],
    ["'$HOME'", '$HOME'],
    ['"$HOME"', '/root'],
    [`"it's"`, "it's"],
    [`'say "hi"'`, 'say "hi"'],
    [`a'b'"c"d`, 'abcd'],
    ['\\$HOME', '$HOME'],
    ['"\\$HOME"', '$HOME'],
    ["'\\$HOME'", '\\$HOME'],
    ['a\\tb', 'atb'],
    ['"a\\tb"', 'a\\tb'],
    ['"a\\\\tb"', 'a\\tb'],
    ['\\\\$HOME', '\\/root'],
    ['end\\', 'end'],
    ['$HOME.x', '/root.x'],
    ['$HOMEx', ''],
    ['${HOME}x', '/rootx'],
    ['$NOPE', ''],
    ['$', '$'],
    ['a$ b', 'a$ b'],
    ['$.', '$.'],
    ['$$', ''],
    ['$1x', 'x'],
    ['$12x', 'x'],
    ['${1:-first}', 'first'],
    ['${@:-all}', 'all'],
    ['$名', 'ネ'],
    ['\\${HOME}', '${HOME}'],
    ['a<b <<c', 'a<b <<c'],
  ])('%s becomes %s', (word, result) => {
    expect(expand(word)).toBe(result)
  })

  test.each([
    ['${NOPE:-w}', 'w'],
    ['${EMPTY:-w}', 'w'],
    ['${EMPTY-w}', ''],
    ['${HOME:-w}', '/root'],
    ['${NOPE:+w}', ''],
    ['${EMPTY:+w}', ''],
    ['${EMPTY+w}', 'w'],
    ['${HOME+w}', 'w'],
    ['${HOME:?w}', '/root'],
    ['${EMPTY?w}', ''],
    ['${NOPE:-${ALSO:-$HOME}}', '/root'],
    ['${NOPE:-a b {c}', 'a b {c'],
    ['${NOPE:-\\}}', '}'],
    [`\${NOPE:-'}'}`, '}'],
    ['${NOPE}}', '}'],
    ['"${NOPE:-"in"}"', 'in'],
    ['${FILE#*/}', 'archive.tar.gz'],
    ['${FILE%.*}', 'dir/archive.tar'],
    ['${FILE%%.*}', 'dir/archive'],
    ['${PATHS#*/}', 'a/b:/c/d'],
    ['${PATHS##*/}', 'd'],
    ['${PATHS%/*}', '/a/b:/c'],
    ['${PATHS%%:*}', '/a/b'],
    ['${STARS#x\\*}', '*y?'],
    ['${STARS%\\?}', 'x**y'],
    ['${STARS%?}', 'x**y'],
    ['${STARS##*\\*}', 'y?'],
    ['${FILE#nope}', 'dir/archive.tar.gz'],
    ['${NOPE#x}', ''],
    ['${LINES#*w}', 'one\ntwo'],
    ['${PATHS/\\//-}', '-a/b:/c/d'],
    ['${PATHS//\\//-}', '-a-b:-c-d'],
    ['${FILE/a*r/X}', 'dir/X.gz'],
    ['${FILE//[/X}', 'dir/archive.tar.gz'],
    ['${FILE//r?/_}', 'di_a_hive.ta_gz'],
    ['${FILE/$NOPE/+}', '+dir/archive.tar.gz'],
    ['${WORDS// /}', 'twowords'],
    ['${HOME//o/$1}', '/rt'],
    ['${名/ネ/コ}', 'コ'],
  ])('applies the modifier in %s', (word, result) => {
    expect(expand(word)).toBe(result)
  })

  test('replaces an empty pattern between all characters', () => {
    expect(expand('${HOME//$EMPTY/-}')).toBe('-/-r-o-o-t-')
  })

  test.each([
    ["it's", /missing closing '/],
    ['"open', /missing closing "/],
    ['"open\\"', /missing closing "/],
    ['${HOME', /missing "}"/],
    ['${', /missing "}"/],
    ['${}', /bad substitution/],
    ['${{x}', /bad substitution/],
    ['${:-x}', /bad substitution/],
    ['${.}', /unsupported modifier "\."/],
    ['${HOME:=x}', /unsupported modifier ":="/],
    ['${HOME^^}', /unsupported modifier "\^"/],
    ['${HOME:#x}', /unsupported modifier ":#"/],
    ['${HOME:x}', /unsupported modifier ":x"/],
    ['${HOME//x}', /missing "\/"/],
    ['${HOME/x/y', /missing "}"/],
    ['${HOME#\\x}', /invalid escape/],
    ['${NOPE?}', /^NOPE: is not allowed to be unset$/],
    ['${EMPTY:?}', /^EMPTY: is not allowed to be empty$/],
    ['${NOPE:?set it to $HOME}', /^NOPE: set it to \/root$/],
  ])('rejects %s', (word, message) => {
    const error = failureOf(() => expand(word))
    expect(isBuilderError(error, 'ISB_DOCKERFILE_SYNTAX')).toBe(true)
    expect(error).toHaveProperty('message', expect.stringMatching(message))
  })

  test('uses another escape character', () => {
    expect(processWord('C:\\x`$HOME "`""', env, { escape: '`' }).result).toBe('C:\\x$HOME "')
  })

  test('tells which names were set', () => {
    const { matched, unmatched } = processWord('$HOME ${NOPE:-$ALSO} ${EMPTY}', env)
    expect([...matched]).toEqual(['HOME', 'EMPTY'])
    expect([...unmatched]).toEqual(['ALSO', 'NOPE'])
  })

  test('keeps unset references, quotes and escapes when asked', () => {
    const options = { keepUnset: true, rawQuotes: true, rawEscapes: true }
    const word = `$NOPE \${NOPE:-"x"} '$HOME' \\$HOME \${NOPE//a/b}`
    expect(processWord(word, env, options).result).toBe(word)
    expect(processWord('$HOME', env, options).result).toBe('/root')
  })

  test('limits nesting and size instead of running out of stack and memory', () => {
    const nested = `${'${A:-'.repeat(5000)}x${'}'.repeat(5000)}`
    expect(() => expand(nested)).toThrow(/nested more than 100 deep/)
    expect(expand(`${'${A:-'.repeat(99)}x${'}'.repeat(99)}`)).toBe('x')
    const bomb = new Map([['A', 'x'.repeat(1024)]])
    const explode = () => {
      for (let round = 0; round < 40; round++) bomb.set('A', processWord('$A$A', bomb).result)
    }
    expect(isBuilderError(failureOf(explode), 'ISB_LIMIT_EXCEEDED')).toBe(true)
  })

  test('matches hostile patterns in linear time', () => {
    const value = new Map([['V', 'a'.repeat(20_000)]])
    const start = processorTime()
    expect(processWord(`\${V##${'*a'.repeat(500)}b}`, value).result).toHaveLength(20_000)
    expect(processWord(`\${V//a*b/}`, value).result).toHaveLength(20_000)
    expect(processorTime() - start).toBeLessThan(2000)
  })
})

describe('processWords', () => {
  test.each<[string, string[]]>([
    ['a  b\tc', ['a', 'b', 'c']],
    ['$WORDS', ['two', 'words']],
    ['"$WORDS"', ['  two  words ']],
    ['x$WORDS.y', ['x', 'two', 'words', '.y']],
    ['a\\ b c', ['a b', 'c']],
    ['"" a', ['a']],
    ['80${NOPE:-90}', ['8090']],
    ['<< EOF x', ['<< EOF', 'x']],
    ['$NOPE', []],
  ])('splits %s', (word, words) => {
    expect(processWords(word, env)).toEqual(words)
  })
})

test('expandHeredoc leaves quotes alone and unescapes', () => {
  expect(expandHeredoc("a \"$HOME\" '$HOME'\n\\$HOME \\\\ it's\n", env).result).toBe(
    "a \"/root\" '/root'\n$HOME \\ it's\n",
  )
})

function failureOf(work: () => unknown): unknown {
  try {
    work()
  } catch (error) {
    return error
  }
  throw new Error('nothing was thrown')
}
