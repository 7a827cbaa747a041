import { execFileSync } from 'node:child_process'
import {
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { getuid } from 'node:process'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { lgetxattr, lsetxattr } from '../system/extended-attributes.js'
import { mergeLayers } from './merge.js'
import { openWorkshop, type Workshop } from './test-layers.js'

const opaque = 'trusted.overlay.opaque'
let workshop: Workshop
let count = 0
/** The result of the last merge. */
let merged = ''

beforeEach(() => {
  workshop = openWorkshop()
  count = 0
})
afterEach(() => workshop[Symbol.dispose]())

/** `path: content`, `path/` a directory, `path!` an opaque one, `-path` a whiteout. */
function layer(...entries: readonly string[]): string {
  const root = workshop.layer(`layer-${count++}`)
  for (const entry of entries) {
    const [name = '', content] = entry.split(': ')
    const path = join(root, name.replace(/^-|[!/]$/g, ''))
    mkdirSync(dirname(path), { recursive: true })
    if (name.startsWith('-')) execFileSync('mknod', [path, 'c', '0', '0'])
    else if (content !== undefined) writeFileSync(path, content)
    else mkdirSync(path, { recursive: true })
    if (name.endsWith('!')) lsetxattr(path, opaque, Buffer.from('y'))
  }
  return root
}

/** The same language, sorted. */
function describeTree(root: string, prefix = ''): readonly string[] {
  const at = (name: string): Buffer => Buffer.from(join(root, name), 'latin1')
  return readdirSync(at(prefix), 'latin1')
    .sort()
    .flatMap((own) => {
      const name = join(prefix, own)
      const stat = lstatSync(at(name))
      if (stat.isCharacterDevice() && stat.rdev === 0) return [`-${name}`]
      if (!stat.isDirectory()) return [`${name}: ${readFileSync(at(name), 'latin1')}`]
      const closed = lgetxattr(join(root, name), opaque)?.toString() === 'y'
      return [`${name}${closed ? '!' : '/'}`, ...describeTree(root, name)]
    })
}

/** Over layers that have every directory the tests delete from. */
function merge(...diffs: readonly string[]): readonly string[] {
  return mergeOver([layer('d/sub/x: 0', 'e/x: 0', 'a/b/x: 0')], ...diffs)
}

function mergeOver(lowers: readonly string[], ...diffs: readonly string[]): readonly string[] {
  const upper = workshop.layer(`merged-${count++}`)
  mergeLayers({ diffs, lowers, upper })
  merged = upper
  return describeTree(upper)
}

describe.skipIf(getuid?.() !== 0)('merging', () => {
  test('later changesets win, and directories are joined', () => {
    const result = merge(layer('d/a: 1', 'd/b: 1', 'only: 1'), layer('d/b: 2', 'd/c: 2'))
    expect(result).toEqual(['d/', 'd/a: 1', 'd/b: 2', 'd/c: 2', 'only: 1'])
  })

  test('a deletion removes what came before and stays, for what lies below', () => {
    const result = merge(layer('f: 1', 'd/a: 1', 'd/b/c: 1'), layer('-f', '-d', '-never'))
    expect(result).toEqual(['-d', '-f', '-never'])
  })

  test('a file that comes back replaces its deletion', () => {
    expect(merge(layer('f: 1'), layer('-f'), layer('f: 3'))).toEqual(['f: 3'])
  })

  test('a directory in the place of a deletion hides what lies below', () => {
    expect(merge(layer('-d'), layer('d/a: 2'))).toEqual(['d!', 'd/a: 2'])
  })

  test('a directory in the place of a file hides what lies below', () => {
    expect(merge(layer('d: 1'), layer('d/a: 2'))).toEqual(['d!', 'd/a: 2'])
  })

  test('a file in the place of a directory removes all of it', () => {
    expect(merge(layer('d/a/b: 1', 'd/c: 1'), layer('d: 2'))).toEqual(['d: 2'])
  })

  test('an opaque directory empties what came before and stays opaque', () => {
    const result = merge(layer('d/a: 1', 'd/sub/b: 1'), layer('d!', 'd/c: 2'), layer('d/e: 3'))
    expect(result).toEqual(['d!', 'd/c: 2', 'd/e: 3'])
  })

  test('an opaque directory that is new stays opaque, below others too', () => {
    expect(merge(layer('a/b!', 'a/b/c: 1'))).toEqual(['a/', 'a/b!', 'a/b/c: 1'])
  })

  test('where nothing shows through, deletions leave no trace', () => {
    const result = merge(
      layer('-d', '-e'),
      layer('d/f: 2', 'd/sub/g: 2', 'e!', 'e/h: 2'),
      layer('-d/f', '-d/sub/g', '-e/h'),
    )
    expect(result).toEqual(['d!', 'd/sub/', 'e!'])
  })

  test('a deletion from a directory that only the changesets have leaves no trace', () => {
    const diffs = [layer('new/f: 1', 'new/sub/g: 1', 'd/f: 1'), layer('-new/f', '-new/sub', '-d/f')]
    expect(mergeOver([layer('d/f: 0')], ...diffs)).toEqual(['d/', '-d/f', 'new/'])
    expect(mergeOver([], layer('f: 1'), layer('-f', '-g'))).toEqual([])
    const base = layer('d/f: 0')
    mergeOver([base], ...diffs)
    expect(seen(base, merged)).toEqual(['d/', 'new/'])
  })

  test('a link in the place of a directory below is not followed', () => {
    const lower = layer()
    symlinkSync('/etc', join(lower, 'd'))
    expect(mergeOver([lower], layer('d/f: 1'), layer('-d/passwd'))).toEqual(['d/', 'd/f: 1'])
  })

  test('a new directory that replaces nothing hides nothing', () => {
    expect(merge(layer('a: 1'), layer('d/e: 2'))).toEqual(['a: 1', 'd/', 'd/e: 2'])
  })

  test('does to what lies below what the changesets did one after the other', () => {
    const base = layer('d/x: 0', 'd/sub/y: 0', 'f: 0', 'e/z: 0', 'g/h: 0')
    const diffs = [
      layer('-d', 'f/now: 1', 'e!', 'e/one: 1', 'g/i: 1'),
      layer('d/again: 2', '-f', 'e/two: 2', '-g/h'),
      layer('f: 3', '-e/one', 'g: 3'),
    ]
    mergeOver([base], ...diffs)
    const all = seen(base, ...diffs)
    expect(seen(base, merged)).toEqual(all)
    expect(all).toEqual(['d/', 'd/again: 2', 'e/', 'e/two: 2', 'f: 3', 'g: 3'])
  })

  test('names of one file stay names of one file, and no content is copied', () => {
    const lower = layer('a: 1')
    linkSync(join(lower, 'a'), join(lower, 'b'))
    symlinkSync('/etc/passwd', join(lower, 'link'))
    merge(lower, layer('c: 2'))
    const at = (name: string) => lstatSync(join(merged, name))
    expect(at('a').ino).toBe(lstatSync(join(lower, 'a')).ino)
    expect(at('b').ino).toBe(at('a').ino)
    expect(at('link').isSymbolicLink()).toBe(true)
  })

  test('names are bytes', () => {
    const lower = layer()
    mkdirSync(Buffer.from(`${lower}/d\xff`, 'latin1'))
    writeFileSync(Buffer.from(`${lower}/d\xff/caf\xe9`, 'latin1'), '1')
    expect(merge(lower, lower)).toEqual(['d\xff/', 'd\xff/caf\xe9: 1'])
  })

  test('a directory has owner, mode, attributes and time of the last changeset', () => {
    const [one, two] = [layer('d/'), layer('d/')]
    lsetxattr(join(one, 'd'), 'user.old', Buffer.from('1'))
    lsetxattr(join(two, 'd'), 'user.new', Buffer.from('2'))
    execFileSync('chmod', ['1750', join(two, 'd')])
    execFileSync('chown', ['12:34', join(two, 'd')])
    utimesSync(join(two, 'd'), 1000, 1_000_000)
    merge(one, two)
    const directory = join(merged, 'd')
    const { uid, gid, mode, mtimeMs } = lstatSync(directory)
    expect([uid, gid, mode & 0o7777, mtimeMs]).toEqual([12, 34, 0o1750, 1_000_000_000])
    expect(lgetxattr(directory, 'user.old')).toBeUndefined()
    expect(lgetxattr(directory, 'user.new')?.toString()).toBe('2')
  })
})

/** What an overlay of these shows, bottom first. Mounted where only the listing process sees it. */
function seen(...layers: readonly string[]): readonly string[] {
  const view = workshop.layer(`view-${count++}`)
  const lowers = [...layers].reverse().join(':')
  const copy = workshop.layer(`copy-${count++}`)
  const script = 'mount -t overlay overlay -o "lowerdir=$1" "$2" && cp -a "$2/." "$3"'
  execFileSync('unshare', ['-m', '--propagation', 'private', 'sh', '-c', script, 'sh', lowers, view, copy])
  return describeTree(copy)
}
