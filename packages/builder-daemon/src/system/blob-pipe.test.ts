import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { digestOf } from '@isula-build/shared/oci/digest.js'
import { afterAll, expect, test } from 'vitest'
import { BlobPipeBroken, BlobPipeSpent, readFromPipe, writeToPipe } from './blob-pipe.js'

const directory = mkdtempSync(join(tmpdir(), 'isula-build-pipe-'))
const path = join(directory, 'rest')
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const piece = 1 << 18
const { signal } = new AbortController()
const unchecked = () => undefined
const newPipe = () => new SharedArrayBuffer(4096 + 4 * piece)

async function contentOf(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const copies: Buffer[] = []
  for await (const one of pieces) copies.push(Buffer.from(one))
  return Buffer.concat(copies)
}

test.each([0, 1, piece - 1, piece, 4 * piece])(
  'a blob of %i bytes is whole before anybody reads it',
  async (size) => {
    const memory = newPipe()
    const content = randomBytes(size)
    const writer = writeToPipe(memory, path, unchecked)
    for (let at = 0; at < size; at += 100_001) writer.write(content.subarray(at, at + 100_001))
    writer.finish(digestOf(content))
    writer.close()
    const reader = readFromPipe(memory, path, signal)
    const blob = { digest: digestOf(content), size }
    expect(await reader.ready()).toEqual(blob)
    expect((await contentOf(reader.pieces())).equals(content)).toBe(true)
    expect(reader.whole()).toEqual(blob)
    expect(writer.usesFile).toBe(false)
    expect(existsSync(path)).toBe(false)
  },
)

test('what nobody reads in time waits in the file', async () => {
  const memory = newPipe()
  const content = randomBytes(9 * piece + 77)
  const writer = writeToPipe(memory, path, unchecked)
  writer.write(content.subarray(0, 5))
  const begin = performance.now()
  writer.write(content.subarray(5))
  expect(performance.now() - begin).toBeGreaterThan(400)
  expect(writer.usesFile).toBe(true)
  const reader = readFromPipe(memory, path, signal)
  expect(await reader.ready()).toBeUndefined()
  const reading = contentOf(reader.pieces())
  setTimeout(() => {
    writer.finish(digestOf(content))
    writer.close()
  }, 20)
  expect((await reading).equals(content)).toBe(true)
  expect(reader.whole()).toEqual({ digest: digestOf(content), size: content.length })
  expect(statSync(path).size).toBe(5 * piece + 77)
})

test('is read once, not at all when the blob is given up, and by nobody who was cancelled', async () => {
  const memory = newPipe()
  const writer = writeToPipe(memory, path, unchecked)
  writer.write(randomBytes(piece + 1))
  const reader = readFromPipe(memory, path, signal)
  const ended = Promise.allSettled([reader.ready(), contentOf(reader.pieces())])
  writer.close()
  for (const end of await ended) {
    expect(end).toMatchObject({ status: 'rejected', reason: expect.any(BlobPipeBroken) })
  }
  await expect(contentOf(reader.pieces())).rejects.toThrow(BlobPipeSpent)
  const stop = new AbortController()
  const other = readFromPipe(newPipe(), path, stop.signal).ready()
  stop.abort(new Error('cancelled'))
  await expect(other).rejects.toThrow('cancelled')
})

test('a writer that waits for its reader notices that nobody wants the blob any more', () => {
  const writer = writeToPipe(newPipe(), path, () => {
    throw new Error('cancelled')
  })
  expect(() => writer.write(Buffer.alloc(5 * piece))).toThrow('cancelled')
  writer.close()
})
