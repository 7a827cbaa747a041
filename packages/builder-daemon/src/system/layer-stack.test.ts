import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { seededRandom } from '../../../../test/support/random-choices.js'
import { openMerged } from './detached-overlay.js'
import { lsetxattr } from './extended-attributes.js'
import { createLayerStack } from './layer-stack.js'
import { AT_FDCWD } from './libc.js'
import { lstatCanonical } from './rooted.js'
import { mknodat, S_IFCHR } from './syscalls.js'

const asRoot = userInfo().uid === 0
let base = ''

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'isula-build-stack-'))
})
afterEach(() => rmSync(base, { recursive: true, force: true }))

const kinds = ['nothing', 'nothing', 'directory', 'directory', 'opaque', 'file', 'link', 'whiteout'] as const
const names = ['a', 'b']
const paths = names.flatMap((one) => [one, ...names.flatMap((two) => [`${one}/${two}`, `${one}/${two}/a`])])

function make(path: string, kind: (typeof kinds)[number], mode: number): void {
  if (kind === 'nothing') return
  if (kind === 'file') writeFileSync(path, 'x'.repeat(mode), { mode })
  else if (kind === 'link') symlinkSync('b', path)
  else if (kind === 'whiteout') mknodat(AT_FDCWD, path, S_IFCHR, 0, 0)
  else {
    mkdirSync(path, { mode })
    if (kind === 'opaque') lsetxattr(path, 'trusted.overlay.opaque', Buffer.from('y'))
  }
}

function fill(layer: string, pick: () => (typeof kinds)[number], mode: () => number): void {
  mkdirSync(layer, { mode: mode() })
  for (const path of paths) {
    const parent = lstatCanonicalOf(layer, dirname(path))
    if (parent === 'directory') make(join(layer, path), pick(), mode())
  }
}

function lstatCanonicalOf(layer: string, path: string): string | undefined {
  return createLayerStack([layer]).look(path === '.' ? '' : path)?.stat?.type
}

describe.skipIf(!asRoot)('a stack of layers (needs root)', () => {
  test('shows what overlayfs shows', () => {
    let found = 0
    for (let seed = 1; seed <= 150; seed++) {
      const { next, pick } = seededRandom(seed)
      const layers = Array.from({ length: 1 + next(4) }, (_, index) => join(base, `${seed}-${index}`))
      for (const layer of layers) {
        fill(
          layer,
          () => pick(kinds),
          () => 0o700 + next(64),
        )
      }
      const stack = createLayerStack(layers)
      const merged = openMerged(layers)
      try {
        for (const path of ['', ...paths]) {
          const wanted = lstatCanonical(merged.fd, path)
          const { stat } = stack.look(path) ?? {}
          const shown = (one: typeof wanted) => one && [one.type, one.mode, one.uid, one.mtimeNs, one.ctimeNs]
          expect([seed, path, shown(stat)]).toEqual([seed, path, shown(wanted)])
          if (wanted?.type === 'file') expect(stat?.size).toBe(wanted.size)
          if (wanted !== undefined) found++
        }
      } finally {
        merged.close()
      }
    }
    expect(found).toBeGreaterThan(500)
  })

  test('leaves to the kernel what is marked in a way of its own, and all below', () => {
    const layer = join(base, 'marked')
    mkdirSync(join(layer, 'a/b'), { recursive: true })
    mkdirSync(join(layer, 'b'))
    lsetxattr(join(layer, 'a'), 'trusted.overlay.opaque', Buffer.from('x'))
    const stack = createLayerStack([layer])
    expect(stack.look('a')).toBeUndefined()
    expect(stack.look('a/b')).toBeUndefined()
    expect(stack.look('b')?.stat?.type).toBe('directory')
  })

  test('leaves paths to the kernel that no system call takes', () => {
    const layer = join(base, 'deep')
    mkdirSync(layer)
    const stack = createLayerStack([layer])
    expect(stack.look('x'.repeat(200))).toEqual({ stat: undefined, place: '', layers: [] })
    const deep = Array.from({ length: 30 }, () => 'd'.repeat(200))
    for (const depth of deep.keys()) {
      const path = deep.slice(0, depth + 1).join('/')
      if (join(layer, path).length < 3900) mkdirSync(join(layer, path))
    }
    expect(stack.look(deep.join('/'))).toBeUndefined()
  })

  test('of no layers is empty', () => {
    expect(createLayerStack([]).look('etc/passwd')?.stat).toBeUndefined()
  })
  test('leaves everything to the kernel when a layer is not there, so that somebody says so', () => {
    const [top, gone] = [join(base, 'top'), join(base, 'gone')]
    mkdirSync(join(top, 'etc'), { recursive: true })
    for (const layers of [
      [top, gone],
      [gone, top],
    ]) {
      const stack = createLayerStack(layers)
      for (const path of ['', 'etc', 'etc/passwd']) expect(stack.look(path)).toBeUndefined()
    }
  })

  test('takes a link for the layer that it leads to', () => {
    const layer = join(base, 'layer')
    mkdirSync(join(layer, 'etc'), { recursive: true })
    symlinkSync('layer', join(base, 'short'))
    expect(createLayerStack([join(base, 'short')]).look('etc')?.stat?.type).toBe('directory')
  })
})
