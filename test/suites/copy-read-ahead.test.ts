import { closeSync, mkdirSync, openSync, readlinkSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { copyJob, digestSourcesJob } from '../../packages/builder-daemon/src/layer/copy/copy.js'
import { createDirectReader } from '../../packages/builder-daemon/src/layer/copy/direct-reader.js'
import { useCopyBench } from '../support/copy-bench.js'

const asked = vi.hoisted((): string[] => [])

vi.mock('../../packages/builder-daemon/src/system/syscalls.js', async (original) => {
  const real = await original<typeof import('../../packages/builder-daemon/src/system/syscalls.js')>()
  return {
    ...real,
    fadvise(...call: Parameters<typeof real.fadvise>): void {
      if (call[3] === 'willneed') asked.push(readlinkSync(`/proc/self/fd/${call[0]}`))
      real.fadvise(...call)
    },
  }
})

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('reading ahead of what a COPY takes (needs root)', () => {
  const bench = useCopyBench()
  const { file } = bench
  const names = Array.from({ length: 100 }, (_, index) => `f${100 + index}`)

  beforeEach(() => {
    asked.length = 0
    const now = Date.now.bind(Date)
    vi.spyOn(Date, 'now').mockImplementation(() => now() + 10_000)
  })
  afterEach(() => vi.restoreAllMocks())

  /** Milliseconds that every read takes. */
  function readsTake(time: number): void {
    let now = 0
    vi.spyOn(performance, 'now').mockImplementation(() => {
      now += time
      return now
    })
  }

  function tree(): void {
    for (const name of names) file(`d/${name}`, name)
    file('e/alone', 'alone')
  }

  function copy(reuse?: string) {
    const params = bench.remembered(bench.paramsOf(['.'], '/x/', {}))
    const { seen } = digestSourcesJob(params)
    asked.length = 0
    const result = copyJob({ ...params, seen, reuse })
    const layer = dirname(params.upper)
    renameSync(params.upper, join(layer, 'diff'))
    return { layer, result }
  }

  const askedBelow = (place: string) =>
    asked.filter((path) => path.startsWith(`${place}/`)).map((path) => basename(path))

  test('a source that has to be waited for has those after it asked for', () => {
    tree()
    readsTake(0.1)
    copy()
    // Files go in batches of 64; the first of each tells that there is something to wait for.
    expect(askedBelow(join(bench.context, 'd'))).toEqual([...names.slice(1, 64), ...names.slice(65)])
    expect(asked).toHaveLength(98)
  })

  test('so has a file that an earlier layer has, too', () => {
    tree()
    const { layer } = copy()
    file(`d/${names[0]}`, 'changed')
    readsTake(0.1)
    const { result } = copy(layer)
    expect(askedBelow(join(layer, 'diff/x/d'))).toEqual(names.slice(2))
    expect(result.reuseDamaged).toBeUndefined()
    readsTake(0.001)
    expect(copy().result).toEqual(result)
  })

  test('what is in memory is read without', () => {
    tree()
    readsTake(0.001)
    const { layer } = copy()
    expect(asked).toEqual([])
    file(`d/${names[0]}`, 'changed')
    copy(layer)
    expect(asked).toEqual([])
  })

  test('a file that is gone when it is asked for is missed by nobody but who opens it', () => {
    const root = join(bench.context, 'r')
    for (const directory of ['a', 'b']) mkdirSync(join(root, directory), { recursive: true })
    for (const path of ['a/1', 'a/2', 'b/1', 'b/2']) writeFileSync(join(root, path), path)
    const rootFd = openSync(root, 'r')
    const reader = createDirectReader(rootFd)
    try {
      readsTake(0.1)
      reader.prefetch(['a/1', 'a/2', 'b/1', 'b/2'])
      const first = reader.open('a/1')
      rmSync(join(root, 'a/2'))
      rmSync(join(root, 'b'), { recursive: true })
      const bytes = Buffer.alloc(3)
      expect(first.read(bytes)).toBe(3)
      expect(bytes.toString()).toBe('a/1')
      first.close()
      expect(asked).toEqual([])
      expect(() => reader.open('a/2')).toThrow(expect.objectContaining({ code: 'ISB_CONTEXT_CHANGED' }))
    } finally {
      reader.close()
      closeSync(rootFd)
    }
  })
})
