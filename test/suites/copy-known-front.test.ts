import {
  appendFileSync,
  chmodSync,
  lstatSync,
  lutimesSync,
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
import { beforeEach, describe, expect, test } from 'vitest'
import { copyJob, digestSourcesJob } from '../../packages/builder-daemon/src/layer/copy/copy.js'
import { readTarMarks } from '../../packages/builder-daemon/src/layer/copy/tar-marks.js'
import { sealJob } from '../../packages/builder-daemon/src/layer/seal.js'
import { useCopyBench, useLaterClock } from '../support/copy-bench.js'

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('a COPY whose tar begins as an earlier one (needs root)', () => {
  const bench = useCopyBench()
  const { file } = bench
  let previous: string | undefined

  useLaterClock()
  beforeEach(() => {
    previous = undefined
  })

  const at = (path: string) => join(bench.context, path)
  const linked = (layer: string, path: string) => lstatSync(join(layer, 'diff/x', path)).nlink > 1

  /** A hundred files, links, empty files and two big ones: enough for some marks. */
  function tree(): void {
    for (let index = 0; index < 90; index += 1) {
      const name = `d${100 + (index % 30)}/f${index}`
      file(name, name.repeat(index % 3 === 0 ? 18_000 : 20))
    }
    file('d101/big', 'b'.repeat(900_000))
    file('d105/big', 'b'.repeat(1_500_000))
    file('d120/big', 'c'.repeat(700_000))
    file('d110/empty', '')
    mkdirSync(at('d111/none'))
    symlinkSync('../f1', at('d112/link'))
    settle()
  }

  function settle(): void {
    for (let index = 100; index < 130; index += 1) utimesSync(at(`d${index}`), 1000, 1000)
    utimesSync(at('d111/none'), 1000, 1000)
    lutimesSync(at('d112/link'), 1000, 1000)
    utimesSync(at(''), 1000, 1000)
  }

  function job(reuse: string | undefined) {
    const params = bench.remembered(bench.paramsOf(['.'], '/x/', {}))
    const { seen } = digestSourcesJob(params)
    const result = copyJob({ ...params, reuse, seen })
    return { params, result }
  }

  /** The result, which is that of copying everything, is the next one's earlier layer. */
  function copy(): string {
    const { params, result } = job(previous)
    const { contentKey: _, ...sealed } = result
    expect(sealJob({ upper: params.upper, fixedTime: undefined, identify: true })).toEqual(sealed)
    const layer = dirname(params.upper)
    renameSync(params.upper, join(layer, 'diff'))
    previous = layer
    return layer
  }

  /** Other content under the same stat. */
  function damage(layer: string, path: string): void {
    const full = join(layer, 'diff/x', path)
    const { atime, mtime } = lstatSync(full)
    const bytes = readFileSync(full)
    bytes[0] = (bytes[0] ?? 0) ^ 1
    writeFileSync(full, bytes)
    utimesSync(full, atime, mtime)
  }

  test.each([
    ['a file', () => appendFileSync(at('d115/f15'), 'more')],
    ['the first file', () => appendFileSync(at('d100/f0'), 'more')],
    ['the last file', () => appendFileSync(at('d129/f89'), 'more')],
    ['a big file', () => appendFileSync(at('d120/big'), 'more')],
    ['the mode of a directory', () => chmodSync(at('d118'), 0o700)],
    ['the time of an empty directory', () => utimesSync(at('d111/none'), 5, 5)],
    ['that a file is gone', () => rmSync(at('d125/f25'))],
    [
      'that all but a few are gone',
      () => {
        for (let index = 103; index < 130; index += 1) rmSync(at(`d${index}`), { recursive: true })
      },
    ],
    ['that there is another file', () => file('d108/new', 'new')],
    [
      'that there are others at the end',
      () => {
        for (let index = 0; index < 300; index += 1) file(`e/f${index}`, 'new')
      },
    ],
    [
      'where a link leads',
      () => {
        rmSync(at('d112/link'))
        symlinkSync('../f2', at('d112/link'))
      },
    ],
    [
      'that a file is a directory',
      () => {
        rmSync(at('d116/f16'))
        mkdirSync(at('d116/f16'))
      },
    ],
    ['nothing', () => undefined],
  ])('gives what copying everything gives when the difference is %s', (_, change) => {
    tree()
    copy()
    change()
    const second = copy()
    expect(linked(second, 'd102/f2')).toBe(true)
    appendFileSync(at('d101/f1'), 'again')
    const third = copy()
    expect(linked(third, 'd102/f2')).toBe(true)
    expect(readTarMarks(third).length).toBeGreaterThan(0)
  })

  test('has the marks that copying everything has', () => {
    tree()
    copy()
    appendFileSync(at('d120/f20'), 'more')
    const layer = copy()
    const { params } = job(undefined)
    expect(readTarMarks(layer)).toEqual(readTarMarks(dirname(params.upper)))
    expect(readTarMarks(layer).length).toBeGreaterThan(3)
  })

  test('does not read what comes before the first difference, and checks what comes after', () => {
    tree()
    const before = copy()
    damage(before, 'd101/f1')
    appendFileSync(at('d120/f20'), 'more')
    const { result, params } = job(before)
    expect(result.reuseDamaged).toBeUndefined()
    expect(result).toEqual(job(undefined).result)
    expect(lstatSync(join(params.upper, 'x/d101/f1')).nlink).toBe(2)
    damage(before, 'd125/f25')
    expect(job(before).result).toEqual({ ...job(undefined).result, reuseDamaged: true })
  })

  test.each([
    ['another size', (path: string) => truncateSync(path, 3)],
    ['another mode', (path: string) => chmodSync(path, 0o600)],
    ['another time', (path: string) => utimesSync(path, 5, 5)],
    ['no file', (path: string) => rmSync(path)],
  ])('takes nothing from a layer that has %s before the first difference', (_, change) => {
    tree()
    const before = copy()
    change(join(before, 'diff/x/d101/f1'))
    appendFileSync(at('d120/f20'), 'more')
    const { result, params } = job(before)
    expect(result).toEqual(job(undefined).result)
    expect(lstatSync(join(params.upper, 'x/d102/f2')).nlink).toBe(1)
  })

  test('marks that are forged, torn or of another tree make no difference', () => {
    tree()
    const before = copy()
    appendFileSync(at('d120/f20'), 'more')
    const plain = job(undefined).result
    const marks = join(before, 'marks')
    const whole = readFileSync(marks)
    for (let place = 0; place < whole.length; place += 37) {
      const forged = Buffer.from(whole)
      forged[place] = (forged[place] ?? 0) ^ 0x41
      writeFileSync(marks, forged)
      expect(readTarMarks(before)).toEqual([])
    }
    truncateSync(marks, 100)
    expect(job(before).result).toEqual(plain)
    rmSync(marks)
    expect(job(before).result).toEqual(plain)
    writeFileSync(marks, whole)
    appendFileSync(at('d100/f0'), 'more')
    expect(job(before).result).toEqual(job(undefined).result)
  })
  test('marks that cannot be read make no difference', () => {
    tree()
    const before = copy()
    appendFileSync(at('d120/f20'), 'more')
    const plain = job(undefined).result
    rmSync(join(before, 'marks'))
    mkdirSync(join(before, 'marks'))
    expect(job(before).result).toEqual(plain)
  })
})
