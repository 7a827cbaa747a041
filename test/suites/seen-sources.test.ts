import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { copyJob, digestSourcesJob } from '../../packages/builder-daemon/src/layer/copy/copy.js'
import { sealJob } from '../../packages/builder-daemon/src/layer/seal.js'
import type { SeenSources } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import { lsetxattr } from '../../packages/builder-daemon/src/system/extended-attributes.js'
import { type Copy, useCopyBench, useLaterClock } from '../support/copy-bench.js'

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('a COPY of what was seen a moment ago (needs root)', () => {
  const bench = useCopyBench()
  const { file } = bench
  const at = (path: string) => join(bench.context, path)

  useLaterClock()

  const paramsOf = (sources: readonly string[] = ['.'], options: Copy = {}) =>
    bench.remembered(bench.paramsOf(sources, '/x/', options))

  function see(sources?: readonly string[], options?: Copy): SeenSources {
    const { seen } = digestSourcesJob(paramsOf(sources, options))
    if (seen === undefined) throw new Error('nothing was seen')
    return seen
  }

  /** What copying with what was seen before gives; the same as copying now, with a content key that says so. */
  function copied(seen: SeenSources, sources?: readonly string[], options?: Copy) {
    const params = paramsOf(sources, options)
    const result = copyJob({ ...params, seen })
    const plain = copyJob(paramsOf(sources, options))
    expect(result).toEqual(plain)
    const { contentKey: _, ...sealed } = result
    expect(sealJob({ upper: params.upper, fixedTime: undefined, identify: true })).toEqual(sealed)
    return { upper: params.upper, contentKey: result.contentKey }
  }

  function tree(): void {
    for (const name of ['a/b/c', 'a/b.c', 'a-b', 'd/e', 'empty']) file(name, name === 'empty' ? '' : name)
    file('big', 'b'.repeat(1_500_000))
    symlinkSync('big', at('link'))
    linkSync(at('d/e'), at('d/f'))
    mkdirSync(at('hollow'), { mode: 0o711 })
    lsetxattr(at('a/b/c'), 'user.one', Buffer.from([0, 255]))
    lsetxattr(at('a'), 'user.two', Buffer.from('x'))
  }

  test('is the same as without, attributes, links and empty directories included', () => {
    tree()
    const { upper, contentKey } = copied(see())
    expect(contentKey).toBe(digestSourcesJob(paramsOf()).contentKey)
    expect(bench.list(upper)).toEqual([
      ...['x/', 'x/a/', 'x/a/b/', 'x/a/b/c', 'x/a/b.c', 'x/a-b', 'x/big', 'x/d/', 'x/d/e', 'x/d/f'],
      ...['x/empty', 'x/hollow/', 'x/link'],
    ])
  })

  test('lists no directory a second time', () => {
    tree()
    const seen = see()
    file('late')
    const params = paramsOf()
    copyJob({ ...params, seen })
    expect(bench.list(params.upper)).not.toContain('x/late')
  })

  test.each([
    ['written', (path: string) => writeFileSync(path, 'other')],
    ['written with its time kept', (path: string) => rewrite(path, 'D/E')],
    ['longer', (path: string) => rewrite(path, 'd/e and more')],
    ['removed', (path: string) => rmSync(path)],
    [
      'a directory',
      (path: string) => {
        rmSync(path)
        mkdirSync(path)
      },
    ],
    [
      'a link',
      (path: string) => {
        rmSync(path)
        symlinkSync('/etc/passwd', path)
      },
    ],
  ])('a file that is %s meanwhile is copied as it is now', (_, change) => {
    tree()
    rmSync(at('d/f'))
    const seen = see()
    change(at('d/e'))
    expect(copied(seen).contentKey).not.toBe(seen.contentKey)
  })

  test.each([
    ['one more directory', () => file('pkg3/three')],
    ['a file', () => file('pkg.txt')],
    ['one less', () => rmSync(at('pkg2'), { recursive: true })],
    ['a link in place of one', () => relink('pkg2', 'other')],
    ['a file in place of one', () => rmSync(at('pkg2'), { recursive: true }) ?? file('pkg2')],
    [
      'one in place of the other',
      () => {
        renameSync(at('pkg1'), at('kept'))
        relink('pkg1', 'pkg2')
        rmSync(at('pkg2'), { recursive: true })
        renameSync(at('kept'), at('pkg2'))
      },
    ],
  ])('a pattern that matches %s meanwhile', (_, change) => {
    for (const name of ['pkg1/one', 'pkg2/two', 'other/two']) file(name)
    const seen = see(['pkg*'])
    change()
    const params = paramsOf(['pkg*'])
    const result = copyJob({ ...params, seen })
    const plain = paramsOf(['pkg*'])
    expect(result).toEqual(copyJob(plain))
    expect(bench.list(params.upper)).toEqual(bench.list(plain.upper))
    expect(result.contentKey).toBe(digestSourcesJob(paramsOf(['pkg*'])).contentKey)
  })

  test('a file that goes after its directory was listed, before its turn, is not missed', () => {
    for (let index = 100; index < 400; index++) file(`many/${index}`)
    let isGone = false
    let checks = 0
    // The scan asks once for each directory, so this is in the midst of the files.
    const check = (): void => {
      checks += 1
      if (checks < 50 || isGone) return
      isGone = true
      rmSync(at('many/399'))
    }
    const { contentKey } = digestSourcesJob(paramsOf(), { check })
    expect(isGone).toBe(true)
    expect(contentKey).toBe(digestSourcesJob(paramsOf()).contentKey)
  })

  test('a directory that is replaced by a link leads nowhere', () => {
    tree()
    const seen = see()
    renameSync(at('d'), join(bench.base, 'elsewhere'))
    symlinkSync(join(bench.base, 'elsewhere'), at('d'))
    const { upper } = copied(seen)
    expect(lstatSync(join(upper, 'x/d')).isSymbolicLink()).toBe(true)
  })

  test('a symbolic link or attributes that change meanwhile are looked at again', () => {
    tree()
    let seen = see()
    rmSync(at('link'))
    symlinkSync('a', at('link'))
    expect(copied(seen).contentKey).not.toBe(seen.contentKey)
    file('late')
    seen = see()
    lsetxattr(at('a/b/c'), 'user.one', Buffer.from('z'))
    expect(copied(seen).contentKey).not.toBe(seen.contentKey)
  })

  test('what the earlier layer has is linked though its source is gone by now', () => {
    tree()
    rmSync(at('d/f'))
    const before = paramsOf()
    copyJob(before)
    const layer = join(before.upper, '..')
    renameSync(before.upper, join(layer, 'diff'))
    chmodSync(at('a-b'), 0o600)
    const seen = see()
    rmSync(at('d/e'))
    const params = paramsOf()
    const result = copyJob({ ...params, seen, reuse: layer })
    expect(result.contentKey).toBe(seen.contentKey)
    expect(lstatSync(join(params.upper, 'x/d/e')).ino).toBe(lstatSync(join(layer, 'diff/x/d/e')).ino)
    expect(lstatSync(join(params.upper, 'x/a-b')).ino).not.toBe(lstatSync(join(layer, 'diff/x/a-b')).ino)
    expect(readFileSync(join(params.upper, 'x/a-b'), 'utf8')).toBe('a-b')
  })

  test('a digest that was forged on the way is found out', () => {
    tree()
    const seen = see()
    Buffer.from(seen.notes).fill(3)
    const params = paramsOf()
    expect(copyJob({ ...params, seen }).contentKey).toBe(copyJob(paramsOf()).contentKey)
  })

  test('what a scan cannot vouch for is not given', () => {
    tree()
    expect(digestSourcesJob(paramsOf(['a-b'])).seen).toBeUndefined()
    expect(digestSourcesJob(paramsOf(['.'], { unpack: true })).seen).toBeUndefined()
    expect(digestSourcesJob(bench.paramsOf(['.'], '/x/', {})).seen).toBeUndefined()
    // The same directory twice: what takes part of it may differ.
    symlinkSync('a', at('z'))
    expect(digestSourcesJob(paramsOf(['[az]'])).seen).toBeUndefined()
    expect(see(['a', 'd']).tops.map(({ input, path }) => [input, path])).toEqual([
      [0, 'a'],
      [1, 'd'],
    ])
  })

  test('ignored and excluded files stay away', () => {
    tree()
    const options = { ignore: ['d', '!d/e', '**/b.c'], excludes: ['a/b', '*-b'] }
    const { upper } = copied(see(['.'], options), ['.'], options)
    expect(bench.list(upper)).toEqual([
      ...['x/', 'x/a/', 'x/big', 'x/d/', 'x/d/e', 'x/empty', 'x/hollow/', 'x/link'],
    ])
  })

  function relink(name: string, target: string): void {
    rmSync(at(name), { recursive: true, force: true })
    symlinkSync(target, at(name))
  }

  function rewrite(path: string, content: string): void {
    const { atime, mtime } = lstatSync(path)
    writeFileSync(path, content)
    utimesSync(path, atime, mtime)
  }
})
