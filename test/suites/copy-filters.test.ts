import { chmodSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { useCopyBench } from '../support/copy-bench.js'

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('Filters of COPY (needs root)', () => {
  const bench = useCopyBench()
  const { file, copy, failure, list, modeOf } = bench

  describe('the ignore file', () => {
    beforeEach(() => {
      for (const name of ['a.md', 'b.txt', 'd/c.md', 'd/e.txt', 'd/s/f.txt']) file(name)
    })

    test('says which line excludes a source', () => {
      expect(failure('a.md', '/x', { ignore: ['', '# c', '', '*.md'] })).toMatchObject({
        code: 'ISB_CONTEXT_NOT_FOUND',
        message: '"/a.md": not found: excluded by .dockerignore:4 (*.md)',
      })
      expect(failure('d/e.txt', '/x', { ignore: ['d'] })).toMatchObject({
        message: '"/d/e.txt": not found: excluded by .dockerignore:1 (d)',
      })
    })

    test('hides what it excludes from directories, wildcards and links', () => {
      const ignore = ['**/*.md']
      symlinkSync('a.md', join(bench.context, 'link'))
      expect(list(copy('.', '/', { ignore }).upper)).toEqual([
        'b.txt',
        'd/',
        'd/e.txt',
        'd/s/',
        'd/s/f.txt',
        'link',
      ])
      expect(list(copy('*.*', '/x/', { ignore }).upper)).toEqual(['x/', 'x/b.txt'])
      expect(failure('link', '/x', { ignore })).toMatchObject({ code: 'ISB_CONTEXT_NOT_FOUND' })
    })

    test('exceptions bring back a path with the directories that lead there', () => {
      const ignore = ['d', '!d/s/f.txt']
      expect(list(copy('.', '/x/', { ignore }).upper)).toEqual([
        'x/',
        'x/a.md',
        'x/b.txt',
        'x/d/',
        'x/d/s/',
        'x/d/s/f.txt',
      ])
      expect(list(copy('d', '/x', { ignore }).upper)).toEqual(['x/', 'x/s/', 'x/s/f.txt'])
      expect(failure('d/e.txt', '/x', { ignore })).toMatchObject({ code: 'ISB_CONTEXT_NOT_FOUND' })
    })

    test('everything excluded copies nothing', () => {
      expect(copy('.', '/', { ignore: ['**'] }).entries).toBe(0)
    })
  })

  describe('--exclude and --parents', () => {
    beforeEach(() => {
      for (const name of ['x/y/a.txt', 'x/y/b.md', 'x/z/c.txt', 'top.txt']) file(name)
      chmodSync(join(bench.context, 'x/y'), 0o751)
    })

    test('excluded paths are relative to the source', () => {
      expect(list(copy('x', '/o', { excludes: ['y/*.md'] }).upper)).toEqual([
        'o/',
        'o/y/',
        'o/y/a.txt',
        'o/z/',
        'o/z/c.txt',
      ])
      expect(list(copy('x', '/o', { excludes: ['**', '!z/c.txt'] }).upper)).toEqual([
        'o/',
        'o/z/',
        'o/z/c.txt',
      ])
      expect(list(copy('*.txt', '/o/', { excludes: ['top*'] }).upper)).toEqual([])
    })

    test('parents are recreated with their own metadata, behind the pivot if there is one', () => {
      const { upper } = copy(['./x/y/a.txt', 'top.txt'], '/o/', { parents: true })
      expect(list(upper)).toEqual(['o/', 'o/top.txt', 'o/x/', 'o/x/y/', 'o/x/y/a.txt'])
      expect(modeOf(join(upper, 'o/x/y'))).toBe('751')
      expect(list(copy('./x/./*/*.txt', '/o/', { parents: true }).upper)).toEqual([
        'o/',
        'o/y/',
        'o/y/a.txt',
        'o/z/',
        'o/z/c.txt',
      ])
      expect(list(copy('**/c.txt', '/o/', { parents: true }).upper)).toEqual([
        'o/',
        'o/x/',
        'o/x/z/',
        'o/x/z/c.txt',
      ])
      expect(list(copy('x/y', '/o/', { parents: true }).upper)).toEqual([
        'o/',
        'o/x/',
        'o/x/y/',
        'o/x/y/a.txt',
        'o/x/y/b.md',
      ])
    })

    test('a named source must exist', () => {
      expect(failure('x/./nothing', '/o/', { parents: true })).toMatchObject({
        code: 'ISB_CONTEXT_NOT_FOUND',
      })
    })
  })
})
