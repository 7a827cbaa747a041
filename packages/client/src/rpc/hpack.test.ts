import { expect, test } from 'vitest'
import { decodeHeaders, encodeHeaders, HpackError } from './hpack.js'

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')

test('indexed fields are those of the static table (RFC 7541, C.2.4)', () => {
  expect(decodeHeaders(hex('82'))).toEqual([[':method', 'GET']])
  expect(decodeHeaders(hex('88 bd'))).toEqual([
    [':status', '200'],
    ['www-authenticate', ''],
  ])
})

test('literals are read with and without indexing (RFC 7541, C.2.1 to C.2.3)', () => {
  const customKey = hex('400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572')
  expect(decodeHeaders(customKey)).toEqual([['custom-key', 'custom-header']])
  expect(decodeHeaders(hex('040c 2f73 616d 706c 652f 7061 7468'))).toEqual([[':path', '/sample/path']])
  expect(decodeHeaders(hex('1008 7061 7373 776f 7264 0673 6563 7265 74'))).toEqual([['password', 'secret']])
})

test('Huffman codes are read (RFC 7541, C.6.1)', () => {
  const block = hex(
    '4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3',
  )
  expect(decodeHeaders(block)).toEqual([
    [':status', '302'],
    ['cache-control', 'private'],
    ['date', 'Mon, 21 Oct 2013 20:13:21 GMT'],
    ['location', 'https://www.example.com'],
  ])
})

test('what is encoded is read again, however long', () => {
  const headers = [1, 126, 127, 128, 254, 255, 256, 20_000].map(
    (size) => [`h${size}`, 'x'.repeat(size)] as const,
  )
  expect(decodeHeaders(encodeHeaders(headers))).toEqual(headers)
})

test('a size update to nothing is taken', () => {
  expect(decodeHeaders(hex('20 82'))).toEqual([[':method', 'GET']])
})

test.each([
  ['a reference to a dynamic table', 'be'],
  ['a reference to nothing', '80'],
  ['a name from a dynamic table', '7e 00'],
  ['a dynamic table', '3fe11f'],
  ['a string beyond the block', '0005 6161'],
  ['a block that ends in a name', '00'],
  ['an integer that ends too early', 'ff'],
  ['an integer of too many bytes', 'ff ffff ffff ff00'],
  ['Huffman padding with a zero', '0081 1e 00'],
  ['Huffman padding of a whole byte', '0082 1fff 00'],
  ['the end of a string within it', '0084 ffff fffc 00'],
])('%s is an error', (_, block) => {
  expect(() => decodeHeaders(hex(block))).toThrow(HpackError)
})
