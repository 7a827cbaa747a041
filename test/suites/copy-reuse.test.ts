import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { copyJob, digestSourcesJob } from '../../packages/builder-daemon/src/layer/copy/copy.js'
import { sealJob } from '../../packages/builder-daemon/src/layer/seal.js'
import { lsetxattr } from '../../packages/builder-daemon/src/system/extended-attributes.js'
import { type Copy, useCopyBench, useLaterClock } from '../support/copy-bench.js'

interface Copied {
  readonly layer: string
  /** Upper of the copy that was not told what the digest of the sources saw. */
  readonly unseen: string
  readonly damaged: boolean
}

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('a COPY over what it gave before (needs root)', () => {
  const bench = useCopyBench()
  const { file } = bench
  let previous: string | undefined

  useLaterClock()
  beforeEach(() => {
    previous = undefined
  })

  const at = (path: string) => join(bench.context, path)

  /** Copies as a build does, reusing the layer before; the result is that of copying everything. */
  function copy(options: Copy = {}): Copied {
    const params = bench.remembered(bench.paramsOf(['.'], '/x/', options))
    const { contentKey, seen } = digestSourcesJob(params)
    const upper = () => bench.paramsOf(['.'], '/x/', options).upper
    const plain = copyJob({ ...params, upper: upper() })
    const unseen = upper()
    const other = copyJob({ ...params, upper: unseen, reuse: previous })
    const { reuseDamaged, ...result } = copyJob({ ...params, reuse: previous, seen })
    expect(result).toEqual(plain)
    expect(other).toEqual(reuseDamaged === true ? { ...plain, reuseDamaged } : plain)
    expect(result.contentKey).toBe(contentKey)
    const { contentKey: _, ...sealed } = result
    expect(sealJob({ upper: params.upper, fixedTime: undefined, identify: true })).toEqual(sealed)
    const layer = dirname(params.upper)
    renameSync(params.upper, join(layer, 'diff'))
    previous = layer
    return { layer, unseen, damaged: reuseDamaged === true }
  }

  const inode = (layer: string, path: string) => lstatSync(join(layer, 'diff/x', path)).ino
  const shared = (a: string, b: string, paths: readonly string[]) =>
    paths.filter((path) => inode(a, path) === inode(b, path))

  function tree(): readonly string[] {
    const paths = Array.from({ length: 150 }, (_, index) => `d${index % 7}/f${index}`)
    for (const path of paths) file(path)
    file('big', 'b'.repeat(3_000_000))
    file('empty', '')
    return [...paths, 'big']
  }

  test('links every file that did not change, and no other', () => {
    const paths = tree()
    const before = copy()
    file('d3/f3', 'changed')
    const after = copy()
    expect(shared(before.layer, after.layer, paths)).toEqual(paths.filter((path) => path !== 'd3/f3'))
    expect(readFileSync(join(after.layer, 'diff/x/d3/f3'), 'utf8')).toBe('changed')
    expect(readFileSync(join(before.layer, 'diff/x/d3/f3'), 'utf8')).toBe('d3/f3')
    expect(shared(before.layer, copy().layer, paths)).toHaveLength(paths.length - 1)
  })

  test('a removed layer leaves the other as it was', () => {
    tree()
    const before = copy()
    const { layer } = copy()
    const params = { upper: join(layer, 'diff'), fixedTime: undefined, identify: true }
    const sealed = sealJob(params)
    rmSync(before.layer, { recursive: true })
    expect(sealJob(params)).toEqual(sealed)
  })

  test('other metadata or another place is a file of its own', () => {
    for (const name of ['mode', 'time', 'moved', 'same']) file(name, 'content')
    lsetxattr(at('same'), 'user.before', Buffer.from('x'))
    const before = copy()
    chmodSync(at('mode'), 0o600)
    utimesSync(at('time'), 7, 7)
    renameSync(at('moved'), at('other'))
    const after = copy()
    expect(shared(before.layer, after.layer, ['mode', 'time', 'same'])).toEqual([])
    expect(() => inode(after.layer, 'moved')).toThrow('ENOENT')
  })

  test('chown, chmod and a fixed time are compared as they are written', () => {
    const paths = tree()
    const options = [{ chown: '5:6' }, { chmod: '0700' }, { fixedTime: 77 }, {}]
    for (const option of options) {
      const before = copy(option)
      expect(shared(before.layer, copy(option).layer, paths)).toEqual(paths)
      const other = copy(option === options[0] ? {} : { chown: '5:6' })
      expect(shared(before.layer, other.layer, paths)).toEqual([])
    }
  })

  test('hard links of the context stay those of each layer', () => {
    file('a', 'content')
    linkSync(at('a'), at('b'))
    file('c', 'content')
    const before = copy()
    rmSync(at('b'))
    file('b', 'content')
    linkSync(at('c'), at('d'))
    const after = copy()
    expect(shared(before.layer, after.layer, ['a', 'b', 'c'])).toEqual([])
    expect(inode(after.layer, 'a')).not.toBe(inode(after.layer, 'b'))
    expect(inode(after.layer, 'c')).toBe(inode(after.layer, 'd'))
    const third = copy()
    expect(shared(after.layer, third.layer, ['a', 'b'])).toEqual(['a', 'b'])
    expect(inode(third.layer, 'c')).toBe(inode(third.layer, 'd'))
    expect(shared(after.layer, third.layer, ['c'])).toEqual([])
  })

  test('links of the earlier layer lead nowhere', () => {
    file('d/f', 'content')
    const before = copy()
    rmSync(join(before.layer, 'diff/x/d'), { recursive: true })
    mkdirSync(join(before.layer, 'elsewhere'))
    writeFileSync(join(before.layer, 'elsewhere/f'), 'content')
    utimesSync(join(before.layer, 'elsewhere/f'), 1000, 1000)
    symlinkSync('../../elsewhere', join(before.layer, 'diff/x/d'))
    expect(lstatSync(join(copy().layer, 'diff/x/d/f')).nlink).toBe(1)
  })

  test.each([
    ['changed', (path: string) => writeFileSync(path, 'D7/f7')],
    ['cut', (path: string) => truncateSync(path, 2)],
  ])('of a damaged layer whose file was %s nothing is taken over', (_, damage) => {
    tree()
    file('d7/f7')
    const before = copy()
    const damaged = join(before.layer, 'diff/x/d7/f7')
    const { atime, mtime } = lstatSync(damaged)
    damage(damaged)
    utimesSync(damaged, atime, mtime)
    const after = copy()
    expect(after.damaged).toBe(lstatSync(damaged).size === 5)
    expect(readFileSync(join(after.layer, 'diff/x/d7/f7'), 'utf8')).toBe('d7/f7')
    if (after.damaged) expect(shared(before.layer, after.layer, ['d0/f0', 'big'])).toEqual([])
  })

  test.each([
    ['time', (path: string) => utimesSync(path, 5, 5)],
    ['mode', (path: string) => chmodSync(path, 0o755)],
    ['owner', (path: string) => chownSync(path, 7, 7)],
  ])('of a layer in which a file has another %s than its log says nothing is taken over', (_, change) => {
    tree()
    const before = copy()
    change(join(before.layer, 'diff/x/d0/f0'))
    const after = copy()
    expect(after.damaged).toBe(false)
    expect(shared(before.layer, after.layer, ['d0/f0', 'd1/f1', 'big'])).toEqual([])
  })

  test('a forged or torn log of the earlier layer makes no difference to the result', () => {
    for (let index = 0; index < 20; index += 1) file(`d${index % 3}/f${index}`)
    const before = copy()
    const log = join(before.layer, 'sources')
    const whole = readFileSync(log)
    for (let place = 0; place < whole.length; place += Math.ceil(whole.length / 20)) {
      const forged = Buffer.from(whole)
      forged[place] = (forged[place] ?? 0) ^ 0x41
      writeFileSync(log, forged)
      previous = before.layer
      expect(copy().damaged).toBe(false)
    }
  })

  test('which names are hard links of a layer is told without its log, too', () => {
    file('a', 'content')
    linkSync(at('a'), at('b'))
    file('c', 'other')
    copy()
    const { layer } = copy()
    const params = { upper: join(layer, 'diff'), fixedTime: undefined, identify: true }
    const sealed = sealJob(params)
    truncateSync(join(layer, 'sources'), 20)
    expect(sealJob(params)).toEqual(sealed)
    rmSync(join(layer, 'sources'))
    expect(sealJob(params)).toEqual(sealed)
    expect(sealed.entries).toBe(4)
  })

  test('without a log of the earlier layer everything is copied', () => {
    const paths = tree()
    const before = copy()
    truncateSync(join(before.layer, 'sources'), 20)
    expect(shared(before.layer, copy().layer, paths)).toEqual([])
  })

  test('what was touched a moment ago is linked only when it was read again', () => {
    // The clock stands still, so that nothing grows old enough to be trusted.
    vi.restoreAllMocks()
    const began = Date.now()
    vi.spyOn(Date, 'now').mockImplementation(() => began)
    const paths = tree()
    const before = copy()
    const after = copy()
    expect(shared(before.layer, after.layer, paths)).toEqual(paths)
    const copied = paths.filter((path) => lstatSync(join(after.unseen, 'x', path)).nlink === 1)
    expect(copied).toEqual(paths)
  })

  test('a file that can have no more names is copied', () => {
    file('f', 'content')
    const before = copy()
    const held = join(before.layer, 'diff/x/f')
    mkdirSync(join(bench.base, 'links'))
    try {
      for (let index = 0; index < 70_000; index += 1) linkSync(held, join(bench.base, 'links', String(index)))
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe('EMLINK')
    }
    const after = copy()
    const isFull = shared(before.layer, after.layer, ['f']).length === 0
    expect(isFull).toBe(lstatSync(held).nlink === 65_000)
    expect(readFileSync(join(after.layer, 'diff/x/f'), 'utf8')).toBe('content')
  })
})
