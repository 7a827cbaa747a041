import { ImagesResponse } from '@isula-build/shared/rpc/image-messages.js'
import { expect, test } from 'vitest'
import { decodeImages } from './image-list.js'

type Images = Parameters<typeof ImagesResponse.encode>[0]['images']

const id = 'ab'.repeat(32)

test.each<[string, Images]>([
  ['none', []],
  ['one without anything', [{}]],
  ['several', [{ id, names: ['a:1'], createdAt: 1_760_000_000_000, size: 4_242_424, owner: 1000 }, { id }]],
  [
    'one with many names',
    [{ id, names: Array.from({ length: 300 }, (_, i) => `localhost/name-${i}:latest`) }],
  ],
  ['one of nine terabytes', [{ id, size: 9e12, createdAt: 1 }]],
  ['names beyond ASCII', [{ id, names: ['größe:1'] }]],
  ['a time before 1970', [{ id, createdAt: -1, names: ['a:1'] }]],
  ['a time of year 9999', [{ id, createdAt: 253_402_300_799_999, size: Number.MAX_SAFE_INTEGER }]],
])('an answer of %s is read as the codec reads it', (_what, images) => {
  const bytes = ImagesResponse.encode({ images })
  expect(decodeImages(bytes)).toEqual(ImagesResponse.decode(bytes).images)
})

test('a field that nobody knows yet is passed over', () => {
  const known = ImagesResponse.encode({ images: [{ id, names: ['a:1'] }] })
  // Field 15 of the answer, and field 15 of an image: varints.
  const image = Buffer.concat([Buffer.from([0x0a, 2]), Buffer.from([0x78, 1])])
  expect(decodeImages(Buffer.concat([known, Buffer.from([0x78, 1]), image]))).toEqual([
    { id, names: ['a:1'], createdAt: 0, size: 0, owner: 0 },
    { id: '', names: [], createdAt: 0, size: 0, owner: 0 },
  ])
})

test('an answer cut short anywhere is an error, or shorter by whole images', () => {
  const first = ImagesResponse.encode({ images: [{ id, names: ['a:1'], createdAt: 1e12, size: 300 }] })
  const bytes = Buffer.concat([first, first])
  for (let length = 0; length < bytes.length; length++) {
    const cut = bytes.subarray(0, length)
    if (length === 0 || length === first.length) expect(decodeImages(cut)).toHaveLength(length === 0 ? 0 : 1)
    else expect(() => decodeImages(cut), `${length}`).toThrow()
  }
})

test('a list of more images than any message may have elements is read', () => {
  const one = ImagesResponse.encode({ images: [{ id, names: ['a:1'] }] })
  const many = Buffer.concat(Array.from({ length: 300_000 }, () => one))
  expect(decodeImages(many)).toHaveLength(300_000)
})
