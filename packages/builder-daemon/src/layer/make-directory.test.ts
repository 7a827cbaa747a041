import { execFileSync } from 'node:child_process'
import { lstatSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { lgetxattr, lsetxattr } from '../system/extended-attributes.js'
import { makeDirectoryJob } from './make-directory.js'
import { sealJob } from './seal.js'
import { openWorkshop, type Workshop } from './test-layers.js'

const asRoot = userInfo().uid === 0
const emptyTar = { entries: 0, tarSize: 1024 }

function base(shop: Workshop): string {
  const root = shop.layer('base')
  mkdirSync(join(root, 'srv/app'), { recursive: true })
  execFileSync('chmod', ['2750', join(root, 'srv')])
  execFileSync('chown', ['12:34', join(root, 'srv')])
  lsetxattr(join(root, 'srv'), 'user.k', Buffer.from([1, 0, 255]))
  execFileSync('touch', ['-d', '@1000.5', join(root, 'srv')])
  writeFileSync(join(root, 'file'), '')
  symlinkSync('/srv', join(root, 'link'))
  symlinkSync('new/place', join(root, 'dangling'))
  symlinkSync('loop', join(root, 'loop'))
  return root
}

function tree(path: string): string[] {
  return execFileSync('find', [path, '-mindepth', '1', '-printf', '%P\n'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line !== '')
    .sort()
}

describe.skipIf(!asRoot)('mkdir -p over layers', () => {
  test('a path longer than the kernel takes is refused before it is looked for', () => {
    using shop = openWorkshop()
    const began = performance.now()
    const lowers = [base(shop)]
    const upper = shop.layer('long')
    for (const path of ['/d'.repeat(5000), '/'.repeat(1_000_000)]) {
      const make = () => makeDirectoryJob({ upper, lowers, path, fixedTime: undefined })
      expect(make).toThrow(expect.objectContaining({ code: 'ISB_ARGUMENT_INVALID' }))
    }
    expect(performance.now() - began).toBeLessThan(3000)
  })

  test('what exists is left alone, through links too', () => {
    using shop = openWorkshop()
    const lowers = [base(shop)]
    for (const path of ['', '/', 'srv/app', '/link/app', '../../srv']) {
      const upper = shop.layer(`upper-${path.length}`)
      expect(makeDirectoryJob({ upper, lowers, path, fixedTime: undefined })).toMatchObject({
        created: false,
        ...emptyTar,
      })
      expect(readdirSync(upper)).toEqual([])
    }
  })

  test('new directories are 0755 root, parents come up with all they have', () => {
    using shop = openWorkshop()
    const upper = shop.layer('upper')
    const result = makeDirectoryJob({
      upper,
      lowers: [base(shop)],
      path: '/link/new/deep',
      fixedTime: undefined,
    })
    expect(result).toMatchObject({ created: true, entries: 3 })
    expect(tree(upper)).toEqual(['srv', 'srv/new', 'srv/new/deep'])
    const srv = lstatSync(join(upper, 'srv'), { bigint: true })
    expect([srv.mode & 0o7777n, srv.uid, srv.gid, srv.mtimeNs]).toEqual([
      0o2750n,
      12n,
      34n,
      1_000_500_000_000n,
    ])
    expect(lgetxattr(join(upper, 'srv'), 'user.k')).toEqual(Buffer.from([1, 0, 255]))
    const made = lstatSync(join(upper, 'srv/new'))
    expect([made.mode & 0o7777, made.uid, made.gid]).toEqual([0o755, 0, 0])
    expect(Math.abs(made.mtimeMs - Date.now())).toBeLessThan(60_000)
    const { created: _, ...seal } = result
    expect(sealJob({ upper, fixedTime: undefined, identify: true })).toEqual(seal)
  })

  test('a dangling link leads to where the directory is made, never out of the root', () => {
    using shop = openWorkshop()
    const upper = shop.layer('upper')
    makeDirectoryJob({ upper, lowers: [base(shop)], path: 'dangling/x', fixedTime: undefined })
    expect(tree(upper)).toEqual(['new', 'new/place', 'new/place/x'])
    const other = shop.layer('other')
    makeDirectoryJob({ upper: other, lowers: [], path: '../../../../up', fixedTime: 7 })
    expect(tree(other)).toEqual(['up'])
    expect(lstatSync(join(other, 'up')).mtimeMs).toBe(7000)
  })

  test('files in the way, loops and impossible names are errors that name the path', () => {
    using shop = openWorkshop()
    const lowers = [base(shop)]
    const make = (path: string) => () =>
      makeDirectoryJob({ upper: shop.layer(`u${path.length}`), lowers, path, fixedTime: undefined })
    expect(make('file')).toThrowError(/"file": "\/file" is no directory/)
    expect(make('file/x/y')).toThrowError(expect.objectContaining({ code: 'ISB_STEP_FAILED' }))
    expect(make('loop/x')).toThrowError(/too many symbolic links/)
    expect(make('a\0b')).toThrowError(expect.objectContaining({ code: 'ISB_ARGUMENT_INVALID' }))
    expect(make('n'.repeat(300))).toThrowError(/too long/)
  })
})
