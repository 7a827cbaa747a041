import { execFileSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openWorkshop, type RawEntry, rawTar, type Workshop } from './test-layers.js'
import { writeRootfsJob } from './write-rootfs.js'

let workshop: Workshop

beforeEach(() => {
  workshop = openWorkshop()
})
afterEach(() => workshop[Symbol.dispose]())

/** Layers bottom first; gives their directories top first. */
function stack(...layers: readonly (readonly RawEntry[])[]): readonly string[] {
  const lowers: string[] = []
  for (const [i, entries] of layers.entries()) {
    workshop.apply(`l${i}`, rawTar(...entries), { lowers: [...lowers] })
    lowers.unshift(join(workshop.root, `l${i}/diff`))
  }
  return lowers
}

function written(lowers: readonly string[]): Buffer {
  const path = join(workshop.root, 'rootfs.tar')
  const fd = openSync(path, 'w')
  try {
    const { tarSize } = writeRootfsJob({ lowers, fd })
    const tar = readFileSync(path)
    expect(tar.length).toBe(tarSize)
    return tar
  } finally {
    closeSync(fd)
  }
}

function listed(tar: Buffer): readonly string[] {
  const args = ['--numeric-owner', '--quoting-style=literal', '--full-time', '--utc', '-tv']
  const text = execFileSync('tar', args, { input: tar, encoding: 'latin1' })
  return text
    .split('\n')
    .flatMap((line) => (line === '' ? [] : [line.replace(/ +\d+ 2001-09-09 01:46:40 /, ' ')]))
}

describe.skipIf(getuid?.() !== 0)('the files of stacked layers (needs root)', () => {
  test('are those that a container sees, sorted, a directory before what is in it', () => {
    const lowers = stack(
      [
        { name: 'b/', type: '5', mode: 0o755 },
        { name: 'b/old', content: 'old' },
        { name: 'b/deleted', content: 'x' },
        { name: 'opaque/', type: '5', mode: 0o755 },
        { name: 'opaque/hidden', content: 'x' },
        { name: 'replaced/', type: '5', mode: 0o755 },
        { name: 'replaced/in', content: 'x' },
        { name: 'a', content: 'below', mode: 0o4755, uid: 7, gid: 8 },
        { name: 'c', type: '1', link: 'a' },
      ],
      [
        { name: 'b/', type: '5', mode: 0o700, uid: 5 },
        { name: 'b/.wh.deleted' },
        { name: 'b/new', content: 'new' },
        { name: 'opaque/', type: '5', mode: 0o755 },
        { name: 'opaque/.wh..wh..opq' },
        { name: 'opaque/shown', content: 'x' },
        { name: 'replaced', type: '2', link: 'b' },
        { name: 'fifo', type: '6' },
        { name: 'null', type: '3', device: [1, 3], mode: 0o666 },
        { name: 'latin\xe9', content: '' },
      ],
    )
    expect(listed(written(lowers))).toEqual([
      '-rwsr-xr-x 7/8 a',
      'drwx------ 5/0 b/',
      '-rw-r--r-- 0/0 b/new',
      '-rw-r--r-- 0/0 b/old',
      'hrwsr-xr-x 7/8 c link to a',
      'prw-r--r-- 0/0 fifo',
      '-rw-r--r-- 0/0 latin\xe9',
      'crw-rw-rw- 0/0             1,3 2001-09-09 01:46:40 null',
      'drwxr-xr-x 0/0 opaque/',
      '-rw-r--r-- 0/0 opaque/shown',
      'lrwxrwxrwx 0/0 replaced -> b',
    ])
    expect(written(lowers).equals(written(lowers))).toBe(true)
  })

  test('keep their extended attributes, without those of overlayfs', () => {
    const attribute = { 'SCHILY.xattr.user.note': 'some' }
    const lowers = stack(
      [{ name: 'd/', type: '5', pax: attribute }],
      [
        { name: 'd/', type: '5', pax: attribute },
        { name: 'd/.wh..wh..opq' },
        { name: 'd/f', pax: attribute },
      ],
    )
    const text = written(lowers).toString('latin1')
    expect(text.match(/SCHILY\.xattr\.[a-z.]+/g)).toEqual([
      'SCHILY.xattr.user.note',
      'SCHILY.xattr.user.note',
    ])
  })

  test('of one layer lose its deletions, and of none are none', () => {
    const target = join(workshop.root, 'target')
    mkdirSync(target)
    const lowers = stack([{ name: '.wh.gone' }, { name: 'kept' }])
    execFileSync('tar', ['-x', '-C', target], { input: written(lowers) })
    expect(readdirSync(target)).toEqual(['kept'])
    expect(written([])).toEqual(Buffer.alloc(1024))
  })

  test('of many layers are merged too', () => {
    const lowers = stack(
      ...Array.from({ length: 60 }, (_, i) => [{ name: `f${i}` }, { name: 'f', content: `${i}` }]),
    )
    const tar = written(lowers)
    expect(execFileSync('tar', ['-xO', 'f'], { input: tar, encoding: 'utf8' })).toBe('59')
    expect(listed(tar)).toHaveLength(61)
  })
})
