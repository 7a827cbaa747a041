import { execFileSync } from 'node:child_process'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { seededRandom } from '../test-layers.js'
import { blockSize, type CompressionEngine, compressedLimit } from './compressor.js'
import { chooseEngine } from './engines.js'
import { isalEngine } from './isal.js'
import { zlibGzip } from './zlib.js'
import { zstdEngine } from './zstd.js'

const isal = isalEngine()
const zstd = zstdEngine()
const hasZstdProgram = (() => {
  try {
    execFileSync('zstd', ['--version'])
    return true
  } catch {
    return false
  }
})()

function compress(engine: CompressionEngine, level: number, content: Buffer): Buffer {
  const pieces: Buffer[] = []
  for (let at = 0; at === 0 || at < content.length; at += blockSize) {
    pieces.push(content.subarray(at, at + blockSize))
  }
  const parts: Buffer[] = []
  const compressor =
    engine.kind === 'blocks'
      ? engine.open(level)
      : engine.open(level, (bytes) => parts.push(Buffer.from(bytes)))
  try {
    const output = Buffer.allocUnsafeSlow(compressedLimit)
    for (const [i, piece] of pieces.entries()) {
      if ('write' in compressor) compressor.write(piece, i === pieces.length - 1)
      else parts.push(Buffer.from(output.subarray(0, compressor.compress(piece, output))))
    }
    return Buffer.concat(parts)
  } finally {
    compressor.close()
    compressor.close()
  }
}

/** Noise, zeros and repetitions near and far. */
function mixture(seed: number, size: number): Buffer {
  const random = seededRandom(seed)
  const bytes = Buffer.alloc(size)
  for (let at = 0; at < size; ) {
    const length = Math.min(size - at, 1 + random(40_000))
    const kind = random(4)
    if (kind === 0) for (let i = 0; i < length; i++) bytes[at + i] = random(256)
    if (kind === 1) bytes.fill('the quick brown fox ', at, at + length)
    if (kind === 2 && at > 0) bytes.copy(bytes, at, random(at), at)
    at += length
  }
  return bytes
}

const sizes = [0, 1, 511, blockSize - 1, blockSize, blockSize + 1, 3 * blockSize + 12_345]

function unzstd(bytes: Buffer): Buffer {
  return execFileSync('zstd', ['-dc'], { input: bytes, maxBuffer: 2 ** 30 })
}

describe.each([
  ['ISA-L', isal, [1, 2, 3], gunzipSync],
  ['zlib', zlibGzip, [1, 2, 3, 4, 5, 6, 7, 8, 9], gunzipSync],
  ['zstd', hasZstdProgram ? zstd : null, [1, 3, 10, 19], unzstd],
] as const)('%s', (_name, engine, levels, decompress) => {
  test.skipIf(engine === null).each(levels)('level %i gives back what went in, twice the same', (level) => {
    if (engine === null) throw new Error('skipped')
    for (const [seed, size] of sizes.entries()) {
      const content = mixture(seed, size)
      const first = compress(engine, level, content)
      expect(decompress(first).equals(content)).toBe(true)
      expect(compress(engine, level, content).equals(first)).toBe(true)
    }
  })
})

test.skipIf(zstd === null)('streams that were left in the middle harm no other', () => {
  if (zstd === null) throw new Error('skipped')
  const content = mixture(1, 2 * blockSize)
  for (const level of [1, 12]) {
    const expected = compress(zstd, level, content)
    for (let i = 0; i < 20; i++) {
      const left = zstd.open(level, () => undefined)
      left.write(content.subarray(0, blockSize), false)
      left.close()
    }
    expect(compress(zstd, level, content).equals(expected)).toBe(true)
  }
})

test.skipIf(zstd === null)('what throws on the way out ends the stream', () => {
  const full = zstd?.open(3, () => {
    throw new Error('full')
  })
  expect(() => full?.write(mixture(3, blockSize), true)).toThrow('full')
  full?.close()
})

test.each([
  ['ISA-L', isal],
  ['zlib', zlibGzip],
])('%s gives a block the same bytes whatever came before it, and fails without room', (_name, engine) => {
  if (engine === null) return
  const block = mixture(5, blockSize)
  const alone = compress(engine, 2, block)
  const compressor = engine.open(2)
  const output = Buffer.alloc(compressedLimit)
  for (const seed of [6, 7, 8]) compressor.compress(mixture(seed, 300_000), output)
  expect(output.subarray(0, compressor.compress(block, output)).equals(alone)).toBe(true)
  expect(() => compressor.compress(block, Buffer.alloc(1000))).toThrow(/cannot compress/)
  expect(output.subarray(0, compressor.compress(block, output)).equals(alone)).toBe(true)
  compressor.close()
})

test('gzip headers hold neither a time nor a name', () => {
  for (const engine of [isal, zlibGzip]) {
    if (engine === null) continue
    const head = compress(engine, 1, Buffer.from('x')).subarray(0, 10)
    expect(head.readUInt32LE(4)).toBe(0)
    expect(head[3]).toBe(0)
  }
})

test('noise comes out hardly bigger', () => {
  const random = seededRandom(9)
  const noise = Buffer.alloc(2 * blockSize)
  for (let at = 0; at < noise.length; at += 4) noise.writeUInt32LE(random(2 ** 32), at)
  for (const engine of [isal, zlibGzip, zstd]) {
    if (engine === null) continue
    for (const level of [1, 2, 3]) {
      expect(compress(engine, level, noise).length).toBeLessThan(noise.length * 1.001)
    }
  }
})

describe('the choice', () => {
  test('takes the fastest for low levels of gzip and zlib for high ones', () => {
    expect(chooseEngine('gzip', 3).engine).toBe(isal ?? zlibGzip)
    expect(chooseEngine('gzip', 4).engine).toBe(zlibGzip)
    expect(chooseEngine('gzip', undefined).engine).toBe(isal ?? zlibGzip)
  })

  test('names a recipe by compression, level and engine, and each one differently', () => {
    const chosen = [1, 2, 3, 4, 9].map((level) => chooseEngine('gzip', level).recipe)
    expect(new Set(chosen).size).toBe(chosen.length)
    for (const recipe of chosen) expect(recipe).toMatch(/^gzip:[1-9]:(isal-2|zlib)-[0-9a-f]{8}$/)
    expect(chooseEngine('gzip', 1).recipe).toBe(chosen[0])
  })

  test.skipIf(zstd === null)('has a default for zstd', () => {
    expect(chooseEngine('zstd', undefined).recipe).toMatch(/^zstd:3:zstd-1\.\d+\.\d+(-mt)?-[0-9a-f]{8}$/)
  })

  test.each([
    ['gzip', 0],
    ['gzip', 10],
    ['gzip', -1],
    ['gzip', 1.5],
    ['gzip', Number.NaN],
    ['gzip', Number.POSITIVE_INFINITY],
    ['zstd', 0],
    ['zstd', 20],
    ['zstd', -5],
    ['constructor', 1],
    ['xz', undefined],
  ])('refuses %s level %s', (compression, level) => {
    expect(() => chooseEngine(compression as 'gzip', level)).toThrow(
      expect.objectContaining({ code: 'ISB_ARGUMENT_INVALID' }),
    )
  })
})
