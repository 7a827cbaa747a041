import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { digestOf } from '@isula-build/shared/oci/digest.js'
import { afterAll, expect, test } from 'vitest'
import {
  registryCall,
  serveRegistry,
  startDockerRegistry,
  testRegistryHttp,
} from '../../../../../test/support/registry-bench.js'
import { startUploadRegistry, type UploadFault } from '../../../../../test/support/upload-registry.js'
import { writeToPipe } from '../../system/blob-pipe.js'
import { createRegistryClient } from '../client.js'

const http = testRegistryHttp()
const client = createRegistryClient(http)
const directory = mkdtempSync(join(tmpdir(), 'isula-build-stream-'))
const path = join(directory, 'rest')
const bytes = randomBytes((3 << 20) + 11)
const digest = digestOf(bytes)
afterAll(() => {
  http.close()
  rmSync(directory, { recursive: true, force: true })
})

/** A blob that is being made: a mebibyte at once, the rest when `more` is called, what is too much in the file. */
function startBlob(content = bytes) {
  const memory = new SharedArrayBuffer(4096 + (1 << 20))
  const writer = writeToPipe(memory, path, () => undefined)
  const first = Math.min(content.length, 1 << 20)
  writer.write(content.subarray(0, first))
  const more = (): void => {
    writer.write(content.subarray(first))
    writer.finish(digestOf(content))
    writer.close()
  }
  return { stream: { memory, path }, more, giveUp: writer.close }
}

const streams = (faults: readonly UploadFault[] = []) => startUploadRegistry(faults, { streams: true })

test('a blob is sent in one PATCH before its end is known, and named by its digest then', async () => {
  await using registry = await streams()
  const { stream, more } = startBlob()
  const progress: number[] = []
  const onProgress = (done: number): void => void progress.push(done)
  const sending = client.streamBlob(registry.endpoint, { ...stream, onProgress }, registryCall())
  await expect.poll(() => registry.requests.length).toBe(2)
  more()
  expect(await sending).toBe(true)
  expect(registry.stored.get(digest)?.equals(bytes)).toBe(true)
  expect(registry.requests.map(({ method }) => method)).toEqual(['POST', 'PATCH', 'PUT'])
  expect(registry.requests[1]?.headers).toMatchObject({ 'transfer-encoding': 'chunked' })
  expect(registry.requests[1]?.headers).not.toHaveProperty('content-length')
  expect(progress.at(-1)).toBe(bytes.length)
})

test("Docker's own registry takes it", async () => {
  await using registry = await startDockerRegistry()
  const { stream, more } = startBlob()
  const sending = client.streamBlob(registry.endpoint, stream, registryCall())
  more()
  expect(await sending).toBe(true)
  expect(await client.hasBlob(registry.endpoint, digest, registryCall())).toBe(true)
})

test('a blob that is whole at once goes in one PUT, unless it is there', async () => {
  await using registry = await streams()
  const small = bytes.subarray(0, 5000)
  for (const expected of [['HEAD', 'POST', 'PUT'], ['HEAD']]) {
    const before = registry.requests.length
    const { stream, more } = startBlob(small)
    more()
    expect(await client.streamBlob(registry.endpoint, stream, registryCall())).toBe(true)
    expect(registry.requests.slice(before).map(({ method }) => method)).toEqual(expected)
  }
  expect(registry.requests[2]?.headers).toMatchObject({ 'content-length': '5000' })
  expect([...registry.stored.keys()]).toEqual([digestOf(small)])
})

test.each([400, 404, 411, 413, 416, 501])(
  'a registry that answers %i is not asked for a stream again',
  async (status) => {
    await using registry = await streams([{ on: 'PATCH', status, times: 9 }])
    for (const requests of [2, 2]) {
      const { stream, more } = startBlob()
      const sending = client.streamBlob(registry.endpoint, stream, registryCall())
      more()
      expect(await sending).toBe(false)
      expect(registry.requests).toHaveLength(requests)
    }
  },
)

test('a stream that breaks, or whose end is not taken, is for another way to send', async () => {
  for (const { passes, ...fault } of [
    { on: 'PATCH', cut: 1000, passes: true },
    { on: 'PATCH', status: 503, passes: true },
    { on: 'PATCH', status: 307, headers: { location: '/v2/elsewhere' }, passes: false },
    { on: 'PATCH', status: 401, passes: false },
    { on: 'PUT', status: 400, code: 'DIGEST_INVALID', passes: false },
    { on: 'PUT', mute: true, passes: true },
  ]) {
    await using registry = await streams([fault])
    for (const outcome of [false, passes]) {
      const { stream, more } = startBlob()
      const sending = client.streamBlob(registry.endpoint, stream, registryCall())
      // What is asked for again has been begun with.
      await expect
        .poll(() => outcome || registry.requests.some(({ method }) => method === 'PATCH'))
        .toBe(true)
      more()
      expect([fault, await sending]).toEqual([fault, outcome])
    }
  }
})

test('a registry that answers before it has all has nothing', async () => {
  await using registry = await serveRegistry(({ method }, response) => {
    response.writeHead(202, { location: '/v2/up', range: '0-99' }).end()
    expect(method).not.toBe('PUT')
  })
  const { stream, more } = startBlob()
  const sending = client.streamBlob(registry.endpoint, stream, registryCall())
  setTimeout(more, 50)
  expect(await sending).toBe(false)
})

test('nothing gets a name when the blob is given up or the push is cancelled', async () => {
  await using registry = await streams()
  const given = startBlob()
  const broken = client.streamBlob(registry.endpoint, given.stream, registryCall())
  await expect.poll(() => registry.requests.length).toBe(2)
  given.giveUp()
  await expect(broken).rejects.toThrow('the blob was not finished')
  const stop = new AbortController()
  const cancelled = client.streamBlob(registry.endpoint, startBlob().stream, registryCall({}, stop.signal))
  await expect.poll(() => registry.requests.length).toBe(4)
  stop.abort()
  await expect(cancelled).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  expect(registry.stored.size).toBe(0)
  await expect.poll(() => registry.connections()).toBe(0)
})

test('a refused login is told, and asked for once', async () => {
  await using registry = await streams([{ on: 'POST', status: 403, times: 2 }])
  const { stream, more } = startBlob()
  more()
  const sending = client.streamBlob(registry.endpoint, stream, registryCall())
  await expect(sending).rejects.toMatchObject({ code: 'ISB_REGISTRY_DENIED' })
})
