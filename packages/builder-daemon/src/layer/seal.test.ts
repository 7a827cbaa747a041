import { execFileSync } from 'node:child_process'
import { closeSync, lstatSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { describe, expect, test } from 'vitest'
import { lsetxattr } from '../system/extended-attributes.js'
import { AT_FDCWD } from '../system/libc.js'
import { fchownat, linkat, mknodat, S_IFCHR, S_IFIFO, symlinkat, utimensat } from '../system/syscalls.js'
import { uncontrolled } from './job-control.js'
import { sealJob, sealTo } from './seal.js'
import { openWorkshop, seededRandom } from './test-layers.js'
import { writeLayerJob } from './write-layer.js'

const asRoot = userInfo().uid === 0

function sealed(upper: string, fixedTime?: number): Buffer {
  const parts: Buffer[] = []
  const result = sealTo({ upper, fixedTime }, uncontrolled, (bytes) => parts.push(Buffer.from(bytes)))
  const tar = Buffer.concat(parts)
  expect(result.tarSize).toBe(tar.length)
  expect(sealJob({ upper, fixedTime })).toEqual({ ...result, contentId: null })
  expect(sealJob({ upper, fixedTime, identify: true })).toMatchObject(result)
  return tar
}

function listed(tar: Buffer, ...args: string[]): string[] {
  const lines = execFileSync('tar', ['-tf', '-', '--quoting-style=escape', ...args], {
    input: tar,
    encoding: 'utf8',
    // Which bytes tar escapes depends on the locale.
    env: { ...process.env, LC_ALL: 'C' },
  })
  return lines.split('\n').filter((line) => line !== '')
}

describe.skipIf(!asRoot)('an upper becomes a changeset', () => {
  test('empty gives the empty tar', () => {
    using shop = openWorkshop()
    expect(sealJob({ upper: shop.layer('l'), fixedTime: undefined })).toEqual({
      diffId: 'sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef',
      tarSize: 1024,
      entries: 0,
      contentId: null,
    })
  })

  test('names are sorted by bytes, a directory comes before what is in it', () => {
    using shop = openWorkshop()
    const upper = shop.layer('l')
    for (const name of ['b', 'a.b', 'a/z', 'a/B', 'Z', '\u00e9']) {
      if (name.includes('/')) mkdirSync(join(upper, 'a'), { recursive: true })
      writeFileSync(join(upper, name), name)
    }
    symlinkat('\xfe', AT_FDCWD, `${upper}/\xff`)
    expect(listed(sealed(upper))).toEqual(['Z', 'a/', 'a/B', 'a/z', 'a.b', 'b', '\\303\\251', '\\377'])
  })

  test('deletions become .wh. entries, opaque directories get a mark', () => {
    using shop = openWorkshop()
    const upper = shop.layer('l')
    mkdirSync(join(upper, 'opaque'))
    lsetxattr(join(upper, 'opaque'), 'trusted.overlay.opaque', Buffer.from('y'))
    writeFileSync(join(upper, 'opaque/a'), '')
    mknodat(AT_FDCWD, join(upper, 'gone'), S_IFCHR, 0, 0)
    linkat(AT_FDCWD, join(upper, 'gone'), AT_FDCWD, join(upper, 'gone2'))
    mkdirSync(join(upper, 'marks'))
    lsetxattr(join(upper, 'marks'), 'trusted.overlay.opaque', Buffer.from('x'))
    writeFileSync(join(upper, 'marks/also'), '')
    lsetxattr(join(upper, 'marks/also'), 'trusted.overlay.whiteout', Buffer.from('y'))
    const expected = [
      '.wh.gone',
      '.wh.gone2',
      'marks/',
      'marks/.wh.also',
      'opaque/',
      'opaque/.wh..wh..opq',
      'opaque/a',
    ]
    expect(listed(sealed(upper))).toEqual(expected)
  })

  test('hard links name the first path in the tar; links outside the layer do not count', () => {
    using shop = openWorkshop()
    const upper = shop.layer('l')
    writeFileSync(join(shop.root, 'outside'), 'o')
    linkat(AT_FDCWD, join(shop.root, 'outside'), AT_FDCWD, join(upper, 'alone'))
    writeFileSync(join(upper, 'z'), 'content')
    mkdirSync(join(upper, 'd'))
    linkat(AT_FDCWD, join(upper, 'z'), AT_FDCWD, join(upper, 'd/first'))
    symlinkat('t', AT_FDCWD, join(upper, 's1'))
    linkat(AT_FDCWD, join(upper, 's1'), AT_FDCWD, join(upper, 's2'))
    const lines = listed(sealed(upper), '-v').map((line) => [line[0], line.replace(/^.*\d\d:\d\d /, '')])
    expect(lines).toEqual([
      ['-', 'alone'],
      ['d', 'd/'],
      ['-', 'd/first'],
      ['l', 's1 -> t'],
      ['h', 's2 link to s1'],
      ['h', 'z link to d/first'],
    ])
  })

  test('sockets and local attributes stay out, FIFOs are not opened', async () => {
    using shop = openWorkshop()
    const upper = shop.layer('l')
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(join(upper, 'socket'), resolve))
    try {
      mknodat(AT_FDCWD, join(upper, 'fifo'), S_IFIFO | 0o600, 0, 0)
      writeFileSync(join(upper, 'f'), 'x')
      for (const name of ['trusted.overlay.origin', 'user.overlay.x', 'user.kept', 'trusted.kept']) {
        lsetxattr(join(upper, 'f'), name, Buffer.from(name))
      }
      const tar = sealed(upper)
      expect(listed(tar)).toEqual(['f', 'fifo'])
      expect(tar.toString('latin1').match(/SCHILY\.xattr\.[a-z.]+/g)).toEqual([
        'SCHILY.xattr.trusted.kept',
        'SCHILY.xattr.user.kept',
      ])
    } finally {
      server.close()
    }
  })

  test('the root has an entry only when its metadata would be lost', () => {
    using shop = openWorkshop()
    const upper = shop.layer('l')
    writeFileSync(join(upper, 'f'), '')
    utimensat(AT_FDCWD, upper, undefined, 5n)
    lsetxattr(upper, 'trusted.overlay.impure', Buffer.from('y'))
    expect(listed(sealed(upper))).toEqual(['f'])
    execFileSync('chmod', ['1777', upper])
    expect(listed(sealed(upper))).toEqual(['./', 'f'])
    const { diffId } = sealJob({ upper, fixedTime: undefined })
    const again = shop.apply('again', sealed(upper))
    expect(again.diffId).toBe(diffId)
    expect(sealJob({ upper: join(shop.root, 'again/diff'), fixedTime: undefined }).diffId).toBe(diffId)
  })

  test('a fixed time is in the tar and on disk, deletions included', () => {
    using shop = openWorkshop()
    const upper = shop.layer('l')
    mkdirSync(join(upper, 'd'))
    writeFileSync(join(upper, 'd/f'), 'x')
    symlinkat('nowhere', AT_FDCWD, join(upper, 'd/s'))
    mknodat(AT_FDCWD, join(upper, 'gone'), S_IFCHR, 0, 0)
    lsetxattr(join(upper, 'd'), 'trusted.overlay.opaque', Buffer.from('y'))
    const tar = sealed(upper, 1_234_567)
    const dates = listed(tar, '-v', '--utc', '--full-time').map((line) => /\d{4}-\S+ \S+/.exec(line)?.[0])
    expect(new Set(dates)).toEqual(new Set(['1970-01-15 06:56:07']))
    expect(dates).toHaveLength(5)
    for (const name of ['', 'd', 'd/f', 'd/s', 'gone'])
      expect(lstatSync(join(upper, name)).mtimeMs).toBe(1_234_567_000)
    expect(sealed(upper).equals(tar)).toBe(true)
  })

  test('a name that means a deletion is an error that names it', () => {
    using shop = openWorkshop()
    const upper = shop.layer('l')
    mkdirSync(join(upper, 'd'))
    writeFileSync(join(upper, 'd/.wh.x'), '')
    expect(() => sealJob({ upper, fixedTime: undefined })).toThrowError(
      expect.objectContaining({ code: 'ISB_UNSUPPORTED', message: expect.stringContaining('/d/.wh.x') }),
    )
  })

  test('an upper that is no self-contained changeset is refused', () => {
    using shop = openWorkshop()
    const upper = shop.layer('l')
    mkdirSync(join(upper, 'd'))
    lsetxattr(join(upper, 'd'), 'trusted.overlay.redirect', Buffer.from('/other'))
    expect(() => sealJob({ upper, fixedTime: undefined })).toThrowError(/no changeset/)
  })

  test('a cancelled job stops between files', () => {
    using shop = openWorkshop()
    const upper = shop.layer('l')
    for (let index = 0; index < 20; index += 1) writeFileSync(join(upper, `${index}`), 'x')
    let calls = 0
    const control = {
      check() {
        calls += 1
        if (calls > 5) throw new BuilderError('ISB_CANCELLED', 'cancelled')
      },
    }
    expect(() => sealJob({ upper, fixedTime: undefined }, control)).toThrowError(/cancelled/)
    expect(calls).toBe(6)
  })
})

/** A tree of everything a layer can hold, the same for the same seed. */
function growTree(upper: string, seed: number): void {
  const random = seededRandom(seed)
  const directories = [upper]
  const files: string[] = []
  for (let index = 0; index < 60; index += 1) {
    const parent = directories[random(directories.length)] ?? upper
    const stem = Array.from({ length: 1 + random(12) }, () =>
      String.fromCharCode(random(5) === 0 ? 128 + random(128) : 97 + random(26)),
    )
    const path = `${parent}/${index}${stem.join('')}${random(12) === 0 ? 'n'.repeat(200) : ''}`
    const bytes = Buffer.from(path, 'latin1')
    const kind = random(12)
    if (kind < 4) {
      writeFileSync(bytes, Buffer.alloc(random(5000), seed))
      files.push(path)
    } else if (kind < 6) {
      mkdirSync(bytes)
      directories.push(path)
    } else if (kind === 6) symlinkat(random(2) === 0 ? '/etc/passwd' : '\xfe\xff', AT_FDCWD, path)
    else if (kind === 7) mknodat(AT_FDCWD, path, S_IFIFO | 0o640, 0, 0)
    else if (kind === 8) mknodat(AT_FDCWD, path, S_IFCHR | 0o640, 1 + random(200), random(70000))
    else if (kind === 9) mknodat(AT_FDCWD, path, S_IFCHR, 0, 0)
    else if (files.length > 0) linkat(AT_FDCWD, files[random(files.length)] ?? '', AT_FDCWD, path)
    else continue
    if (kind === 9) continue
    if (random(3) === 0) fchownat(AT_FDCWD, path, random(5000), random(5_000_000))
    if (kind < 6 && random(3) === 0) lsetxattr(path, 'user.k', Buffer.from([seed, 0, 255]))
    if (kind < 4 && random(4) === 0) {
      lsetxattr(path, 'security.capability', Buffer.from('0100000200040000000000000000000000000000', 'hex'))
    }
    if (kind >= 4 && kind < 6 && random(3) === 0) lsetxattr(path, 'trusted.overlay.opaque', Buffer.from('y'))
  }
  for (const path of [...files, ...directories.slice(1).reverse()]) {
    utimensat(
      AT_FDCWD,
      path,
      undefined,
      BigInt(random(2 ** 31)) * 1_000_000_000n + BigInt(random(999_999_999)),
    )
  }
}

test.skipIf(!asRoot)('seal, apply, seal and writeLayer agree for any tree, and so does GNU tar', () => {
  for (let seed = 1; seed <= 6; seed += 1) {
    using shop = openWorkshop()
    const upper = shop.layer('origin')
    growTree(upper, seed)
    const tar = sealed(upper)
    const { diffId } = sealJob({ upper, fixedTime: undefined })
    const applied = shop.apply('copy', tar, { expectedDiffId: diffId })
    expect(applied).toMatchObject({ diffId, tarSize: tar.length, usedParents: false })
    expect(sealed(join(shop.root, 'copy/diff')).equals(tar), `seed ${seed}`).toBe(true)
    const out = join(shop.root, 'out.tar')
    for (const [name, keepsHeaders] of [
      ['origin', false],
      ['copy', true],
    ] as const) {
      const fd = openSync(out, 'w')
      try {
        writeLayerJob({ layerDirectory: join(shop.root, name), keepsHeaders, fd, expectedDiffId: diffId })
      } finally {
        closeSync(fd)
      }
      expect(readFileSync(out).equals(tar)).toBe(true)
    }
    const gnu = join(shop.root, 'gnu')
    mkdirSync(gnu)
    const options = [
      '--xattrs',
      '--xattrs-include=*',
      '--delay-directory-restore',
      '--warning=no-timestamp',
      '-C',
      gnu,
      '-xpf',
      out,
    ]
    execFileSync('tar', options)
    // Deletions are plain files to GNU tar.
    execFileSync('find', [gnu, '-name', '.wh.*', '-delete'])
    const names = (bytes: Buffer): string[] => listed(bytes).filter((name) => !name.includes('.wh.'))
    expect(names(sealed(gnu))).toEqual(names(tar))
  }
})

test('a damaged canonical layer is reported after the fact', () => {
  using shop = openWorkshop()
  const upper = shop.layer('l')
  writeFileSync(join(upper, 'f'), 'x')
  const { diffId } = sealJob({ upper, fixedTime: undefined })
  const write = (): unknown => {
    const fd = openSync('/dev/null', 'w')
    try {
      return writeLayerJob({
        layerDirectory: join(shop.root, 'l'),
        keepsHeaders: false,
        fd,
        expectedDiffId: diffId,
      })
    } finally {
      closeSync(fd)
    }
  }
  expect(write()).toMatchObject({ diffId })
  writeFileSync(join(upper, 'f'), 'y')
  expect(write).toThrowError(expect.objectContaining({ code: 'ISB_IMAGE_DAMAGED' }))
})
