import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterAll, describe, expect, test } from 'vitest'
import { copyJob } from '../../packages/builder-daemon/src/layer/copy/copy.js'
import { useCopyBench } from '../support/copy-bench.js'
import { mountBtrfs } from '../support/loop-image.js'

const btrfs = getuid?.() === 0 ? mountBtrfs(512) : undefined
afterAll(() => btrfs?.[Symbol.dispose]())

/** Extents of the file that another one has, too. */
function sharedExtents(path: string): number {
  execFileSync('sync', ['-f', path])
  const lines = execFileSync('filefrag', ['-v', path], { encoding: 'utf8' }).split('\n')
  return lines.filter((line) => /\bshared\b/.test(line)).length
}

describe.skipIf(btrfs === undefined)('COPY on a file system that shares extents (needs root, Btrfs)', () => {
  const there = useCopyBench(btrfs?.mountPoint)
  const here = useCopyBench()
  const size = 9 * 1024 * 1024 + 17

  test('writes no bytes of big files, and stores what it would store elsewhere', () => {
    const content = randomBytes(size)
    const results = [there, here].map((bench) => {
      bench.file('plain')
      bench.file('small')
      bench.file('marked', '', 0o750)
      for (const name of ['plain', 'marked']) writeFileSync(join(bench.context, name), content)
      execFileSync('setfattr', ['-n', 'user.mark', '-v', 'x', join(bench.context, 'marked')])
      return bench.copy('.', '/to/', { fixedTime: 5, chown: '3:4' })
    })
    const [shared, written] = results
    expect(shared?.diffId).toBe(written?.diffId)
    expect(shared?.contentKey).toBe(written?.contentKey)
    const upper = join(shared?.upper ?? '', 'to')
    for (const name of ['plain', 'marked']) {
      expect(readFileSync(join(upper, name)).equals(content)).toBe(true)
      expect([name, sharedExtents(join(upper, name)) > 0]).toEqual([name, true])
      expect(statSync(join(upper, name))).toMatchObject({ uid: 3, gid: 4, mtimeMs: 5000 })
    }
    expect(sharedExtents(join(upper, 'small'))).toBe(0)
    // What becomes of the source is nothing to the layer.
    writeFileSync(join(there.context, 'plain'), 'changed')
    expect(readFileSync(join(upper, 'plain')).equals(content)).toBe(true)
  })

  test('writes what lies on another file system, again and again', () => {
    const content = randomBytes(size)
    for (const name of ['one', 'two']) writeFileSync(join(there.context, name), content)
    const params = there.paramsOf(['one', 'two'], '/to/', {})
    const upper = mkdtempSync(join(here.base, 'upper-'))
    copyJob({ ...params, upper })
    for (const name of ['one', 'two']) {
      expect(readFileSync(join(upper, 'to', name)).equals(content)).toBe(true)
    }
  })
})
