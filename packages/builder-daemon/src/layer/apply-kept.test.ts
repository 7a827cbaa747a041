import { execFileSync } from 'node:child_process'
import {
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, digestOf } from '@isula-build/shared/oci/digest.js'
import { describe, expect, test } from 'vitest'
import { openWorkshop, paxRecord, type RawEntry, rawEntry, rawTar, seededRandom } from './test-layers.js'
import { writeLayerJob } from './write-layer.js'

const asRoot = userInfo().uid === 0

describe.skipIf(!asRoot)('the kept tar', () => {
  test('is byte-identical with duplicates, replaced trees, odd headers and bytes after the end', () => {
    using shop = openWorkshop()
    const archive = Buffer.concat([
      rawTar(
        { name: 'a', content: 'first' },
        { name: 'a', content: 'second, longer' },
        { name: 'd/x', content: 'x'.repeat(3000) },
        { name: 'd/y', content: 'y' },
        { name: 'd', content: 'now a file' },
        { name: 'h', content: 'h' },
        { name: 'i', type: '1', link: 'h' },
        { name: 'h', content: 'other' },
        { name: 'old', content: 'v7', magic: '\0\0\0\0\0\0\0\0' },
        { name: 'g', type: 'g', content: paxRecord('comment', 'something') },
        { name: 'empty' },
        { name: 'long', pax: { path: 'l'.repeat(200), mtime: '1.5' }, content: 'l' },
      ),
      Buffer.from('bytes after the end'),
    ])
    const result = shop.apply('layer', archive)
    const root = join(shop.root, 'layer/diff')
    expect(readFileSync(join(root, 'a'), 'utf8')).toBe('second, longer')
    expect(readFileSync(join(root, 'd'), 'utf8')).toBe('now a file')
    expect(readFileSync(join(root, 'i'), 'utf8')).toBe('h')
    expect(result.diffId).toBe(digestOf(archive))
    expect(result.tarSize).toBe(archive.length)
    expect(shop.written('layer').equals(archive)).toBe(true)
    expect(readdirSync(join(shop.root, 'layer')).sort()).toEqual(['archive', 'diff', 'headers.gz'])
  })

  test('a changed, missing or linked file is reported as damage', () => {
    using shop = openWorkshop()
    const archive = rawTar({ name: 'f', content: 'content' })
    const { diffId } = shop.apply('layer', archive)
    const file = join(shop.root, 'layer/diff/f')
    const write = (): unknown => {
      const fd = openSync('/dev/null', 'w')
      try {
        const layerDirectory = join(shop.root, 'layer')
        return writeLayerJob({ layerDirectory, keepsHeaders: true, fd, expectedDiffId: diffId })
      } finally {
        closeSync(fd)
      }
    }
    expect(write()).toMatchObject({ diffId, tarSize: archive.length, entries: 1 })
    writeFileSync(file, 'CONTENT')
    expect(write).toThrowError(expect.objectContaining({ code: 'ISB_IMAGE_DAMAGED' }))
    writeFileSync(file, 'short')
    expect(write).toThrowError(/file of 7 bytes/)
    execFileSync('rm', [file])
    expect(write).toThrowError(/cannot be opened/)
    symlinkSync('/etc/passwd', file)
    expect(write).toThrowError(expect.objectContaining({ code: 'ISB_IMAGE_DAMAGED' }))
    writeFileSync(join(shop.root, 'layer/headers.gz'), gzipSync('ISBH1\nS'))
    expect(write).toThrowError(/headers of a layer are damaged/)
  })
})

describe.skipIf(!asRoot)('limits and digests (S36, S37, S40)', () => {
  test('a wrong diff ID is refused', () => {
    using shop = openWorkshop()
    const expectedDiffId = digestOf('something else') as DiffId
    expect(() => shop.apply('layer', rawTar({ name: 'f' }), { expectedDiffId })).toThrowError(
      expect.objectContaining({ code: 'ISB_DIGEST_MISMATCH' }),
    )
  })

  test('a bomb stops at the byte limit', () => {
    using shop = openWorkshop()
    const bomb = gzipSync(rawTar({ name: 'zeros', content: Buffer.alloc(20 << 20) }))
    expect(() => shop.apply('layer', bomb, { limit: 1 << 20 })).toThrowError(
      expect.objectContaining({ code: 'ISB_LIMIT_EXCEEDED' }),
    )
  })

  test('a sparse file cannot claim more than the limit', () => {
    using shop = openWorkshop()
    const pax = {
      'GNU.sparse.major': '0',
      'GNU.sparse.minor': '1',
      'GNU.sparse.map': '0,1',
      'GNU.sparse.size': '99999999999',
    }
    expect(() => shop.apply('layer', rawTar({ name: 's', content: 'x', pax }))).toThrowError(
      expect.objectContaining({ code: 'ISB_LIMIT_EXCEEDED' }),
    )
  })

  test('a range of a larger file is read, and one that ends early refused', () => {
    using shop = openWorkshop()
    const inner = rawTar({ name: 'f', content: 'x' })
    const outer = Buffer.concat([Buffer.alloc(100, 1), inner, Buffer.alloc(50, 2)])
    const range = { offset: 100, length: inner.length }
    expect(shop.apply('layer', outer, { range }).diffId).toBe(digestOf(inner))
    const tooLong = { offset: 100, length: inner.length + 51 }
    expect(() => shop.apply('other', outer, { range: tooLong })).toThrowError(/ends 1 bytes early/)
  })

  test('a tar cut at any block boundary is refused or means what it means to Go', () => {
    using shop = openWorkshop()
    const archive = rawTar({ name: 'a', content: 'x'.repeat(700) }, { name: 'b', pax: { path: 'bb' } })
    for (let at = 0; at <= archive.length; at += 512) {
      const cut = archive.subarray(0, at)
      const atEntry = [0, 1536, 2560, 3072, 3584, 4096].includes(at)
      const apply = () => shop.apply(`cut-${at}`, cut)
      if (atEntry) expect(apply().diffId).toBe(digestOf(cut))
      else expect(apply, `at ${at}`).toThrowError(expect.objectContaining({ code: 'ISB_ARCHIVE_INVALID' }))
    }
  })
})

test.skipIf(!asRoot)('any sequence of entries is refused, or kept byte for byte and harmless', () => {
  const parts = ['a', 'b', 'c', '..', '.wh.a', '.wh.b', '.wh..wh..opq', '.', '']
  const types = ['0', '0', '0', '5', '5', '1', '2', '6']
  let kept = 0
  const end = Date.now() + Math.min(Number(process.env['ISULA_FUZZ_SECONDS'] ?? '5'), 20) * 400
  for (let seed = 1; seed <= 150 || Date.now() < end; seed += 1) {
    using shop = openWorkshop()
    const random = seededRandom(seed)
    const path = (): string =>
      Array.from({ length: 1 + random(3) }, () => parts[random(random(8) === 0 ? parts.length : 6)]).join('/')
    const safe = (): string =>
      path()
        .replaceAll('..', 'a')
        .replace(/\.wh\.[^/]*\//g, 'c/')
    const entries = Array.from({ length: 1 + random(12) }, (): RawEntry => {
      const type = types[random(types.length)] ?? '0'
      const mode = 0o600 + random(0o200)
      const link = random(5) === 0 ? `${shop.root}/canary` : random(2) === 0 ? safe() : path()
      return {
        name: random(10) === 0 ? path() : safe(),
        type,
        link,
        mode,
        content: type === '0' ? 'x'.repeat(random(700)) : '',
      }
    })
    const base = shop.layer('base')
    mkdirSync(join(base, 'a/b'), { recursive: true })
    writeFileSync(join(base, 'a/b/c'), 'below')
    writeFileSync(join(base, 'b'), 'below')
    mkdirSync(join(shop.root, 'canary'))
    const archive = rawTar(...entries)
    const openBefore = readdirSync('/proc/self/fd').length
    try {
      const result = shop.apply('layer', archive, { lowers: [base] })
      expect(result.diffId).toBe(digestOf(archive))
      expect(shop.written('layer').equals(archive)).toBe(true)
      kept += 1
    } catch (error) {
      if (!isBuilderError(error, 'ISB_ARCHIVE_INVALID')) throw new Error(`seed ${seed}`, { cause: error })
    }
    expect(readdirSync(join(shop.root, 'canary')), `seed ${seed}`).toEqual([])
    expect(execFileSync('find', [base], { encoding: 'utf8' }).split('\n')).toHaveLength(6)
    expect(readdirSync('/proc/self/fd').length, `seed ${seed}`).toBe(openBefore)
  }
  expect(kept).toBeGreaterThan(20)
})

test.skipIf(!asRoot)('GNU tar, hard links and all, unpacks to what was packed', () => {
  using shop = openWorkshop()
  const tree = join(shop.root, 'tree')
  mkdirSync(join(tree, 'sub'), { recursive: true })
  writeFileSync(join(tree, 'sub/a'), 'a')
  linkSync(join(tree, 'sub/a'), join(tree, 'b'))
  const archive = execFileSync('tar', ['--format=gnu', '-C', tree, '-cf', '-', '.'])
  const result = shop.apply('layer', archive)
  expect(result.entries).toBe(4)
  execFileSync('diff', ['-r', tree, join(shop.root, 'layer/diff')])
  expect(rawEntry({ name: 'x' }).length).toBe(512)
})
