import { execFileSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { lgetxattr, lsetxattr } from '../system/extended-attributes.js'
import { openWorkshop, type RawEntry, rawTar } from './test-layers.js'

const asRoot = userInfo().uid === 0

function isWhiteout(path: string): boolean {
  const stat = lstatSync(path)
  return stat.isCharacterDevice() && stat.rdev === 0
}

function opaque(path: string): string | undefined {
  return lgetxattr(path, 'trusted.overlay.opaque')?.toString()
}

function expectRefused(entries: readonly RawEntry[], code: string, message?: RegExp): void {
  using shop = openWorkshop()
  const canary = join(shop.root, 'canary')
  writeFileSync(canary, 'secret')
  const before = lstatSync(canary, { bigint: true })
  expect(() => shop.apply('layer', rawTar(...entries))).toThrowError(
    expect.objectContaining({
      code,
      ...(message === undefined ? {} : { message: expect.stringMatching(message) }),
    }),
  )
  expect(lstatSync(canary, { bigint: true })).toEqual(before)
  expect(readdirSync(shop.root).sort()).toEqual(['canary', 'layer'])
  expect(existsSync(join(shop.root, 'layer/headers.gz.replaced'))).toBe(false)
}

describe.skipIf(!asRoot)('names (S30)', () => {
  test.each(['../x', 'a/../../x', './../x', '..', 'a/b/../../../x', '/../x'])('refuses %s', (name) => {
    expectRefused([{ name }], 'ISB_ARCHIVE_INVALID', /leads out of the layer/)
  })

  test('refuses an empty name', () => {
    expectRefused([{ name: '' }], 'ISB_ARCHIVE_INVALID', /empty/)
  })

  test('refuses a NUL byte in a pax path', () => {
    expectRefused([{ name: 'x', pax: { path: 'a\0b' } }], 'ISB_ARCHIVE_INVALID', /NUL/)
  })

  test('refuses a path of 5000 bytes and one of 2100 directories', () => {
    expectRefused([{ name: 'x', pax: { path: 'p/'.repeat(2500) } }], 'ISB_LIMIT_EXCEEDED')
    expectRefused([{ name: 'x', pax: { path: 'd/'.repeat(2100) } }], 'ISB_LIMIT_EXCEEDED')
  })

  test('refuses a name no file system has room for', () => {
    expectRefused([{ name: 'x', pax: { path: 'n'.repeat(300) } }], 'ISB_ARCHIVE_INVALID', /ENAMETOOLONG/)
  })

  test('takes an absolute name relative to the root and keeps bytes that are no UTF-8', () => {
    using shop = openWorkshop()
    shop.apply('layer', rawTar({ name: '/abs', content: 'a' }, { name: 'n\xff\xfe', content: 'b' }))
    const names = readdirSync(join(shop.root, 'layer/diff'), { encoding: 'latin1' })
    expect(names.sort()).toEqual(['abs', 'n\xff\xfe'])
  })
})

describe.skipIf(!asRoot)('symbolic links (S31, S33)', () => {
  test('a link to the host leads inside the root', () => {
    using shop = openWorkshop()
    const victim = join(shop.root, 'victim')
    mkdirSync(victim)
    shop.apply('layer', rawTar({ name: 'd', type: '2', link: victim }, { name: 'd/x', content: 'x' }))
    expect(readdirSync(victim)).toEqual([])
    expect(readFileSync(join(shop.root, 'layer/diff', victim, 'x'), 'utf8')).toBe('x')
    expect(readlinkSync(join(shop.root, 'layer/diff/d'))).toBe(victim)
  })

  test('dots in a link do not climb out of the root', () => {
    using shop = openWorkshop()
    const link = '../../../../../../../../../../up'
    shop.apply('layer', rawTar({ name: 'a/d', type: '2', link }, { name: 'a/d/x', content: 'x' }))
    expect(readFileSync(join(shop.root, 'layer/diff/up/x'), 'utf8')).toBe('x')
  })

  test('a chain of 60 links is refused', () => {
    const chain = Array.from(
      { length: 60 },
      (_, index): RawEntry => ({ name: `l${index}`, type: '2', link: `l${index + 1}` }),
    )
    expectRefused([...chain, { name: 'l0/x' }], 'ISB_ARCHIVE_INVALID', /too many symbolic links/)
  })

  test('a link that becomes a directory in the middle is not followed any more', () => {
    using shop = openWorkshop()
    const archive = rawTar(
      { name: 'real', type: '5' },
      { name: 'd', type: '2', link: 'real' },
      { name: 'd/one', content: '1' },
      { name: 'd', type: '5', mode: 0o750 },
      { name: 'd/two', content: '2' },
    )
    shop.apply('layer', archive)
    const root = join(shop.root, 'layer/diff')
    expect(readdirSync(join(root, 'real'))).toEqual(['one'])
    expect(readdirSync(join(root, 'd'))).toEqual(['two'])
    expect(shop.written('layer').equals(archive)).toBe(true)
  })

  test('mode, owner, time and attributes of an entry never go through a link at its name', () => {
    using shop = openWorkshop()
    const victim = join(shop.root, 'victim')
    writeFileSync(victim, 'v', { mode: 0o600 })
    const before = lstatSync(victim, { bigint: true })
    shop.apply(
      'layer',
      rawTar(
        { name: 'v', type: '2', link: victim, mode: 0o4777, uid: 7, pax: { 'SCHILY.xattr.user.x': 'y' } },
        { name: 'w', type: '2', link: victim },
        { name: 'w', content: 'new', mode: 0o4777, uid: 7, pax: { 'SCHILY.xattr.user.x': 'y' } },
      ),
    )
    expect(lstatSync(victim, { bigint: true })).toEqual(before)
    const own = lstatSync(join(shop.root, 'layer/diff/w'))
    expect([own.isFile(), own.mode & 0o7777, own.uid]).toEqual([true, 0o4777, 7])
    expect(lstatSync(join(shop.root, 'layer/diff/v')).uid).toBe(7)
  })

  test('an entry below a file is refused', () => {
    expectRefused([{ name: 'f', content: 'x' }, { name: 'f/x' }], 'ISB_ARCHIVE_INVALID', /no directory/)
  })
})

describe.skipIf(!asRoot)('hard links (S32)', () => {
  test('in place of the directory that holds their target are refused', () => {
    const entries = [
      { name: 'a/b/x', content: 'x' },
      { name: 'a', type: '1', link: 'a/b/x' },
    ]
    expectRefused(entries, 'ISB_ARCHIVE_INVALID', /replaces its own target/)
  })

  test('refuses targets outside, missing ones, directories, itself and forward references', () => {
    expectRefused([{ name: 'l', type: '1', link: '../canary' }], 'ISB_ARCHIVE_INVALID', /leads out/)
    expectRefused([{ name: 'l', type: '1', link: '/etc/passwd' }], 'ISB_ARCHIVE_INVALID', /not there/)
    expectRefused(
      [
        { name: 'd', type: '5' },
        { name: 'l', type: '1', link: 'd' },
      ],
      'ISB_ARCHIVE_INVALID',
    )
    expectRefused([{ name: 'f' }, { name: 'f', type: '1', link: 'f' }], 'ISB_ARCHIVE_INVALID', /itself/)
    expectRefused([{ name: 'l', type: '1', link: 'later' }, { name: 'later' }], 'ISB_ARCHIVE_INVALID')
  })

  test('an absolute target is one in the layer, and a link to a symbolic link links that', () => {
    using shop = openWorkshop()
    shop.apply(
      'layer',
      rawTar(
        { name: 'usr/bin/perl', content: 'p' },
        { name: 'usr/bin/perl5', type: '1', link: '/usr/bin/perl' },
        { name: 's', type: '2', link: '/etc/passwd' },
        { name: 't', type: '1', link: 's' },
        { name: 'null', type: '3', device: [1, 3] },
        { name: 'zero', type: '1', link: 'null' },
      ),
    )
    const root = join(shop.root, 'layer/diff')
    expect(lstatSync(join(root, 'usr/bin/perl5')).ino).toBe(lstatSync(join(root, 'usr/bin/perl')).ino)
    expect(readlinkSync(join(root, 't'))).toBe('/etc/passwd')
    expect(lstatSync(join(root, 'zero')).isCharacterDevice()).toBe(true)
  })

  test('a target that only the layers below have is copied up', () => {
    using shop = openWorkshop()
    const base = shop.layer('base')
    mkdirSync(join(base, 'real'), { mode: 0o711 })
    writeFileSync(join(base, 'real/f'), 'below', { mode: 0o640 })
    lsetxattr(join(base, 'real/f'), 'user.k', Buffer.from([0, 255]))
    symlinkSync('real', join(base, 'dir'))
    const result = shop.apply('layer', rawTar({ name: 'l', type: '1', link: 'dir/f' }), { lowers: [base] })
    expect(result.usedParents).toBe(true)
    const root = join(shop.root, 'layer/diff')
    expect(readFileSync(join(root, 'l'), 'utf8')).toBe('below')
    expect(lstatSync(join(root, 'real/f')).ino).toBe(lstatSync(join(root, 'l')).ino)
    expect(lstatSync(join(root, 'l')).mode & 0o7777).toBe(0o640)
    expect(lgetxattr(join(root, 'l'), 'user.k')).toEqual(Buffer.from([0, 255]))
    expect(lstatSync(join(root, 'real')).mode & 0o7777).toBe(0o711)
  })

  test('what this layer has deleted below cannot be linked', () => {
    using shop = openWorkshop()
    const base = shop.layer('base')
    writeFileSync(join(base, 'f'), 'below')
    const archive = rawTar({ name: '.wh.f' }, { name: 'l', type: '1', link: 'f' })
    expect(() => shop.apply('layer', archive, { lowers: [base] })).toThrowError(/not there/)
  })
})

describe.skipIf(!asRoot)('deletions (S34)', () => {
  test.each(['.wh.', '.wh..', '.wh...', 'a/.wh.', '.wh.x/y'])('refuses %s', (name) => {
    expectRefused([{ name }], 'ISB_ARCHIVE_INVALID')
  })

  test('become overlay whiteouts and opaque directories', () => {
    using shop = openWorkshop()
    shop.apply('layer', rawTar({ name: 'd', type: '5' }, { name: 'd/.wh.gone' }, { name: 'e/.wh..wh..opq' }))
    const root = join(shop.root, 'layer/diff')
    expect(isWhiteout(join(root, 'd/gone'))).toBe(true)
    expect(opaque(join(root, 'd'))).toBeUndefined()
    expect(opaque(join(root, 'e'))).toBe('y')
  })

  test('hide what is below, never what the same layer has', () => {
    using shop = openWorkshop()
    shop.apply(
      'layer',
      rawTar(
        { name: 'file', content: 'f' },
        { name: '.wh.file' },
        { name: 'dir/inside', content: 'i' },
        { name: '.wh.dir' },
        { name: '.wh.later' },
        { name: 'later', type: '5' },
        { name: 'later/x', content: 'x' },
        { name: '.wh.replaced' },
        { name: 'replaced', content: 'r' },
      ),
    )
    const root = join(shop.root, 'layer/diff')
    expect(readFileSync(join(root, 'file'), 'utf8')).toBe('f')
    expect([opaque(join(root, 'dir')), readdirSync(join(root, 'dir'))]).toEqual(['y', ['inside']])
    expect([opaque(join(root, 'later')), readdirSync(join(root, 'later'))]).toEqual(['y', ['x']])
    expect(readFileSync(join(root, 'replaced'), 'utf8')).toBe('r')
  })

  test('below something deleted there is nothing left to delete', () => {
    using shop = openWorkshop()
    shop.apply('layer', rawTar({ name: 'foo/.wh.bar' }, { name: 'foo/bar/.wh.baz' }))
    expect(isWhiteout(join(shop.root, 'layer/diff/foo/bar'))).toBe(true)
  })

  test('through a link stay inside the root', () => {
    using shop = openWorkshop()
    const victim = join(shop.root, 'victim')
    mkdirSync(victim)
    writeFileSync(join(victim, 'f'), 'v')
    shop.apply(
      'layer',
      rawTar({ name: 'd', type: '2', link: victim }, { name: 'd/.wh.f' }, { name: 'd/.wh..wh..opq' }),
    )
    expect(readdirSync(victim)).toEqual(['f'])
    expect(isWhiteout(join(shop.root, 'layer/diff', victim, 'f'))).toBe(true)
  })

  test('an opaque root hides every name of the layers below', () => {
    using shop = openWorkshop()
    const base = shop.layer('base')
    writeFileSync(join(base, 'gone'), '')
    mkdirSync(join(base, 'kept/old'), { recursive: true })
    const archive = rawTar({ name: 'kept/new', content: 'n' }, { name: '.wh..wh..opq' })
    expect(shop.apply('layer', archive, { lowers: [base] }).usedParents).toBe(true)
    const root = join(shop.root, 'layer/diff')
    expect(isWhiteout(join(root, 'gone'))).toBe(true)
    expect(opaque(join(root, 'kept'))).toBe('y')
  })

  test('aufs bookkeeping is left out but kept in the tar', () => {
    using shop = openWorkshop()
    const archive = rawTar(
      { name: '.wh..wh.aufs', content: 'meta' },
      { name: '.wh..wh.plnk/1.2', content: 'x' },
    )
    shop.apply('layer', archive)
    expect(readdirSync(join(shop.root, 'layer/diff'))).toEqual([])
    expect(shop.written('layer').equals(archive)).toBe(true)
  })
})

describe.skipIf(!asRoot)('special files and attributes (S35)', () => {
  test('devices and FIFOs are made as nodes, the deletion device is refused', () => {
    using shop = openWorkshop()
    shop.apply(
      'layer',
      rawTar(
        { name: 'c', type: '3', device: [1, 5], mode: 0o666 },
        { name: 'b', type: '4', device: [259, 70000], mode: 0o660, gid: 6 },
        { name: 'p', type: '6', mode: 0o622 },
      ),
    )
    const root = join(shop.root, 'layer/diff')
    const device = (name: string): string =>
      execFileSync('stat', ['-c', '%t:%T %a', join(root, name)], { encoding: 'utf8' }).trim()
    expect([device('c'), device('b')]).toEqual(['1:5 666', '103:11170 660'])
    expect(lstatSync(join(root, 'p')).isFIFO()).toBe(true)
    expectRefused([{ name: 'w', type: '3', device: [0, 0] }], 'ISB_ARCHIVE_INVALID', /0:0/)
    expectRefused([{ name: 'w', type: '3', device: [5000, 0] }], 'ISB_ARCHIVE_INVALID', /device number/)
  })

  test('overlay and SELinux attributes are dropped, capabilities and binary values kept', () => {
    using shop = openWorkshop()
    const capability = '\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\xff\x00\x00\x00\x00\x00\x00\x00'
    const attributes = {
      'SCHILY.xattr.security.capability': capability,
      'SCHILY.xattr.user.bin': '\x00\xff\n=',
      'SCHILY.xattr.trusted.overlay.opaque': 'y',
      'SCHILY.xattr.trusted.overlay.redirect': '/etc',
      'SCHILY.xattr.user.overlay.opaque': 'y',
      'SCHILY.xattr.security.selinux': 'x',
    }
    const archive = rawTar(
      { name: 'f', content: 'x', mode: 0o6755, uid: 5, gid: 6, pax: attributes },
      { name: 'd', type: '5', pax: attributes },
    )
    shop.apply('layer', archive)
    for (const name of ['f', 'd']) {
      const path = join(shop.root, 'layer/diff', name)
      expect(lgetxattr(path, 'user.bin')).toEqual(Buffer.from('\x00\xff\n=', 'latin1'))
      for (const dropped of ['trusted.overlay.opaque', 'trusted.overlay.redirect', 'user.overlay.opaque']) {
        expect(lgetxattr(path, dropped)).toBeUndefined()
      }
    }
    const file = join(shop.root, 'layer/diff/f')
    expect(lgetxattr(file, 'security.capability')?.toString('latin1')).toBe(capability)
    expect(lstatSync(file).mode & 0o7777).toBe(0o6755)
    expect(shop.written('layer').equals(archive)).toBe(true)
  })

  test('an attribute no kernel accepts is an error, not silence', () => {
    expectRefused(
      [{ name: 'f', pax: { 'SCHILY.xattr.security.capability': 'short' } }],
      'ISB_ARCHIVE_INVALID',
      /security.capability/,
    )
  })
})

describe.skipIf(!asRoot)('implied directories', () => {
  test('are 0755 root, or as the layers below have them', () => {
    using shop = openWorkshop()
    const base = shop.layer('base')
    mkdirSync(join(base, 'var/tmp'), { recursive: true })
    execFileSync('chmod', ['1777', join(base, 'var/tmp')])
    execFileSync('chown', ['3:4', join(base, 'var/tmp')])
    execFileSync('touch', ['-d', '@12345.678901234', join(base, 'var/tmp')])
    symlinkSync('var', join(base, 'link'))
    const archive = rawTar({ name: 'var/tmp/x' }, { name: 'fresh/x', mtime: 77 }, { name: 'link/x' })
    expect(shop.apply('layer', archive, { lowers: [base] }).usedParents).toBe(true)
    const stat = (name: string) => lstatSync(join(shop.root, 'layer/diff', name), { bigint: true })
    const tmp = stat('var/tmp')
    expect([tmp.mode & 0o7777n, tmp.uid, tmp.gid, tmp.mtimeNs]).toEqual([0o1777n, 3n, 4n, 12345678901234n])
    const fresh = stat('fresh')
    expect([fresh.mode & 0o7777n, fresh.uid, fresh.mtimeNs]).toEqual([0o755n, 0n, 77_000_000_000n])
    expect(stat('link').isDirectory()).toBe(true)
    // Over other layers it would be what they have there.
    expect(shop.apply('alone', rawTar({ name: 'fresh/x' }), { lowers: [base] }).usedParents).toBe(true)
    const described = rawTar({ name: 'fresh', type: '5' }, { name: 'fresh/x' })
    expect(shop.apply('described', described, { lowers: [base] }).usedParents).toBe(false)
  })

  test('an entry for the root sets its metadata', () => {
    using shop = openWorkshop()
    shop.apply('layer', rawTar({ name: './', type: '5', mode: 0o1700, uid: 9, mtime: 5 }, { name: './f' }))
    const stat = lstatSync(join(shop.root, 'layer/diff'))
    expect([stat.mode & 0o7777, stat.uid, stat.mtimeMs]).toEqual([0o1700, 9, 5000])
    expectRefused([{ name: './', type: '0' }], 'ISB_ARCHIVE_INVALID', /root/)
  })
})
