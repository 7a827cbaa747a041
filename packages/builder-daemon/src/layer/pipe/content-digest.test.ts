import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import {
  contentDigestOf,
  createContentDigest,
  emptyDigest,
  pieceBytes,
  wholeLimit,
} from './content-digest.js'

function noise(length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at += 1) bytes[at] = (at * 2654435761) >>> 13
  return bytes
}
const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

test('a small file has the SHA-256 of its bytes, an empty one too', () => {
  const bytes = noise(wholeLimit)
  expect(contentDigestOf(bytes)).toEqual(sha256(bytes))
  expect(emptyDigest).toEqual(sha256(Buffer.alloc(0)))
})

test('a big file has the SHA-256 of the digests of its pieces', () => {
  const bytes = noise(2 * pieceBytes + 7)
  const pieces = [0, 1, 2].map((n) => sha256(bytes.subarray(n * pieceBytes, (n + 1) * pieceBytes)))
  expect(contentDigestOf(bytes)).toEqual(sha256(Buffer.concat(pieces)))
  expect(contentDigestOf(bytes.subarray(0, 2 * pieceBytes))).toEqual(
    sha256(Buffer.concat(pieces.slice(0, 2))),
  )
})

test('it does not matter in which portions the bytes come', () => {
  const bytes = noise(pieceBytes + wholeLimit)
  for (const portion of [1 << 12, 99_991, pieceBytes - 1, bytes.length]) {
    const digest = createContentDigest(bytes.length)
    for (let at = 0; at < bytes.length; at += portion) digest.update(bytes.subarray(at, at + portion))
    expect(digest.digest()).toEqual(contentDigestOf(bytes))
  }
})
