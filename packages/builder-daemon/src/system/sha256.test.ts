import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { openSha256, stateBytes } from './sha256.js'

const sumOf = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

function functions() {
  const found = openSha256()
  if (found === undefined) throw new Error('this program does not give its SHA-256 away')
  return found
}

test('gives the sum of what went in, in whatever pieces', () => {
  const sha = functions()
  const bytes = Buffer.alloc(100_000, 'some content, ')
  for (const piece of [63, 64, 65, 4096, 100_000]) {
    const state = Buffer.alloc(stateBytes)
    sha.begin(state)
    for (let at = 0; at < bytes.length; at += piece) sha.update(state, bytes.subarray(at, at + piece))
    expect(sha.finish(state).toString('hex')).toBe(sumOf(bytes))
  }
})

test('goes on from what was saved on the way, in shared memory too', () => {
  const sha = functions()
  const bytes = Buffer.alloc(64 * 50 + 11, 'other content, ')
  for (const at of [0, 64, 64 * 7, 64 * 50]) {
    const first = Buffer.from(new SharedArrayBuffer(stateBytes))
    sha.begin(first)
    sha.update(first, bytes.subarray(0, at))
    const second = Buffer.alloc(stateBytes, 0xff)
    sha.resume(second, sha.save(first), at)
    sha.update(second, bytes.subarray(at))
    expect(sha.finish(second).toString('hex')).toBe(sumOf(bytes))
  }
})

test('knows how long it is beyond 512 MiB, where the count of bits has two words', () => {
  const sha = functions()
  const mebibyte = Buffer.alloc(1 << 20, 'x')
  const whole = createHash('sha256')
  const state = Buffer.alloc(stateBytes)
  sha.begin(state)
  for (let count = 0; count < 513; count += 1) {
    whole.update(mebibyte)
    sha.update(state, mebibyte)
  }
  const resumed = Buffer.alloc(stateBytes)
  sha.resume(resumed, sha.save(state), 513 << 20)
  whole.update('end')
  sha.update(resumed, Buffer.from('end'))
  expect(sha.finish(resumed).toString('hex')).toBe(whole.digest('hex'))
})
