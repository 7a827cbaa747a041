import { execFileSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { TarError } from '../build/tar-member.js'
import { createDirectoryUnpacker } from './unpack-directory.js'

let root: string
let target: string
let outside: string
let count = 0
let omitted: string[] = []

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'client-unpack-'))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))
beforeEach(() => {
  target = join(root, `${count++}`)
  outside = `${target}-outside`
  mkdirSync(target)
  mkdirSync(outside)
  writeFileSync(join(outside, 'kept'), 'kept')
  omitted = []
})

interface Entry {
  readonly name: string
  readonly type?: string
  readonly link?: string
  readonly content?: string
  readonly mode?: number
}

function member({ name, type = '0', link = '', content = '', mode = 0o644 }: Entry): Buffer {
  const head = Buffer.alloc(512)
  head.write(name.slice(0, 100), 0, 'latin1')
  const octal = (value: number, at: number, length: number) =>
    head.write(value.toString(8).padStart(length - 1, '0'), at, 'latin1')
  octal(mode, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(content.length, 124, 12)
  octal(1_000_000, 136, 12)
  head.write(type, 156, 'latin1')
  head.write(link.slice(0, 100), 157, 'latin1')
  head.write('ustar\x0000', 257, 'latin1')
  head.fill(0x20, 148, 156)
  const sum = head.reduce((total, byte) => total + byte, 0)
  head.write(`${sum.toString(8).padStart(6, '0')}\0`, 148, 'latin1')
  const body = Buffer.alloc(Math.ceil(content.length / 512) * 512)
  body.write(content, 0, 'latin1')
  return Buffer.concat([head, body])
}

function pax(records: Readonly<Record<string, string>>, type = 'x'): Buffer {
  const lines = Object.entries(records).map(([key, value]) => {
    const rest = ` ${key}=${value}\n`
    let length = rest.length + 1
    while (`${length}${rest}`.length !== length) length = `${length}${rest}`.length
    return `${length}${rest}`
  })
  return member({ name: 'PaxHeaders/x', type, content: lines.join('') })
}

const end = Buffer.alloc(1024)

function unpack(parts: readonly (Entry | Buffer)[], piece = 1 << 20, owners = false): void {
  const tar = Buffer.concat([...parts.map((part) => (Buffer.isBuffer(part) ? part : member(part))), end])
  unpackBytes(tar, piece, owners)
}

function unpackBytes(tar: Buffer, piece: number, owners = false): void {
  const unpacker = createDirectoryUnpacker(target, { owners, onOmitted: (what) => omitted.push(what) })
  try {
    for (let at = 0; at < tar.length; at += piece) unpacker.write(tar.subarray(at, at + piece))
    unpacker.finish()
  } finally {
    unpacker.close()
  }
}

const descriptors = (): number => readdirSync('/proc/self/fd').length

/** Nothing outside of the target is other than it was. */
function expectUntouched(): void {
  expect(readdirSync(outside)).toEqual(['kept'])
  expect(readFileSync(join(outside, 'kept'), 'utf8')).toBe('kept')
  expect(statSync(outside).mode & 0o7777).toBe(0o755)
}

test.each([1, 7, 512, 1 << 20])('files, directories and links come out of pieces of %i bytes', (piece) => {
  const long = `${'long/'.repeat(2)}${'n'.repeat(150)}`
  unpack(
    [
      { name: './', type: '5', mode: 0o700 },
      { name: 'dir/', type: '5', mode: 0o500 },
      { name: 'dir/file', content: 'x'.repeat(1500), mode: 0o4751 },
      { name: '/dir/../dir'.replace('/..', ''), type: '5', mode: 0o500 },
      { name: 'dir/hard', type: '1', link: 'dir/file' },
      { name: 'link', type: '2', link: '/nowhere' },
      { name: 'long/', type: '5', mode: 0o755 },
      { name: 'long/long/', type: '5', mode: 0o755 },
      pax({ path: long, mtime: '12.5' }),
      { name: 'short', content: 'long' },
      { name: 'latin\xe9', content: 'l' },
      pax({ comment: 'of all' }, 'g'),
      { name: 'empty' },
    ],
    piece,
  )
  expect(readFileSync(join(target, 'dir/hard'), 'utf8')).toBe('x'.repeat(1500))
  expect(statSync(join(target, 'dir/file'))).toMatchObject({ nlink: 2, size: 1500, mtimeMs: 1_000_000_000 })
  // Without owners there is no setuid either.
  expect(statSync(join(target, 'dir/file')).mode & 0o7777).toBe(0o751)
  expect(statSync(join(target, 'dir')).mode & 0o7777).toBe(0o500)
  expect(statSync(target).mode & 0o7777).toBe(0o755)
  expect(readlinkSync(join(target, 'link'))).toBe('/nowhere')
  expect(statSync(join(target, long)).mtimeMs).toBe(12_500)
  expect(readFileSync(Buffer.from(`${target}/latin\xe9`, 'latin1'), 'utf8')).toBe('l')
  expect(statSync(join(target, 'empty')).size).toBe(0)
})

test('devices, FIFOs and what is linked to them are left out and named', () => {
  unpack([
    { name: 'null', type: '3' },
    { name: 'sda', type: '4' },
    { name: 'fifo', type: '6' },
    { name: 'again', type: '1', link: 'fifo' },
    pax({ 'SCHILY.xattr.user.a': 'b' }),
    { name: 'file' },
  ])
  expect(readdirSync(target)).toEqual(['file'])
  expect(omitted).toHaveLength(5)
  expect(omitted.at(-1)).toBe('extended attributes of 1 files')
})

describe('nothing gets out', () => {
  test.each(['../x', 'a/../../x', '..', '/../x', './../x'])('by the name %s', (name) => {
    expect(() =>
      unpack([
        { name: 'a/', type: '5' },
        { name, content: 'bad' },
      ]),
    ).toThrow(TarError)
    expect(() => unpack([{ name: 'h', type: '1', link: name }])).toThrow(TarError)
    expectUntouched()
  })

  test.each(['relative', 'absolute'])('through a %s link of the archive', (kind) => {
    const link = kind === 'absolute' ? outside : `../${outside.slice(root.length + 1)}`
    const trap = { name: 'trap', type: '2', link }
    const code = (entries: readonly Entry[]): unknown => {
      try {
        unpack(entries)
      } catch (error) {
        return isBuilderError(error) || error instanceof TarError
      } finally {
        expectUntouched()
      }
      return 'unpacked'
    }
    expect(code([trap, { name: 'trap/kept', content: 'bad' }])).toBe(true)
    expect(code([trap, { name: 'trap/new/', type: '5' }])).toBe(true)
    expect(
      code([trap, { name: 'hard', type: '1', link: 'trap/kept' }, { name: 'hard', content: 'bad' }]),
    ).toBe(true)
    expect(
      code([
        { name: 'f', type: '2', link: `${outside}/kept` },
        { name: 'f', content: 'new' },
      ]),
    ).toBe('unpacked')
    expect(lstatSync(join(target, 'f')).isFile()).toBe(true)
    // A directory takes the place of the link, and its mode is not that of what the link meant.
    expect(code([trap, { name: 'trap/', type: '5', mode: 0o777 }, { name: 'trap/kept' }])).toBe('unpacked')
    expect(lstatSync(join(target, 'trap')).isDirectory()).toBe(true)
  })

  test('through links that are there', () => {
    symlinkSync(outside, join(target, 'dir'))
    symlinkSync(join(outside, 'kept'), join(target, 'file'))
    unpack([
      { name: 'dir/', type: '5', mode: 0o700 },
      { name: 'dir/kept', content: 'bad' },
      { name: 'file', content: 'bad' },
    ])
    expectUntouched()
    expect(readFileSync(join(target, 'dir/kept'), 'utf8')).toBe('bad')
  })

  test('by a hard link to a link', () => {
    unpack([
      { name: 'soft', type: '2', link: `${outside}/kept` },
      { name: 'hard', type: '1', link: 'soft' },
      { name: 'hard', content: 'bad' },
    ])
    expectUntouched()
  })
})

test('a file takes the place of an empty directory, not of a full one', () => {
  mkdirSync(join(target, 'empty'))
  mkdirSync(join(target, 'full/in'), { recursive: true })
  unpack([{ name: 'empty', content: 'file' }])
  expect(readFileSync(join(target, 'empty'), 'utf8')).toBe('file')
  expect(() => unpack([{ name: 'full', content: 'file' }])).toThrow(/cannot unpack: .* full: /)
  expect(existsSync(join(target, 'full/in'))).toBe(true)
})

test.each([
  ['is cut off', (tar: Buffer) => tar.subarray(0, 1024)],
  ['has no end', (tar: Buffer) => tar.subarray(0, tar.length - 1024)],
  ['has a wrong checksum', (tar: Buffer) => Buffer.from(tar).fill(0x61, 3, 9)],
  ['is nothing', () => Buffer.alloc(0)],
])('an archive that %s is refused', (_, damage) => {
  const tar = Buffer.concat([member({ name: 'file', content: 'x'.repeat(600) }), end])
  expect(() => unpackBytes(damage(tar), 512)).toThrow(TarError)
})

test.each([
  pax({ size: '-1' }),
  pax({ mtime: 'noon' }),
  pax({ uid: '1e9' }),
  pax({ size: '9'.repeat(30) }),
  member({ name: 'x', type: 'x', content: '5 a=b\n' }),
  member({ name: 'x', type: 'x', content: '99 a=b\n' }),
  member({ name: 'x', type: 'x', content: 'a=b' }),
  member({ name: 'x', type: 'S' }),
  pax({ path: 'a\0b' }),
])('malformed records and types are refused (%#)', (head) => {
  expect(() => unpack([head, { name: 'file', content: 'content' }])).toThrow(TarError)
})

test.skipIf(process.getuid?.() !== 0)('root gives files their owners and special bits', () => {
  const tar = join(root, 'owned.tar')
  const made = join(root, 'owned')
  mkdirSync(join(made, 'd'), { recursive: true })
  writeFileSync(join(made, 'd/f'), 'f')
  symlinkSync('f', join(made, 'd/l'))
  execFileSync('sh', ['-c', 'chown -hR 70:80 d && chmod 4755 d/f && chmod 1770 d'], { cwd: made })
  execFileSync('tar', ['--format=pax', '-C', made, '-cf', tar, '.'])
  unpackBytes(readFileSync(tar), 1000, true)
  const list = (at: string): string =>
    execFileSync('find', ['.', '-mindepth', '1', '-printf', '%p %y %m %U:%G %l\n'], {
      cwd: at,
      encoding: 'utf8',
    })
  expect(list(target)).toBe(list(made))
})

test('random archives touch nothing outside and leave nothing open', () => {
  const seconds = Number(process.env['ISULA_FUZZ_SECONDS'] ?? '5')
  const before = descriptors()
  const until = performance.now() + seconds * 1000
  for (let seed = 1; performance.now() < until; seed++) {
    const random = generator(seed)
    const tar = randomTar(random)
    try {
      unpackBytes(tar, 1 + random(2000))
    } catch (error) {
      if (!isBuilderError(error) && !(error instanceof TarError))
        throw new Error(`seed ${seed}`, { cause: error })
    }
    expect(descriptors(), `seed ${seed}`).toBe(before)
    expectUntouched()
    if (seed % 50 === 0) {
      execFileSync('chmod', ['-R', 'u+rwx', target])
      rmSync(target, { recursive: true })
      mkdirSync(target)
    }
  }
  execFileSync('chmod', ['-R', 'u+rwx', target])
}, 120_000)

/** mulberry32. */
function generator(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

function randomTar(random: (below: number) => number): Buffer {
  const pick = <T>(items: readonly T[], otherwise: T): T => items[random(items.length)] ?? otherwise
  const words = ['a', 'b', 'c', '..', '.', '', 'kept', outside.slice(1), '\xe9']
  const path = (): string => Array.from({ length: 1 + random(3) }, () => pick(words, 'a')).join('/')
  const links = [outside, `${outside}/kept`, `../${outside.slice(root.length + 1)}`, 'a', '.', '/', '']
  const parts: Buffer[] = []
  for (let left = 1 + random(12); left > 0; left--) {
    if (random(8) === 0) parts.push(pax({ path: path(), linkpath: pick(links, ''), size: `${random(4)}` }))
    const type = pick(['0', '0', '1', '2', '2', '5', '5', '5', '6', 'x', 'Z'], '0')
    const link = type === '1' ? path() : pick(links, 'a')
    parts.push(
      member({ name: path(), type, link, content: type === '0' ? 'bad' : '', mode: random(0o10000) }),
    )
  }
  const tar = Buffer.concat([...parts, end])
  for (let flips = random(3); flips > 0 && random(3) === 0; flips--) tar[random(tar.length)] = random(256)
  return random(10) === 0 ? tar.subarray(0, random(tar.length)) : tar
}
