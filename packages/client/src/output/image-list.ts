import { type Image, ImagesResponse } from '@isula-build/shared/rpc/image-messages.js'

const tag = { images: 0x0a, id: 0x0a, names: 0x12, createdAt: 0x18, size: 0x20, owner: 0x28 } as const
const notAscii = /[\x80-\xff]/

/**
 * Decodes an answer to `Images`, of as many images as there may be: much faster than the codec, as nearly all of a
 * command that has just started runs uncompiled, and what few steps there are for each image decides. Anything that
 * the daemon does not write usually is left to the codec.
 */
export function decodeImages(bytes: Buffer): readonly Image[] {
  return readImages(bytes) ?? ImagesResponse.decode(bytes).images
}

/** undefined for what is not plain: other fields, characters beyond ASCII, negative numbers, lengths that do not fit. */
function readImages(bytes: Buffer): readonly Image[] | undefined {
  // Slices of one string cost less than strings of their own.
  const text = bytes.toString('latin1')
  const images: Image[] = []
  let at = 0
  /** The varint at `at`; NaN when it is longer than six bytes, which no size and no time of this age needs. */
  const varint = (): number => {
    let value = 0
    for (let factor = 1; factor <= 2 ** 35; factor *= 128) {
      const byte = text.charCodeAt(at++)
      if (byte < 128) return value + byte * factor
      value += (byte - 128) * factor
    }
    return Number.NaN
  }
  while (at < text.length) {
    if (text.charCodeAt(at++) !== tag.images) return undefined
    const length = varint()
    const end = at + length
    if (!(end <= text.length)) return undefined
    const names: string[] = []
    let id = ''
    let createdAt = 0
    let size = 0
    let owner = 0
    while (at < end) {
      const field = text.charCodeAt(at++)
      const value = varint()
      if (field === tag.id || field === tag.names) {
        const word = text.slice(at, at + value)
        at += value
        if (!(at <= end) || notAscii.test(word)) return undefined
        if (field === tag.id) id = word
        else names.push(word)
      } else if (field === tag.createdAt) createdAt = value
      else if (field === tag.size) size = value
      else if (field === tag.owner) owner = value
      else return undefined
      if (!(value >= 0)) return undefined
    }
    if (at !== end) return undefined
    images.push({ id, names, createdAt, size, owner })
  }
  return images
}
