import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { pipe2 } from '../../system/processes.js'
import { type JobControl, uncontrolled } from '../job-control.js'
import { seededRandom } from '../test-layers.js'
import { type DecompressLimits, decompress } from './decompress.js'
import { descriptorSource } from './descriptor-source.js'

const unlimited: DecompressLimits = { bytes: 2 ** 40, ratio: 2 ** 40, ratioFrom: 0 }
const random = seededRandom(7)
const content = Buffer.from(Array.from({ length: 300_000 }, () => 97 + random(random(100) + 1)))

let directory = ''
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-build-decompress-'))
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

function program(path: string, ...args: string[]): Buffer {
  return execFileSync(path, args, { input: content, maxBuffer: 1 << 30 })
}

function decompressed(
  bytes: Buffer,
  limits = unlimited,
  chunk = 50_000,
): { text: Buffer; compression: string } {
  const file = join(directory, 'data')
  writeFileSync(file, bytes)
  const fd = openSync(file, 'r')
  const parts: Buffer[] = []
  try {
    const source = decompress(descriptorSource(fd, undefined, uncontrolled), limits, uncontrolled)
    try {
      const target = Buffer.allocUnsafe(chunk + 9)
      for (let count = source.read(target, 9, chunk); count > 0; count = source.read(target, 9, chunk)) {
        parts.push(Buffer.from(target.subarray(9, 9 + count)))
      }
      return { text: Buffer.concat(parts), compression: source.compression }
    } finally {
      source.close()
      source.close()
    }
  } finally {
    closeSync(fd)
  }
}

function refuses(bytes: Buffer, message: RegExp, code = 'ISB_ARCHIVE_INVALID', limits = unlimited): void {
  expect(() => decompressed(bytes, limits)).toThrowError(
    expect.objectContaining({ code, message: expect.stringMatching(message) }),
  )
}

const formats = [
  { name: 'gzip', path: '/usr/bin/gzip', args: ['-c'] },
  { name: 'zstd', path: '/usr/bin/zstd', args: ['-qc'] },
  { name: 'xz', path: '/usr/bin/xz', args: ['-1c'] },
  { name: 'bzip2', path: '/usr/bin/bzip2', args: ['-c'] },
]

describe.each(formats)('$name', ({ name, path, args }) => {
  test.skipIf(!existsSync(path))('gives the content, of one stream or two, in reads of any size', () => {
    const packed = program(path, ...args)
    const whole = decompressed(packed)
    expect([whole.compression, whole.text.equals(content)]).toEqual([name, true])
    expect(decompressed(packed, unlimited, 1000).text.equals(content)).toBe(true)
    expect(decompressed(Buffer.concat([packed, packed])).text.equals(Buffer.concat([content, content]))).toBe(
      true,
    )
  })

  test.skipIf(!existsSync(path))('damage, a missing end and bytes after the end are errors', () => {
    const packed = program(path, ...args)
    for (const cut of [20, packed.length >> 1, packed.length - 1])
      refuses(packed.subarray(0, cut), new RegExp(`damaged ${name}`))
    // bzip2 itself takes bytes after the end for nothing, with a warning.
    if (name !== 'bzip2') refuses(Buffer.concat([packed, Buffer.from('junk')]), new RegExp(`damaged ${name}`))
    const broken = Buffer.from(packed)
    broken.fill(0x5a, packed.length >> 1, (packed.length >> 1) + 40)
    refuses(broken, new RegExp(`damaged ${name}`))
  })
})

test('plain data comes as it is, empty data too', () => {
  const same = decompressed(content)
  expect([same.compression, same.text.equals(content)]).toEqual(['none', true])
  expect(decompressed(Buffer.alloc(0))).toEqual({ text: Buffer.alloc(0), compression: 'none' })
  expect(decompressed(Buffer.from('BZh9 is a name')).compression).toBe('none')
})

test('zeros after a gzip member are damage, as for Go', () => {
  refuses(Buffer.concat([gzipSync('x'), Buffer.alloc(100)]), /more data after its end/)
})

test.skipIf(!existsSync('/usr/bin/zstd'))('skippable zstd frames are skipped, huge windows refused', () => {
  const packed = program('/usr/bin/zstd', '-qc')
  const skippable = Buffer.from('502a4d180400000061626364', 'hex')
  expect(decompressed(Buffer.concat([skippable, packed, skippable])).text.equals(content)).toBe(true)
  // A frame of one byte whose header asks for a window of 2 GiB.
  const bomb = Buffer.from('28b52ffd00a809000078', 'hex')
  refuses(bomb, /more than 128 MiB of memory/, 'ISB_LIMIT_EXCEEDED')
})

test('stops at the number of bytes and at the ratio', () => {
  const zeros = gzipSync(Buffer.alloc(30 << 20))
  refuses(zeros, /more than 1000000 bytes/, 'ISB_LIMIT_EXCEEDED', { ...unlimited, bytes: 1_000_000 })
  refuses(zeros, /200 times its size/, 'ISB_LIMIT_EXCEEDED', {
    bytes: 2 ** 40,
    ratio: 200,
    ratioFrom: 1 << 20,
  })
})

test('reads a range without moving the offset, and a pipe to its end', () => {
  const file = join(directory, 'range')
  writeFileSync(file, content)
  const fd = openSync(file, 'r')
  try {
    const source = descriptorSource(fd, { offset: 1000, length: 500 }, uncontrolled)
    const target = Buffer.alloc(2000)
    expect(source.read(target, 0, 2000)).toBe(500)
    expect(source.read(target, 0, 2000)).toBe(0)
    expect(target.subarray(0, 500).equals(content.subarray(1000, 1500))).toBe(true)
  } finally {
    closeSync(fd)
  }
  const { read, write } = pipe2()
  writeFileSync(write, 'through a pipe')
  closeSync(write)
  const target = Buffer.alloc(100)
  const source = descriptorSource(read, undefined, uncontrolled)
  expect(target.toString('utf8', 0, source.read(target, 0, 100))).toBe('through a pipe')
  expect(source.read(target, 0, 100)).toBe(0)
  closeSync(read)
})

test('a cancelled job stops waiting for a silent pipe', () => {
  const { read, write } = pipe2()
  let calls = 0
  const control: JobControl = {
    check() {
      calls += 1
      if (calls === 3) throw new BuilderError('ISB_CANCELLED', 'cancelled')
    },
  }
  try {
    expect(() => descriptorSource(read, undefined, control).read(Buffer.alloc(9), 0, 9)).toThrowError(
      /cancelled/,
    )
  } finally {
    closeSync(read)
    closeSync(write)
  }
})

test.skipIf(!existsSync('/usr/bin/xz'))('a cancelled job leaves no decompressor behind', () => {
  const file = join(directory, 'big.xz')
  writeFileSync(file, program('/usr/bin/xz', '-1c'))
  const fd = openSync(file, 'r')
  let calls = 0
  const control: JobControl = {
    check() {
      calls += 1
      if (calls === 4) throw new BuilderError('ISB_CANCELLED', 'cancelled')
    },
  }
  const children = (): string =>
    execFileSync('ps', ['--ppid', String(process.pid), '-o', 'comm='], { encoding: 'utf8' })
  try {
    const source = decompress(descriptorSource(fd, undefined, control), unlimited, control)
    try {
      expect(() => {
        const target = Buffer.alloc(1000)
        for (;;) source.read(target, 0, 1000)
      }).toThrowError(/cancelled/)
      expect(children()).toMatch(/\bxz\b/)
    } finally {
      source.close()
    }
    expect(children()).not.toMatch(/\bxz\b/)
  } finally {
    closeSync(fd)
  }
})

test('random damage of gzip and zstd is an error or other bytes, never a crash', () => {
  const small = content.subarray(0, 5000)
  const samples = [gzipSync(small)]
  if (existsSync('/usr/bin/zstd')) samples.push(execFileSync('/usr/bin/zstd', ['-qc'], { input: small }))
  const end = Date.now() + Math.min(Number(process.env['ISULA_FUZZ_SECONDS'] ?? '5'), 20) * 100
  for (let seed = 1; seed < 30 || Date.now() < end; seed += 1) {
    const dice = seededRandom(seed)
    const bytes = Buffer.from(samples[dice(samples.length)] ?? small)
    for (let hit = dice(4); hit >= 0; hit -= 1) bytes[dice(bytes.length)] = dice(256)
    try {
      createHash('sha256').update(decompressed(bytes).text)
    } catch (error) {
      if (!(error instanceof BuilderError)) throw new Error(`seed ${seed}`, { cause: error })
    }
  }
})
