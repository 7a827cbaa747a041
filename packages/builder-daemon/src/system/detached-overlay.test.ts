import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type MergedLayers, openMerged } from './detached-overlay.js'
import { lsetxattr } from './extended-attributes.js'
import { readDirectory } from './file-stat.js'
import { AT_FDCWD } from './libc.js'
import { readInRoot, statInRoot } from './rooted.js'
import { mknodat, O_CREAT, O_RDWR, openat, S_IFCHR } from './syscalls.js'

const asRoot = userInfo().uid === 0
let base = ''

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'isula-build-overlay-'))
})
afterEach(() => rmSync(base, { recursive: true, force: true }))

function layer(name: string, files: Readonly<Record<string, string>>): string {
  const root = join(base, name)
  mkdirSync(root, { recursive: true })
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(root, path, '..'), { recursive: true })
    writeFileSync(join(root, path), content)
  }
  return root
}

function looking<T>(lowers: readonly string[], look: (layers: MergedLayers) => T): T {
  const layers = openMerged(lowers)
  try {
    return look(layers)
  } finally {
    layers.close()
    layers.close()
  }
}

const read = (layers: MergedLayers, path: string): string | undefined =>
  readInRoot(layers.fd, path, 1000)?.toString()

describe.skipIf(!asRoot)('merged layers', () => {
  test('the topmost file counts, deletions and opaque directories hide', () => {
    const bottom = layer('bottom', { a: 'bottom', gone: 'x', 'dir/old': 'x', 'both/low': 'l' })
    const top = layer('top', { a: 'top', 'dir/new': 'n', 'both/high': 'h' })
    mknodat(AT_FDCWD, join(top, 'gone'), S_IFCHR, 0, 0)
    lsetxattr(join(top, 'dir'), 'trusted.overlay.opaque', Buffer.from('y'))
    looking([top, bottom], (layers) => {
      expect(readDirectory(layers.fd).sort()).toEqual(['a', 'both', 'dir'])
      expect(read(layers, 'a')).toBe('top')
      expect(read(layers, 'dir/old')).toBeUndefined()
      expect([read(layers, 'both/low'), read(layers, 'both/high')]).toEqual(['l', 'h'])
      expect(() => openat(layers.fd, 'x', O_RDWR | O_CREAT, 0o600)).toThrowError(
        expect.objectContaining({ code: 'EROFS' }),
      )
    })
  })

  test('none is an empty directory, and deletions in a single one are hidden', () => {
    const leftovers = (): string[] =>
      readdirSync(tmpdir()).filter((name) => name.startsWith('isula-build-empty-'))
    const before = leftovers()
    looking([], (layers) => expect(readDirectory(layers.fd)).toEqual([]))
    const only = layer('only', { a: 'a' })
    mknodat(AT_FDCWD, join(only, 'gone'), S_IFCHR, 0, 0)
    looking([only], (layers) => expect(readDirectory(layers.fd)).toEqual(['a']))
    looking([only, only], (layers) => expect(readDirectory(layers.fd)).toEqual(['a']))
    expect(leftovers().filter((name) => !before.includes(name))).toEqual([])
  })

  test('the same layer twice counts where it is on top', () => {
    const a = layer('a', { f: 'a', onlyA: 'a' })
    const b = layer('b', { f: 'b', onlyB: 'b' })
    looking([a, b, a], (layers) => expect([read(layers, 'f'), read(layers, 'onlyB')]).toEqual(['a', 'b']))
  })

  test('127 layers with long, odd names are no problem, and no mount is left', () => {
    const odd = join('x'.repeat(200), 'with:colon,comma\\and "quote"', 'y'.repeat(200))
    const lowers = Array.from({ length: 127 }, (_, index) =>
      layer(join(odd, `${index}`), { [`f${index}`]: `${index}` }),
    )
    looking(lowers, (layers) => {
      expect(readDirectory(layers.fd)).toHaveLength(127)
      expect(statInRoot(layers.fd, 'f126', { followLast: false })?.type).toBe('file')
      expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(base)
    })
    expect(existsSync(base)).toBe(true)
  })

  test('a layer that is missing or no directory is an error that names it', () => {
    expect(() => openMerged([join(base, 'none')])).toThrowError(/ENOENT.*none/)
    writeFileSync(join(base, 'file'), '')
    expect(() => openMerged([join(base, 'file'), base])).toThrowError(/ENOTDIR.*file/)
  })
})
