import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { describe, expect, test } from 'vitest'
import { processorTime } from '../../../../../test/support/processor-time.js'
import { paxRecord, type RawEntry, rawEntry, rawTar, seededRandom } from '../test-layers.js'
import { type ByteSource, createTarReader, type ReadEntry } from './reader.js'

/** Gives `chunk` bytes at a time, so that everything is once cut in two. */
function sourceOf(bytes: Buffer, chunk = bytes.length): ByteSource {
  let at = 0
  return {
    read(target, offset, length) {
      const count = bytes.copy(target, offset, at, Math.min(bytes.length, at + Math.min(length, chunk)))
      at += count
      return count
    },
  }
}

interface Read {
  readonly entry: ReadEntry
  readonly content: Buffer
}

function readAll(bytes: Buffer, chunk?: number): Read[] {
  const reader = createTarReader(sourceOf(bytes, chunk))
  const found: Read[] = []
  for (let entry = reader.next(); entry !== undefined; entry = reader.next()) {
    const content = Buffer.alloc(Math.min(entry.size, 1 << 20))
    reader.payload((data, offset) => data.copy(content, offset))
    found.push({ entry, content })
  }
  reader.drain()
  return found
}

function first(...entries: readonly (RawEntry | Buffer)[]): ReadEntry {
  const entry = readAll(rawTar(...entries))[0]?.entry
  if (entry === undefined) throw new Error('no entry')
  return entry
}

function base256(value: bigint, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  let rest = value
  for (let index = length - 1; index >= 0; index -= 1) {
    bytes[index] = Number(rest & 0xffn)
    rest >>= 8n
  }
  bytes[0] = (bytes[0] ?? 0) | 0x80
  return bytes
}

function refuses(bytes: Buffer, message: RegExp, code = 'ISB_ARCHIVE_INVALID'): void {
  expect(() => readAll(bytes)).toThrowError(
    expect.objectContaining({ code, message: expect.stringMatching(message) }),
  )
}

describe('names and numbers', () => {
  test('a ustar prefix is put before the name, in ustar only', () => {
    const block = rawEntry({ name: 'name' })
    block.write('some/prefix', 345, 'latin1')
    const fixed = (magic: string): Buffer => {
      const copy = Buffer.from(block)
      copy.write(magic, 257, 'latin1')
      copy.fill(' ', 148, 156)
      const sum = copy.reduce((total, byte) => total + byte, 0)
      copy.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
      return copy
    }
    expect(first(fixed('ustar\x0000')).path).toBe('some/prefix/name')
    expect(first(fixed('ustar  \0')).path).toBe('name')
  })

  test('GNU long names and link names hold any bytes', () => {
    const name = `${'n\xff'.repeat(100)}/x`
    const entry = first(
      { name: '././@LongLink', type: 'L', content: Buffer.from(`${name}\0`, 'latin1') },
      { name: '././@LongLink', type: 'K', content: Buffer.from(`${'k'.repeat(300)}\0`, 'latin1') },
      { name: 'short', type: '2', link: 'short' },
    )
    expect([entry.path, entry.linkName]).toEqual([name, 'k'.repeat(300)])
  })

  test('pax records replace fields, empty ones do not, and fractions of seconds are kept', () => {
    const { path, uid, gid, mtimeNs, xattrs } = first({
      name: 'n',
      uid: 1,
      pax: {
        path: 'p\xffq',
        uid: '4294967294',
        gid: '',
        mtime: '-1.5',
        'SCHILY.xattr.user.a%3Db': '\x00=\n',
      },
    })
    expect({ path, uid, gid, mtimeNs, xattrs }).toEqual({
      ...{ path: 'p\xffq', uid: 4294967294, gid: 0, mtimeNs: -1_500_000_000n },
      xattrs: [{ name: 'user.a=b', value: Buffer.from('\x00=\n') }],
    })
  })

  test('a global pax header changes nothing', () => {
    const content = Buffer.from(paxRecord('path', 'evil') + paxRecord('comment', 'c'))
    expect(first({ name: 'g', type: 'g', content }, { name: 'n' }).path).toBe('n')
    refuses(rawTar({ name: 'g', type: 'g', content: 'broken' }, { name: 'n' }), /pax/)
  })

  test('base-256 numbers count, negative sizes and sizes beyond 2^53 do not', () => {
    const reader = createTarReader(sourceOf(rawTar({ name: 'n', sizeField: base256(9n << 30n, 12) })))
    expect(reader.next()).toMatchObject({ size: 9 * 2 ** 30, storedSize: 9 * 2 ** 30, payloadOffset: 512 })
    refuses(rawTar({ name: 'n', sizeField: base256(-1n & ((1n << 96n) - 1n), 12) }), /size is negative/)
    refuses(rawTar({ name: 'n', sizeField: base256(1n << 60n, 12) }), /size is no number/)
    refuses(rawTar({ name: 'n', sizeField: Buffer.from('9999\0\0\0\0\0\0\0\0') }), /size is no number/)
    refuses(rawTar({ name: 'n', pax: { size: '-1' } }), /"size" has no usable value/)
    refuses(rawTar({ name: 'n', pax: { uid: '4294967295' } }), /"uid"/)
  })

  test('links, directories and devices have no data whatever their size says, as for Go', () => {
    const sizeField = Buffer.from('00000001000\0')
    const found = readAll(
      rawTar(
        { name: 'l', type: '2', link: 't', sizeField },
        { name: 'd', type: '5', sizeField },
        { name: 'f' },
      ),
    )
    expect(found.map(({ entry }) => [entry.path, entry.size])).toEqual([
      ['l', 0],
      ['d', 0],
      ['f', 0],
    ])
  })

  test('in the oldest format a name with a slash at its end is a directory', () => {
    expect(first({ name: 'd/', type: '\0', magic: '\0'.repeat(8) }).type).toBe('directory')
    expect(first({ name: 'f', type: '\0', magic: '\0'.repeat(8) }).type).toBe('file')
  })
})

describe('damage (S36)', () => {
  test('wrong checksums, unknown types and lone zero blocks are refused', () => {
    refuses(rawTar({ name: 'n', badChecksum: true }), /checksum/)
    refuses(rawTar({ name: 'n', type: 'M' }), /unknown tar type/)
    refuses(
      Buffer.concat([rawEntry({ name: 'a' }), Buffer.alloc(512), rawTar({ name: 'b' })]),
      /single block of zeros/,
    )
    refuses(Buffer.concat([Buffer.alloc(512), Buffer.alloc(100)]), /middle of an entry/)
    refuses(rawEntry({ name: 'a', content: 'x'.repeat(600) }).subarray(0, 1000), /middle of an entry/)
    refuses(rawEntry({ name: 'a' }).subarray(0, 300), /middle of an entry/)
  })

  test.each([
    ['no length', 'path=x\n'],
    ['a length too long', '99 path=x\n'],
    ['a length too short', '5 path=x\n'],
    ['no newline', '9 path=xy'],
    ['no key', '6 =xy\n'],
    ['no equals sign', '8 pathx\n'],
    ['a huge length', '99999999999 a=b\n'],
  ])('a pax record with %s is refused', (_, text) => {
    refuses(rawTar({ name: 'x', type: 'x', content: text }, { name: 'n' }), /pax header/)
  })

  test('names, extended headers, attributes and entries have limits', () => {
    const attributes = Object.fromEntries(
      Array.from({ length: 600 }, (_, index) => [`SCHILY.xattr.user.${index}`, 'v']),
    )
    refuses(rawTar({ name: 'n', pax: attributes }), /512 extended attributes/, 'ISB_LIMIT_EXCEEDED')
    refuses(rawTar({ name: 'n', pax: { path: 'p'.repeat(5000) } }), /4096 bytes/, 'ISB_LIMIT_EXCEEDED')
    refuses(
      rawTar({ name: 'n', type: 'x', sizeField: Buffer.from('00020000000\0') }),
      /extended tar header/,
      'ISB_LIMIT_EXCEEDED',
    )
    const many = Array.from({ length: 70 }, () => ({ name: 'x', type: 'x' }))
    refuses(rawTar(...many, { name: 'n' }), /too many extended/)
    const limits = { entries: 3, path: 4096, pax: 1024, xattrs: 1 }
    const reader = createTarReader(sourceOf(rawTar(...['a', 'b', 'c', 'd'].map((name) => ({ name })))), {
      limits,
    })
    expect(() => reader.drain()).toThrowError(expect.objectContaining({ code: 'ISB_LIMIT_EXCEEDED' }))
  })
})

describe('sparse files', () => {
  const sparse10 = (map: string, data: string, size: string): RawEntry => ({
    name: 'GNUSparseFile.0/n',
    content: Buffer.concat([Buffer.from(map.padEnd(512, '\0')), Buffer.from(data)]),
    pax: {
      'GNU.sparse.major': '1',
      'GNU.sparse.minor': '0',
      'GNU.sparse.name': 'n',
      'GNU.sparse.realsize': size,
    },
  })

  test('version 1.0 has its map before the data', () => {
    const [read] = readAll(rawTar(sparse10('2\n2\n3\n8\n1\n', 'abcX', '10')), 7)
    expect(read?.entry).toMatchObject({ path: 'n', size: 10, storedSize: 4 })
    expect(read?.content).toEqual(Buffer.from('\0\0abc\0\0\0X\0'))
  })

  test('versions 0.0 and 0.1 have it in the pax header, old GNU in the header', () => {
    const body = paxRecord('GNU.sparse.size', '6') + paxRecord('GNU.sparse.numblocks', '1')
    const pairs = paxRecord('GNU.sparse.offset', '4') + paxRecord('GNU.sparse.numbytes', '2')
    const list = paxRecord('GNU.sparse.map', '4,2') + paxRecord('GNU.sparse.name', 'real')
    for (const [records, name] of [
      [body + pairs, 'n'],
      [body + list, 'real'],
    ] as const) {
      const [read] = readAll(rawTar({ name: 'x', type: 'x', content: records }, { name: 'n', content: 'ab' }))
      expect([read?.entry.path, read?.content.toString()]).toEqual([name, '\0\0\0\0ab'])
    }
  })

  test.each([
    ['overlapping parts', '2\n0\n3\n2\n1\n', 'abcX', '10'],
    ['parts outside the file', '1\n8\n4\n', 'abcd', '10'],
    ['less data than parts', '1\n0\n9\n', 'abcd', '10'],
    ['more data than parts', '1\n0\n2\n', 'abcd', '10'],
    ['a number that is none', '1\n0\nx\n', 'abcd', '10'],
    ['an endless number', '1'.repeat(512), 'abcd', '10'],
  ])('refuses %s', (_, map, data, size) => {
    refuses(rawTar(sparse10(map, data, size)), /sparse|middle/)
  })

  test('refuses more parts than it wants to remember', () => {
    refuses(rawTar(sparse10('99999999\n', 'abcd', '10')), /more than/, 'ISB_LIMIT_EXCEEDED')
  })
})

test('every split of the input gives the same entries', () => {
  const bytes = rawTar(
    { name: 'a', content: 'x'.repeat(1500) },
    { name: 'b', pax: { path: 'p'.repeat(700), 'SCHILY.xattr.user.x': 'v'.repeat(3000) }, content: 'y' },
    { name: 'c', type: '5' },
  )
  const whole = readAll(bytes)
  expect(whole).toHaveLength(3)
  for (const chunk of [1, 7, 511, 512, 513, 4096]) expect(readAll(bytes, chunk)).toEqual(whole)
})

test('structure and payload together are the whole tar', () => {
  const bytes = Buffer.concat([
    rawTar({ name: 'a', content: 'x'.repeat(700) }, { name: 'b', content: 'y' }),
    Buffer.from('tail'),
  ])
  const parts: Buffer[] = []
  const reader = createTarReader(sourceOf(bytes, 100), {
    onStructure: (view) => parts.push(Buffer.from(view)),
  })
  for (let entry = reader.next(); entry !== undefined; entry = reader.next()) {
    reader.payload((view) => parts.push(Buffer.from(view)))
  }
  reader.drain()
  expect(Buffer.concat(parts).equals(bytes)).toBe(true)
  expect(reader.position).toBe(bytes.length)
})

// Of processor time; on the clock it may be many times that.
const seconds = Number(process.env['ISULA_FUZZ_SECONDS'] ?? '1')

test('random damage gives entries or a clean error, never anything else', {
  timeout: seconds * 30_000 + 30_000,
}, () => {
  const base = rawTar(
    { name: 'a', content: 'x'.repeat(600) },
    { name: 'l', type: 'L', content: 'long/name\0' },
    {
      name: 'b',
      pax: {
        path: 'pp',
        size: '3',
        'GNU.sparse.map': '0,1,2,2',
        'GNU.sparse.major': '0',
        'GNU.sparse.minor': '1',
      },
      content: 'abc',
    },
    { name: 'd', type: 'S', magic: 'ustar  \0' },
    { name: 'e', type: '1', link: 'a' },
  )
  const end = processorTime() + seconds * 1000
  for (let seed = 1; seed < 50 || processorTime() < end; seed += 1) {
    const random = seededRandom(seed)
    const bytes = Buffer.from(base.subarray(0, random(4) === 0 ? random(base.length) : base.length))
    for (let hit = random(6); hit >= 0; hit -= 1) {
      const at = random(bytes.length || 1)
      if (bytes.length > 0) bytes[at] = random(3) === 0 ? 0x30 + random(10) : random(256)
    }
    // Most damage breaks a checksum; repairing it lets the rest be tried.
    if (random(3) > 0) repairChecksums(bytes)
    try {
      readAll(bytes, 1 + random(700))
    } catch (error) {
      if (!isBuilderError(error, 'ISB_ARCHIVE_INVALID') && !isBuilderError(error, 'ISB_LIMIT_EXCEEDED')) {
        throw new Error(`seed ${seed}`, { cause: error })
      }
    }
  }
})

function repairChecksums(bytes: Buffer): void {
  for (let at = 0; at + 512 <= bytes.length; at += 512) {
    if (bytes.toString('latin1', at + 257, at + 262) !== 'ustar') continue
    bytes.fill(' ', at + 148, at + 156)
    let sum = 0
    for (let index = at; index < at + 512; index += 1) sum += bytes[index] ?? 0
    bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, at + 148, 'latin1')
  }
}
