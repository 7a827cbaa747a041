import { describe, expect, test } from 'vitest'
import { field, mapOf, message, oneOf, optional, repeated, when } from './codec.js'
import { timestampFromMillis, timestampToMillis } from './well-known.js'
import { DecodeError } from './wire-reader.js'
import { bigUint64, bool, bytes, enumeration, int32, int64, text, uint32 } from './wire-types.js'

const Inner = message('t.Inner', { a: field(1, text), b: repeated(2, int32) })
const Colour = enumeration('t.Colour', { RED: 0, BLUE: 2 })
const Sample = message('t.Sample', {
  name: field(1, text),
  flag: field(2, bool),
  small: field(3, int32),
  wide: field(4, int64),
  huge: field(5, bigUint64),
  inner: field(6, Inner),
  numbers: repeated(7, uint32),
  labels: mapOf(8, text, text),
  inners: mapOf(9, text, Inner),
  choice: oneOf({ left: when(10, text), right: when(11, Inner) }),
  maybe: optional(12, int32),
  colour: field(13, Colour),
  data: field(14, bytes),
  colours: repeated(15, Colour),
})

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')
const decode = (text: string) => Sample.decode(hex(text))

describe('decoding', () => {
  test('gives every absent field its default', () => {
    expect(decode('')).toEqual({
      name: '',
      flag: false,
      small: 0,
      wide: 0,
      huge: 0n,
      inner: undefined,
      numbers: [],
      labels: new Map(),
      inners: new Map(),
      choice: undefined,
      maybe: undefined,
      colour: 'RED',
      data: Buffer.alloc(0),
      colours: [],
    })
  })

  test('does not tell an empty bytes field that is sent from one that is not', () => {
    const { data } = decode('72 00')
    expect(data).toEqual(decode('').data)
  })

  test('takes repeated numbers packed, unpacked and mixed', () => {
    expect(decode('38 01 3a 03 02 80 01 38 03 3a 00').numbers).toEqual([1, 2, 128, 3])
    expect(decode('78 02 7a 02 00 02').colours).toEqual(['BLUE', 'RED', 'BLUE'])
  })

  test('skips unknown fields of every wire type, groups included', () => {
    const unknown = [
      'a0 06 ff 01',
      'a1 06 0102030405060708',
      'a2 06 02 0000',
      'a5 06 01020304',
      'a3 06 08 01 ab 06 ac 06 a4 06',
    ]
    expect(decode(`${unknown.join(' ')} 0a 01 78`).name).toBe('x')
  })

  test('takes a known field of another wire type for unknown', () => {
    expect(decode('08 05 12 01 01').name).toBe('')
    expect(decode('08 05 12 01 01').flag).toBe(false)
  })

  test('lets the last scalar win and merges singular messages', () => {
    expect(decode('0a 01 61 0a 01 62').name).toBe('b')
    expect(decode('32 03 0a 01 61 32 02 10 05 32 02 10 06').inner).toEqual({ a: 'a', b: [5, 6] })
  })

  test('keeps only the last alternative of a oneof, merging the same message', () => {
    expect(decode('52 01 61 5a 03 0a 01 62').choice).toEqual({ case: 'right', value: { a: 'b', b: [] } })
    expect(decode('5a 03 0a 01 62 5a 02 10 01').choice).toEqual({ case: 'right', value: { a: 'b', b: [1] } })
    expect(decode('5a 03 0a 01 62 52 00').choice).toEqual({ case: 'left', value: '' })
    expect(decode('5a 03 0a 01 62 52 00 5a 00').choice).toEqual({ case: 'right', value: { a: '', b: [] } })
  })

  test('reads map entries in any order, with defaults, the last of a key winning', () => {
    expect(decode('42 06 0a 01 6b 12 01 76 42 03 12 01 77 42 06 12 01 78 0a 01 6b').labels).toEqual(
      new Map([
        ['k', 'x'],
        ['', 'w'],
      ]),
    )
    expect(decode('4a 03 0a 01 6b').inners).toEqual(new Map([['k', { a: '', b: [] }]]))
  })

  test('keeps a hostile map key out of the prototype', () => {
    const labels = decode('42 0e 0a 09 5f 5f 70 72 6f 74 6f 5f 5f 12 01 78').labels
    expect([...labels]).toEqual([['__proto__', 'x']])
  })

  test('tells an absent optional from zero', () => {
    expect(decode('60 00').maybe).toBe(0)
    expect(decode('').maybe).toBeUndefined()
  })

  test('truncates int32 and enums like other implementations, and names unknown enum values', () => {
    expect(decode('18 ff ff ff ff ff ff ff ff ff 01').small).toBe(-1)
    expect(decode('18 ff ff ff ff 0f').small).toBe(-1)
    expect(decode('68 01').colour).toBe('UNRECOGNIZED')
  })

  test('accepts varints longer than needed up to ten bytes', () => {
    expect(decode('18 81 80 80 80 80 80 80 80 80 00').small).toBe(1)
  })

  test.each([
    ['a tag without a value', '0a'],
    ['a varint that never ends', '18 ff'],
    ['a varint of eleven bytes', '18 80 80 80 80 80 80 80 80 80 80 01'],
    ['a varint of 65 bits', '18 ff ff ff ff ff ff ff ff ff 02'],
    ['a length beyond the end', '0a 02 61'],
    ['a length of 4 GiB', '0a ff ff ff ff 0f'],
    ['a length of 2^63', '0a 80 80 80 80 80 80 80 80 80 01'],
    ['a nested length beyond its parent', '32 03 0a 05 61 61 61 61 61'],
    ['field number 0', '02 00'],
    ['a field number beyond 2^29', '82 80 80 80 10 00'],
    ['wire type 6', '0e'],
    ['wire type 7', '0f'],
    ['an end of group without a start', '0c'],
    ['a group without an end', '0b'],
    ['a group with the wrong end', '0b 14'],
    ['short fixed32', 'a5 06 01 02 03'],
    ['short fixed64', 'a1 06 01'],
    ['a string that is not UTF-8', '0a 01 ff'],
    ['an encoded surrogate', '0a 03 ed a0 80'],
    ['an int64 beyond 2^53', '20 80 80 80 80 80 80 80 10'],
    ['a varint that ends behind its packed field', '3a 01 80 01'],
  ])('refuses %s', (_, bytes) => {
    expect(() => decode(bytes)).toThrow(DecodeError)
  })

  test('refuses groups nested too deeply and more elements than it has memory for', () => {
    expect(() => Sample.decode(Buffer.alloc(10_000, 0xa3).fill(Buffer.from([0xa3, 0x06])))).toThrow(
      'nested too deeply',
    )
    expect(() => Sample.decode(Buffer.alloc(1 << 20).fill(Buffer.from([0x38, 0x01])))).toThrow('elements')
  })

  test('leaves the input alone and works on a view of a larger buffer', () => {
    const large = hex('ff ff 0a 01 61 ff')
    expect(Sample.decode(large.subarray(2, 5)).name).toBe('a')
    expect(Sample.decode(new Uint8Array(large.buffer, large.byteOffset + 2, 3)).name).toBe('a')
  })
})

describe('encoding', () => {
  test('writes nothing for defaults, by ascending number otherwise', () => {
    expect(Sample.encode({}).length).toBe(0)
    expect(
      Sample.encode({ name: '', flag: false, numbers: [], labels: new Map(), inner: undefined }).length,
    ).toBe(0)
    expect(Sample.encode({ data: Buffer.from([1]), name: 'a' }).toString('hex')).toBe('0a01617201' + '01')
  })

  test('packs repeated numbers', () => {
    expect(Sample.encode({ numbers: [1, 128] }).toString('hex')).toBe('3a03018001')
  })

  test('shifts nested messages of every length right', () => {
    for (const length of [0, 1, 124, 125, 126, 127, 128, 16_380, 16_384, 70_000]) {
      const a = 'é'.repeat(length)
      const inners = new Map([['k', { a, b: [-1] }]])
      expect(Sample.decode(Sample.encode({ inner: { a }, inners, maybe: 0 }))).toMatchObject({
        inner: { a, b: [] },
        inners,
        maybe: 0,
      })
    }
  })

  test.each([
    ['a lone surrogate', { name: '\ud800' }],
    ['a fraction', { small: 1.5 }],
    ['an int32 too large', { small: 2 ** 31 }],
    ['a negative uint32', { numbers: [-1] }],
    ['an unsafe integer', { wide: 2 ** 53 }],
    ['a negative uint64', { huge: -1n }],
    ['a uint64 too large', { huge: 1n << 64n }],
  ])('refuses %s', (_, value) => {
    expect(() => Sample.encode(value)).toThrow(RangeError)
  })

  test('refuses to encode an enum value it does not know', () => {
    expect(() => Sample.encode({ colour: 'UNRECOGNIZED' })).toThrow(RangeError)
  })

  test('keeps all 64 bits of big numbers', () => {
    const huge = 0xffff_ffff_ffff_ffffn
    expect(Sample.decode(Sample.encode({ huge })).huge).toBe(huge)
    expect(Sample.decode(Sample.encode({ wide: Number.MIN_SAFE_INTEGER })).wide).toBe(Number.MIN_SAFE_INTEGER)
  })
})

test('timestamps convert both ways and are checked', () => {
  for (const millis of [0, 1, -1, 1_590_230_133_123, -62_135_596_800_000]) {
    expect(timestampToMillis(timestampFromMillis(millis))).toBe(millis)
  }
  expect(timestampToMillis({ seconds: 253_402_300_800, nanos: 0 })).toBeUndefined()
  expect(timestampToMillis({ seconds: 0, nanos: -1 })).toBeUndefined()
  expect(timestampToMillis({ seconds: 0, nanos: 1_000_000_000 })).toBeUndefined()
})
