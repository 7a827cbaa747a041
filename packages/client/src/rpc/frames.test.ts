import { expect, test } from 'vitest'
import {
  createFrameReader,
  frame,
  frameHead,
  frameType,
  numberAt,
  putNumber,
  settingsFrame,
} from './frames.js'

test('numbers of 32 bits are what Node.js reads and writes', () => {
  for (const value of [
    0, 1, 0x7f, 0x80, 0xff00, 0x12345678, 0x7fffffff, 0x80000000, 0xfffefdfc, 0xffffffff,
  ]) {
    const bytes = Buffer.alloc(7, 0xaa)
    putNumber(bytes, 2, value)
    expect([bytes.readUInt32BE(2), bytes[1], bytes[6]]).toEqual([value, 0xaa, 0xaa])
    expect(numberAt(bytes, 2)).toBe(value)
  }
})

test('the head of a frame has 24 bits of length, and type, flags and stream behind them', () => {
  expect(frameHead(0xfedcba, 9, 0x2d, 0x7fffffff).toString('hex')).toBe('fedcba092d7fffffff')
  expect(frame(frameType.ping, 1, 0, Buffer.from('12345678')).toString('latin1')).toBe(
    '\0\0\x08\x06\x01\0\0\0\0' + '12345678',
  )
  expect(settingsFrame([[4, 0x00100000]]).toString('hex')).toBe('000006040000000000' + '000400100000')
})

test('frames are found wherever what arrives is cut', () => {
  const all = Buffer.concat([
    frame(frameType.data, 0, 1, Buffer.alloc(300, 'a')),
    frame(frameType.headers, 4, 0x01020304, Buffer.alloc(0)),
    frame(frameType.data, 1, 3, Buffer.from('end')),
  ])
  for (let cut = 0; cut <= all.length; cut++) {
    const read = createFrameReader()
    const found = [all.subarray(0, cut), all.subarray(cut)].flatMap((part) => [...read(part)])
    expect(found.map(({ stream, payload }) => [stream, payload.length])).toEqual([
      [1, 300],
      [0x01020304, 0],
      [3, 3],
    ])
  }
})
