import { gunzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { seededRandom } from '../test-layers.js'
import { fillRing, helpWithRing, ringBytes } from './block-ring.js'
import { type BlockCompressor, blockSize } from './compressor.js'
import { zlibGzip } from './zlib.js'

/** Copies; `calls` counts. */
function copier(): BlockCompressor & { calls: number } {
  return {
    calls: 0,
    compress(input, output) {
      this.calls += 1
      return input.copy(output)
    },
    close() {},
  }
}

const control = { check() {} }

function through(slots: number, content: Buffer, compressor: BlockCompressor): Buffer {
  const parts: Buffer[] = []
  const memory = new SharedArrayBuffer(ringBytes(slots))
  const ring = fillRing(memory, compressor, (bytes) => parts.push(Buffer.from(bytes)), control)
  for (let at = 0, i = 1; at < content.length; i++) {
    const count = Math.min(content.length - at, i % 3 === 0 ? 3_000_000 : 70_001 * i)
    ring.append(content.subarray(at, at + count))
    at += count
  }
  ring.finish()
  ring.close()
  return Buffer.concat(parts)
}

test.each([1, 2, 4])('with %i slots everything comes out in order', (slots) => {
  const random = seededRandom(slots)
  const content = Buffer.alloc(7 * blockSize + 12_345)
  for (let at = 0; at + 4 <= content.length; at += 4) content.writeUInt32LE(random(2 ** 32), at)
  expect(through(slots, content, copier()).equals(content)).toBe(true)
})

test.each([0, 1, blockSize - 1, blockSize, blockSize + 1, 2 * blockSize])(
  '%i bytes are that many, and nothing at all is one block',
  (size) => {
    const compressor = copier()
    expect(through(4, Buffer.alloc(size, 'x'), compressor).length).toBe(size)
    expect(compressor.calls).toBe(Math.max(1, Math.ceil(size / blockSize)))
    const gzipped = zlibGzip.open(1)
    expect(gunzipSync(through(2, Buffer.alloc(size, 'x'), gzipped)).length).toBe(size)
    gzipped.close()
  },
)

test('a helper does what is waiting, and leaves when the ring is closed', () => {
  const memory = new SharedArrayBuffer(ringBytes(4))
  const parts: Buffer[] = []
  const filler = copier()
  const helper = copier()
  const ring = fillRing(memory, filler, (bytes) => parts.push(Buffer.from(bytes)), control)
  // Three whole blocks wait, the fourth is not full yet; nobody else runs while the helper does.
  ring.append(Buffer.alloc(3 * blockSize + 10, 'x'))
  let checks = 0
  const leaving = {
    check() {
      checks += 1
      if (checks === 4) ring.close()
    },
  }
  expect(helpWithRing(memory, helper, leaving)).toBe(3)
  ring.finish()
  expect(filler.calls).toBe(1)
  expect(Buffer.concat(parts).equals(Buffer.alloc(3 * blockSize + 10, 'x'))).toBe(true)
  expect(helpWithRing(memory, helper, control)).toBe(0)
})

test('a helper that fails is heard of, and so is an abort while waiting for it', () => {
  const broken: BlockCompressor = {
    compress() {
      throw new Error('broken')
    },
    close() {},
  }
  const memory = new SharedArrayBuffer(ringBytes(2))
  let aborted = false
  const ring = fillRing(memory, copier(), () => undefined, {
    check() {
      if (aborted) throw new Error('aborted')
    },
  })
  ring.append(Buffer.alloc(blockSize + 1))
  expect(() => helpWithRing(memory, broken, control)).toThrow('broken')
  expect(() => ring.finish()).toThrow('a thread that helped to compress failed')
  aborted = true
  expect(() => ring.finish()).toThrow('aborted')
})

test('memory without room for a slot is refused', () => {
  expect(() => fillRing(new SharedArrayBuffer(4096), copier(), () => undefined, control)).toThrow(/no ring/)
})
