import { createHash } from 'node:crypto'

/** Files up to this size are digested in one piece, bytes. */
export const wholeLimit = 1 << 19
/** Pieces of bigger files, bytes. */
export const pieceBytes = 1 << 20

/**
 * What stands for the content of a file in content keys and content IDs: SHA-256 of the bytes, and for files over
 * `wholeLimit` SHA-256 of the SHA-256 digests of their pieces of `pieceBytes`, so that several threads can share the work.
 * A size decides which of both it is, so it has to stand beside the digest wherever digests are compared.
 */
export interface ContentDigest {
  update(bytes: Uint8Array): void
  digest(): Buffer
}

export function createContentDigest(size: number): ContentDigest {
  if (size <= wholeLimit) {
    const hash = createHash('sha256')
    return {
      update: (bytes) => {
        hash.update(bytes)
      },
      digest: () => hash.digest(),
    }
  }
  const pieces = createHash('sha256')
  let piece = createHash('sha256')
  let room = pieceBytes
  return {
    update(bytes) {
      for (let at = 0; at < bytes.length; ) {
        const count = Math.min(room, bytes.length - at)
        piece.update(bytes.subarray(at, at + count))
        at += count
        room -= count
        if (room > 0) continue
        pieces.update(piece.digest())
        piece = createHash('sha256')
        room = pieceBytes
      }
    },
    digest() {
      if (room < pieceBytes) pieces.update(piece.digest())
      return pieces.digest()
    },
  }
}

/** Content digest of what is in memory. */
export function contentDigestOf(bytes: Uint8Array): Buffer {
  const digest = createContentDigest(bytes.length)
  digest.update(bytes)
  return digest.digest()
}

export const emptyDigest = contentDigestOf(new Uint8Array(0))
