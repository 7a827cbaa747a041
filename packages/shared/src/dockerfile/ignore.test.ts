import { describe, expect, test } from 'vitest'
import { processorTime } from '../../../../test/support/processor-time.js'
import { isBuilderError } from '../errors/builder-error.js'
import { bytesOfText } from '../oci/byte-path.js'
import { compileIgnore, matchGlob, parseIgnoreFile } from './ignore.js'

const excluded = (patterns: string[], path: string) => compileIgnore(patterns).match(path, false).excluded

describe('parseIgnoreFile', () => {
  test('keeps one cleaned entry for each line', () => {
    const text = '\ufeff# comment\n\n  a/../b/ \r\n/rooted\n! x/./y\n # no comment\n!/z\n/\n'
    expect(parseIgnoreFile(text)).toEqual(['', '', 'b', 'rooted', '!x/y', '# no comment', '!z', '/', ''])
  })
})

describe('compileIgnore', () => {
  test.each([
    ['a', 'a', true],
    ['a', 'a/b/c', true],
    ['a', 'ab', false],
    ['a', 'x/a', false],
    ['*', 'a/b', true],
    ['*.md', 'x.md', true],
    ['*.md', 'd/x.md', false],
    ['*/*.md', 'd/x.md', true],
    ['*/x', 'a/b/x', false],
    ['**/*.md', 'x.md', true],
    ['**/*.md', 'a/b/x.md', true],
    ['**/x', 'x', true],
    ['**/x', 'a/x/y', true],
    ['**/x', 'a/bx', false],
    ['**x', 'a/bx', true],
    ['a/**', 'a', false],
    ['a/**', 'a/b', true],
    ['a/**/b', 'a/b', true],
    ['a/**/b', 'a/x/y/b', true],
    ['a/**/b', 'a/xb', false],
    ['**', 'anything/at/all', true],
    ['a?c', 'abc', true],
    ['a?c', 'a/c', false],
    ['a?c', 'aéc', true],
    ['[a-c]x', 'bx', true],
    ['[^a-c]x', 'bx', false],
    ['a\\*', 'a*', true],
    ['a\\*', 'ab', false],
    ['a.b', 'axb', false],
    ['a+(b)$', 'a+(b)$', true],
    ['/a', 'a', false],
    ['.', 'a', false],
    ['dir/', 'dir/x', true],
  ])('%s on %s: %s', (pattern, path, result) => {
    expect(excluded([pattern], bytesOfText(path))).toBe(result)
  })

  test('lets the last match win and names it', () => {
    const matcher = compileIgnore(['', '*', '!docs', 'docs/*.tmp', '!docs/keep.tmp'])
    expect(matcher.match('src/x', false)).toEqual({ excluded: true, pattern: '*', line: 2 })
    expect(matcher.match('docs/a', false)).toEqual({ excluded: false, pattern: '!docs', line: 3 })
    expect(matcher.match('docs/a.tmp', false)).toEqual({ excluded: true, pattern: 'docs/*.tmp', line: 4 })
    expect(matcher.match('docs/keep.tmp', false)).toEqual({
      excluded: false,
      pattern: '!docs/keep.tmp',
      line: 5,
    })
    expect(compileIgnore(['x']).match('y', false)).toEqual({ excluded: false })
  })

  test('does not inherit an exception that was not tried for the parent', () => {
    expect(excluded(['*/c', '!a'], 'a/c')).toBe(true)
  })

  test('never excludes the root', () => {
    const matcher = compileIgnore(['**', '*'])
    expect(matcher.match('', true).excluded).toBe(false)
    expect(matcher.mayDescend('')).toBe(true)
  })

  test('takes bytes that are not UTF-8 as one character each', () => {
    expect(excluded(['a?c'], 'a\xffc')).toBe(true)
    expect(excluded(['a??c'], bytesOfText('aéc'))).toBe(false)
    expect(excluded(['*é'], bytesOfText('xé'))).toBe(true)
    expect(excluded(['日本*'], '日本語')).toBe(true)
  })

  test.each([
    [['a'], 'a', false],
    [['a', '!a/b'], 'a', true],
    [['a', '!a/b'], 'a/c', false],
    [['a', '!a/b/c'], 'a/b', true],
    [['*', '!**/*.md'], 'any/where', true],
    [['*', '!docs/**'], 'docs', true],
    [['*', '!docs/**'], 'src', false],
    [['*', '!d*/x?'], 'deep', true],
    [['*', '!d*/x?'], 'deep/y', false],
    [['*', '!d*/x?'], 'src', false],
    [['!a/b', 'a'], 'a', false],
    [['a', '!a/b', 'a/b'], 'a/b', false],
    [['b'], 'a', true],
  ])('%j may descend into %s: %s', (patterns, directory, result) => {
    expect(compileIgnore(patterns).mayDescend(directory)).toBe(result)
  })

  test('prunes nothing that a walk without pruning would keep', () => {
    const random = generator(7)
    const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T
    const parts = ['a', 'b', 'ab', '*', '**', '?', '[ab]', 'a*', '.']
    for (let round = 0; round < 300; round++) {
      const patterns = Array.from({ length: 1 + Math.floor(random() * 5) }, () => {
        const pattern = Array.from({ length: 1 + Math.floor(random() * 3) }, () => pick(parts)).join('/')
        return random() < 0.4 ? `!${pattern}` : pattern
      })
      const all = new Set<string>()
      const matcher = compileIgnore(patterns)
      for (const path of tree(3)) if (!compileIgnore(patterns).match(path, false).excluded) all.add(path)
      const seen = new Set<string>()
      const walk = (directory: string, depth: number) => {
        for (const name of ['a', 'b', 'ab']) {
          const path = directory === '' ? name : `${directory}/${name}`
          if (!matcher.match(path, true).excluded) seen.add(path)
          if (depth > 1 && matcher.mayDescend(path)) walk(path, depth - 1)
        }
      }
      walk('', 3)
      expect(seen, JSON.stringify(patterns)).toEqual(all)
    }
  })

  test.each([['!'], ['a['], ['[]'], ['[a-]'], ['a\\']])('rejects %s with its line', (pattern) => {
    let caught: unknown
    try {
      compileIgnore(['ok', pattern], 'x.dockerignore')
    } catch (error) {
      caught = error
    }
    expect(isBuilderError(caught, 'ISB_CONTEXT_INVALID') && caught.details.source).toMatchObject({
      file: 'x.dockerignore',
      start: { line: 2 },
    })
  })

  test('matches hostile patterns in bounded time', () => {
    const matcher = compileIgnore([`${'*a'.repeat(100)}b`, `**/${'**/a'.repeat(50)}b`])
    const start = processorTime()
    for (let index = 0; index < 20; index++) {
      expect(matcher.match(`${'a/'.repeat(1000)}${'a'.repeat(250)}${index}`, false).excluded).toBe(false)
    }
    expect(processorTime() - start).toBeLessThan(5000)
  })
})

test('matchGlob is filepath.Match', () => {
  const matches: [string, string, boolean][] = [
    ['*.txt', 'a.txt', true],
    ['*.txt', 'd/a.txt', false],
    ['**', 'ab', true],
    ['**', 'a/b', false],
    ['[[]x]', '[x]', true],
    ['\\[x]', '[x]', true],
    ['[^x]', '/', true],
    ['', '', true],
    ['a', '', false],
  ]
  for (const [pattern, name, result] of matches) expect(matchGlob(pattern, name), pattern).toBe(result)
  expect(() => matchGlob('[', 'x')).toThrow(/malformed pattern "\["/)
})

function tree(depth: number): string[] {
  if (depth === 0) return []
  return ['a', 'b', 'ab'].flatMap((name) => [name, ...tree(depth - 1).map((below) => `${name}/${below}`)])
}

function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
