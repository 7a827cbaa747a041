import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { seededRandom } from '../test-layers.js'
import { noAttributes, type TarEntry } from './entry.js'
import { createTarReader } from './reader.js'
import { createTarWriter, encodeHeader, type TarSummary } from './writer.js'

const plain: TarEntry = {
  ...{ path: 'f', type: 'file', mode: 0o644, uid: 0, gid: 0, size: 0, mtimeNs: 1_000_000_000n, linkName: '' },
  ...{ deviceMajor: 0, deviceMinor: 0, xattrs: noAttributes },
} as const

interface Written extends TarSummary {
  readonly bytes: Buffer
}

function write(fill: (writer: ReturnType<typeof createTarWriter>) => void): Written {
  const parts: Buffer[] = []
  const writer = createTarWriter((bytes) => parts.push(Buffer.from(bytes)))
  fill(writer)
  const summary = writer.finish()
  return { ...summary, bytes: Buffer.concat(parts) }
}

function entriesOf(bytes: Buffer): TarEntry[] {
  let at = 0
  const reader = createTarReader({
    read(target, offset, length) {
      const count = bytes.copy(target, offset, at, Math.min(bytes.length, at + length))
      at += count
      return count
    },
  })
  const found: TarEntry[] = []
  for (let entry = reader.next(); entry !== undefined; entry = reader.next()) {
    const { sparse, payloadOffset, storedSize, ...own } = entry
    expect([sparse, storedSize]).toEqual([undefined, entry.size])
    expect(payloadOffset % 512).toBe(0)
    found.push({ ...own, path: own.type === 'directory' ? own.path.replace(/\/$/, '') : own.path })
  }
  return found
}

test('nothing gives the empty tar of every image with an empty layer', () => {
  const { diffId, tarSize, entries } = write(() => {})
  expect(diffId).toBe('sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef')
  expect([tarSize, entries]).toEqual([1024, 0])
})

test('the summary is that of the bytes', () => {
  const written = write((writer) => {
    writer.entry({ ...plain, size: 5 })
    writer.payload(Buffer.from('he'))
    writer.payload(Buffer.from('llo'))
    writer.entry({ ...plain, path: 'big', size: 3_000_000 })
    writer.payload(Buffer.alloc(2_000_000, 1))
    let left = 1_000_000
    expect(
      writer.payloadFrom((target, offset, length) => {
        const count = Math.min(length, left, 333_333)
        target.fill(2, offset, offset + count)
        left -= count
        return count
      }),
    ).toBe(true)
  })
  expect(written.diffId).toBe(`sha256:${createHash('sha256').update(written.bytes).digest('hex')}`)
  expect([written.tarSize, written.entries]).toEqual([written.bytes.length, 2])
  expect(written.bytes.subarray(512, 517).toString()).toBe('hello')
})

test('a payload that is too long, too short or ends early is noticed', () => {
  const writer = createTarWriter()
  writer.entry({ ...plain, size: 4 })
  expect(() => writer.payload(Buffer.alloc(5))).toThrowError(/more payload/)
  expect(writer.payloadFrom(() => 0)).toBe(false)
  expect(() => writer.entry(plain)).toThrowError(/short/)
  expect(() => writer.finish()).toThrowError(/short/)
})

describe('pax headers', () => {
  const single = (change: Partial<TarEntry>): number => encodeHeader({ ...plain, ...change }).length

  test('are written only where ustar cannot say it', () => {
    expect(single({})).toBe(512)
    expect(single({ path: 'n'.repeat(100), linkName: 'l'.repeat(100) })).toBe(512)
    expect(single({ path: `${'d'.repeat(155)}/${'n'.repeat(100)}` })).toBe(512)
    expect(single({ uid: 0o7777777, gid: 0o7777777, size: 0o77777777777, mtimeNs: 0n })).toBe(512)
    for (const change of [
      { path: 'n'.repeat(101) },
      { path: `${'d'.repeat(156)}/n` },
      { path: 'n\xff' },
      { type: 'directory', path: 'd'.repeat(100) },
      { linkName: 'l'.repeat(101) },
      { uid: 0o10000000 },
      { gid: 0o10000000 },
      { size: 8 * 2 ** 30 },
      { mtimeNs: -1n },
      { xattrs: [{ name: 'user.a', value: Buffer.alloc(0) }] },
    ] satisfies readonly Partial<TarEntry>[]) {
      expect(
        single(change),
        JSON.stringify(change, (_, value) => (typeof value === 'bigint' ? `${value}` : value)),
      ).toBe(1536)
    }
  })

  test('fractions of seconds are cut, downwards', () => {
    const times = [1_999_999_999n, -1n, -1_000_000_000n, 0n]
    const { bytes } = write((writer) => {
      for (const mtimeNs of times) writer.entry({ ...plain, mtimeNs })
    })
    expect(entriesOf(bytes).map(({ mtimeNs }) => mtimeNs)).toEqual([
      1_000_000_000n,
      -1_000_000_000n,
      -1_000_000_000n,
      0n,
    ])
  })
})

function randomEntry(random: (below: number) => number): TarEntry {
  const name = (length: number): string =>
    Array.from({ length }, () =>
      String.fromCharCode(random(4) === 0 ? 128 + random(128) : 97 + random(26)),
    ).join('')
  const path = Array.from({ length: 1 + random(4) }, () => name(1 + random(random(3) === 0 ? 250 : 30))).join(
    '/',
  )
  const type =
    (['file', 'directory', 'symlink', 'hardlink', 'character', 'block', 'fifo'] as const)[random(7)] ?? 'file'
  const device = type === 'character' || type === 'block'
  return {
    path,
    type,
    mode: random(0o10000),
    uid: random(3) === 0 ? random(2 ** 31) : random(70000),
    gid: random(3) === 0 ? random(2 ** 31) : random(70000),
    size: type === 'file' ? random(3000) : 0,
    mtimeNs: BigInt(random(2 ** 31) - 2 ** 29) * 1_000_000_000n,
    linkName: type === 'symlink' || type === 'hardlink' ? name(1 + random(300)) : '',
    deviceMajor: device ? random(4096) : 0,
    deviceMinor: device ? random(1 << 20) : 0,
    xattrs: Array.from({ length: random(4) }, (_, index) => ({
      name: `user.${index}${random(2) === 0 ? '=%' : ''}${name(5)}`,
      value: Buffer.from(Array.from({ length: random(400) }, () => random(256))),
    })),
  }
}

test('what is written is read again, for any entry', () => {
  for (let seed = 1; seed <= 120; seed += 1) {
    const random = seededRandom(seed)
    const entries = Array.from({ length: 1 + random(5) }, () => randomEntry(random))
    const { bytes } = write((writer) => {
      for (const entry of entries) {
        writer.entry(entry)
        if (entry.size > 0) writer.payload(Buffer.alloc(entry.size, seed))
      }
    })
    expect(entriesOf(bytes), `seed ${seed}`).toEqual(entries)
  }
})

test('python reads the same names, sizes, owners, times and attributes', () => {
  const entries = Array.from({ length: 60 }, (_, index) => randomEntry(seededRandom(1000 + index)))
  const { bytes } = write((writer) => {
    for (const entry of entries) {
      writer.entry(entry)
      if (entry.size > 0) writer.payload(Buffer.alloc(entry.size, 7))
    }
  })
  const script = `
import sys, tarfile, io, json
tar = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()), errors='surrogateescape')
raw = lambda text: text.encode('utf-8', 'surrogateescape').decode('latin1')
print(json.dumps([[raw(m.name), m.mode, m.uid, m.gid, m.size, int(m.mtime), raw(m.linkname), m.type.decode(), m.devmajor, m.devminor] for m in tar]))`
  const output = execFileSync('python3', ['-c', script], { input: bytes, encoding: 'utf8' })
  const flags = {
    file: '0',
    hardlink: '1',
    symlink: '2',
    character: '3',
    block: '4',
    directory: '5',
    fifo: '6',
  }
  const expected = entries.map((entry) => [
    ...[entry.path, entry.mode, entry.uid, entry.gid, entry.size, Number(entry.mtimeNs / 1_000_000_000n)],
    ...[entry.linkName, flags[entry.type], entry.deviceMajor, entry.deviceMinor],
  ])
  expect(JSON.parse(output)).toEqual(expected)
})
