import { execFileSync } from 'node:child_process'
import {
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { rootedPath } from '@isula-build/shared/oci/byte-path.js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { CopyParams } from '../../ports/layer-worker.js'
import { openMerged } from '../../system/detached-overlay.js'
import { lgetxattr } from '../../system/extended-attributes.js'
import { statPath } from '../../system/file-stat.js'
import { sealJob } from '../seal.js'
import type { TarEntry } from '../tar/entry.js'
import { createTarWriter } from '../tar/writer.js'
import { rawTar } from '../test-layers.js'
import { copyJob, digestSourcesJob } from './copy.js'

const isRoot = process.getuid?.() === 0

type Part = Partial<TarEntry> & { readonly path: string; readonly content?: string }

function tarOf(...parts: readonly Part[]): Buffer {
  const blocks: Buffer[] = []
  const writer = createTarWriter((bytes) => blocks.push(Buffer.from(bytes)))
  for (const { content = '', ...part } of parts) {
    const type = part.type ?? 'file'
    writer.entry({
      type,
      mode: type === 'directory' ? 0o755 : 0o644,
      uid: 0,
      gid: 0,
      size: content.length,
      mtimeNs: 1_000_000_000n,
      linkName: '',
      deviceMajor: 0,
      deviceMinor: 0,
      xattrs: [],
      ...part,
    })
    writer.payload(Buffer.from(content))
  }
  writer.finish()
  return Buffer.concat(blocks)
}

describe.skipIf(!isRoot)('ADD of archives (needs root)', () => {
  let base: string
  let contextFd: number
  let context: string
  let layers: string[]

  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), 'archive-'))
    context = join(base, 'context')
    mkdirSync(context)
    contextFd = openSync(context, 'r')
    layers = []
  })
  afterEach(() => {
    closeSync(contextFd)
    rmSync(base, { recursive: true, force: true })
  })

  function layer(fill: (directory: string) => void): void {
    const directory = join(base, `lower-${layers.length}`)
    mkdirSync(directory)
    fill(directory)
    layers.unshift(directory)
  }

  function add(archive: Buffer, destination = '/', more: Partial<CopyParams> = {}): string {
    writeFileSync(join(context, 'archive'), archive)
    const upper = join(mkdtempSync(join(base, 'staging-')), 'upper')
    mkdirSync(upper)
    const params: CopyParams = {
      upper,
      lowers: layers,
      instruction: 'ADD',
      inputs: [
        {
          kind: 'tree',
          root: { access: 'direct', fd: contextFd },
          pattern: 'archive',
          unpack: true,
          ignore: [],
          ignoreFile: undefined,
          isContext: true,
        },
      ],
      destination: rootedPath(destination),
      intoDirectory: destination.endsWith('/'),
      chown: undefined,
      chmod: undefined,
      link: false,
      parents: false,
      excludes: [],
      fixedTime: undefined,
      ...more,
    }
    const { contentKey, ...written } = copyJob(params)
    expect(digestSourcesJob(params).contentKey).toBe(contentKey)
    expect(sealJob({ upper, fixedTime: undefined, identify: true })).toEqual(written)
    expect(readdirSync(join(upper, '..'))).toEqual(['sources', 'upper'])
    return upper
  }

  function list(directory: string, prefix = ''): string[] {
    return readdirSync(directory, { withFileTypes: true })
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .flatMap((entry) => {
        const path = prefix + entry.name
        if (!entry.isDirectory()) return [path]
        return [`${path}/`, ...list(join(directory, entry.name), `${path}/`)]
      })
  }

  function merged(upper: string): string[] {
    const view = openMerged([upper, ...layers])
    try {
      return list(`/proc/self/fd/${view.fd}`)
    } finally {
      view.close()
    }
  }

  const compressed: Readonly<Record<string, (tar: Buffer) => Buffer>> = {
    'no compression': (tar) => tar,
    gzip: (tar) => gzipSync(tar),
    xz: (tar) => execFileSync('xz', ['-c'], { input: tar }),
    bzip2: (tar) => execFileSync('bzip2', ['-c'], { input: tar }),
    zstd: (tar) => execFileSync('zstd', ['-qc'], { input: tar }),
  }

  test.each(Object.keys(compressed))('unpacks with %s', (name) => {
    const tar = tarOf(
      { path: 'd', type: 'directory', mode: 0o750, uid: 3, gid: 4 },
      { path: 'd/f', content: 'content', mode: 0o4711, uid: 5, gid: 6 },
      { path: 'd/l', type: 'symlink', linkName: 'f' },
    )
    const upper = add(compressed[name]?.(tar) ?? Buffer.alloc(0), '/o')
    expect(list(upper)).toEqual(['o/', 'o/d/', 'o/d/f', 'o/d/l'])
    expect(lstatSync(join(upper, 'o/d'))).toMatchObject({ mode: 0o40750, uid: 3, gid: 4 })
    expect(lstatSync(join(upper, 'o/d/f'))).toMatchObject({ mode: 0o104711, uid: 5, gid: 6, mtimeMs: 1000 })
    expect(readFileSync(join(upper, 'o/d/f'), 'utf8')).toBe('content')
    expect(readlinkSync(join(upper, 'o/d/l'))).toBe('f')
  })

  test('what only looks like an archive is copied', () => {
    for (const content of ['', 'plain text', '\0'.repeat(1024), gzipSync('no tar inside')]) {
      expect(list(add(Buffer.from(content), '/o/'))).toEqual(['o/', 'o/archive'])
    }
  })

  test('an archive that is damaged behind its first entry fails', () => {
    const tar = tarOf({ path: 'a', content: 'a' }, { path: 'b', content: 'b'.repeat(2000) })
    expect(() => add(tar.subarray(0, 2200))).toThrow(expect.objectContaining({ code: 'ISB_ARCHIVE_INVALID' }))
    const zipped = gzipSync(tarOf({ path: 'a', content: 'x'.repeat(100_000) }))
    zipped.writeUInt32LE(0, zipped.length - 8)
    expect(() => add(zipped)).toThrow(expect.objectContaining({ code: 'ISB_ARCHIVE_INVALID' }))
  })

  test('the owner of --chown is that of the directory, not of what is unpacked', () => {
    const upper = add(tarOf({ path: 'f', uid: 9, gid: 9 }), '/o/', { chown: '7:8', chmod: '600' })
    expect(lstatSync(join(upper, 'o'))).toMatchObject({ uid: 7, gid: 8, mode: 0o40755 })
    expect(lstatSync(join(upper, 'o/f'))).toMatchObject({ uid: 9, gid: 9, mode: 0o100644 })
  })

  test('a hard link gives its metadata to the file', () => {
    const upper = add(
      tarOf(
        { path: 'f', content: 'file', mode: 0o640, uid: 5 },
        { path: 'h', type: 'hardlink', linkName: 'f', mode: 0o600, uid: 6, mtimeNs: 5_000_000_000n },
      ),
    )
    expect(lstatSync(join(upper, 'f'))).toMatchObject({ mode: 0o100600, uid: 6, nlink: 2, mtimeMs: 5000 })
    expect(readFileSync(join(upper, 'h'), 'utf8')).toBe('file')
  })

  test('a hard link to a file of the image copies it up', () => {
    layer((directory) => writeFileSync(join(directory, 'old'), 'from below'))
    const upper = add(tarOf({ path: 'new', type: 'hardlink', linkName: '/old', mode: 0o600 }))
    expect(list(upper)).toEqual(['new', 'old'])
    expect(readFileSync(join(upper, 'new'), 'utf8')).toBe('from below')
    expect(lstatSync(join(upper, 'old'))).toMatchObject({ mode: 0o100600, nlink: 2 })
  })

  test('a hard link to nothing, to a directory or to itself fails', () => {
    for (const linkName of ['nothing', 'd', 'h', '../../etc/passwd']) {
      const tar = tarOf({ path: 'd', type: 'directory' }, { path: 'h', type: 'hardlink', linkName })
      expect(() => add(tar)).toThrow(expect.objectContaining({ code: 'ISB_ARCHIVE_INVALID' }))
    }
  })

  test('neither .. nor links lead out of the destination', () => {
    layer((directory) => {
      mkdirSync(join(directory, 'o'))
      symlinkSync('/escape', join(directory, 'o/abs'))
      symlinkSync('../../..', join(directory, 'o/up'))
    })
    const upper = add(
      tarOf(
        { path: '../../dots' },
        { path: 'l', type: 'symlink', linkName: '/etc' },
        { path: 'l/through' },
        { path: 'abs/below' },
        { path: 'up/climbed' },
      ),
      '/o',
    )
    expect(list(upper)).toEqual([
      'o/',
      'o/climbed',
      'o/dots',
      'o/escape/',
      'o/escape/below',
      'o/etc/',
      'o/etc/through',
      'o/l',
    ])
  })

  test('files replace directories and the other way round, and nothing shines through', () => {
    layer((directory) => {
      mkdirSync(join(directory, 'd/sub'), { recursive: true })
      writeFileSync(join(directory, 'd/old'), 'old')
      writeFileSync(join(directory, 'f'), 'file')
    })
    expect(merged(add(tarOf({ path: 'd', content: 'now a file' })))).toEqual(['d', 'f'])
    expect(merged(add(tarOf({ path: 'f', type: 'directory' }, { path: 'f/x' })))).toEqual([
      'd/',
      'd/old',
      'd/sub/',
      'f/',
      'f/x',
    ])
    const again = tarOf({ path: 'd' }, { path: 'd', type: 'directory' }, { path: 'd/new' })
    expect(merged(add(again))).toEqual(['d/', 'd/new', 'f'])
    expect(merged(add(tarOf({ path: 'd', type: 'directory' }, { path: 'd/new' })))).toEqual([
      'd/',
      'd/new',
      'd/old',
      'd/sub/',
      'f',
    ])
  })

  test('devices, FIFOs and attributes are kept, local attributes are not', () => {
    const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex')
    const upper = add(
      tarOf(
        { path: 'dev', type: 'character', deviceMajor: 1, deviceMinor: 3, mode: 0o660 },
        { path: 'fifo', type: 'fifo' },
        {
          path: 'f',
          xattrs: [
            { name: 'security.capability', value: capability },
            { name: 'trusted.overlay.opaque', value: Buffer.from('y') },
            { name: 'user.a', value: Buffer.from([0, 255]) },
          ],
        },
      ),
    )
    expect(statPath(join(upper, 'dev'))).toMatchObject({ type: 'character', rdevMajor: 1, rdevMinor: 3 })
    expect(statPath(join(upper, 'fifo')).type).toBe('fifo')
    expect(lgetxattr(join(upper, 'f'), 'security.capability')).toEqual(capability)
    expect(lgetxattr(join(upper, 'f'), 'user.a')).toEqual(Buffer.from([0, 255]))
    expect(lgetxattr(join(upper, 'f'), 'trusted.overlay.opaque')).toBeUndefined()
  })

  test('an entry that would be a deletion fails', () => {
    expect(() => add(tarOf({ path: '.wh.f' }))).toThrow(expect.objectContaining({ code: 'ISB_UNSUPPORTED' }))
    expect(() => add(tarOf({ path: 'z', type: 'character' }))).toThrow(
      expect.objectContaining({ code: 'ISB_COPY_FAILED' }),
    )
  })

  const sparse = (size: number): Buffer =>
    rawTar({
      name: 's',
      content: 'abc',
      pax: {
        'GNU.sparse.major': '0',
        'GNU.sparse.minor': '1',
        'GNU.sparse.size': String(size),
        'GNU.sparse.map': '1,3',
      },
    })

  test('a sparse file that ends in a hole has its full size', () => {
    expect(readFileSync(join(add(sparse(10)), 's'), 'latin1')).toBe('\0abc\0\0\0\0\0\0')
  })

  test('sparse files claim no more than a compressed archive may unpack to', () => {
    expect(() => add(sparse(2 ** 31))).toThrow(expect.objectContaining({ code: 'ISB_LIMIT_EXCEEDED' }))
  })

  test('the destination must be a directory or free', () => {
    layer((directory) => writeFileSync(join(directory, 'file'), ''))
    expect(() => add(tarOf({ path: 'x' }), '/file')).toThrow(
      expect.objectContaining({ code: 'ISB_COPY_FAILED', message: '/file is not a directory' }),
    )
  })
})
