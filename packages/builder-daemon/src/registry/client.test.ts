import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Digest, digestOf } from '@isula-build/shared/oci/digest.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  registryCall,
  startDockerRegistry,
  testRegistryHttp,
} from '../../../../test/support/registry-bench.js'
import type { Endpoint } from '../ports/registry.js'
import { createRegistryClient } from './client.js'

const http = testRegistryHttp()
const client = createRegistryClient(http)
let directory = ''
let registry: Awaited<ReturnType<typeof startDockerRegistry>>

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'isula-build-client-'))
  registry = await startDockerRegistry()
})
afterAll(async () => {
  http.close()
  await registry[Symbol.asyncDispose]()
  rmSync(directory, { recursive: true, force: true })
})

const path = (name: string): string => join(directory, name)

function blobFile(
  name: string,
  bytes: Uint8Array,
): { readonly digest: Digest; readonly size: number; readonly path: string } {
  writeFileSync(path(name), bytes)
  return { digest: digestOf(bytes), size: bytes.length, path: path(name) }
}

const layerOf = ({ digest, size }: { readonly digest: Digest; readonly size: number }) => ({
  ...{ mediaType: mediaTypes.ociLayerGzip, digest, size },
})

describe("with Debian's docker-registry", () => {
  test.each([0, 1, 5 * 1024 * 1024 + 1, 200 * 1024 * 1024])(
    'a blob of %i bytes goes there and comes back',
    async (size) => {
      const bytes = randomBytes(size)
      const blob = blobFile('up', bytes)
      const call = registryCall()
      expect(await client.hasBlob(registry.endpoint, blob.digest, call)).toBe(false)
      const sent: number[] = []
      await client.uploadBlob(registry.endpoint, { ...blob, onProgress: (done) => sent.push(done) }, call)
      expect(sent.at(-1)).toBe(size)
      expect(await client.hasBlob(registry.endpoint, blob.digest, call)).toBe(true)
      rmSync(path('down'), { force: true })
      const came: number[] = []
      const download = { path: path('down'), onProgress: (done: number) => came.push(done) }
      await client.fetchBlob(registry.endpoint, layerOf(blob), download, call)
      expect(readFileSync(path('down')).equals(bytes)).toBe(true)
      expect(came.at(-1)).toBe(size)
    },
  )

  test('a manifest is refused without its blobs, and put, found, listed and read with them', async () => {
    const call = registryCall()
    const config = Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', rand: Math.random() }))
    const blob = blobFile('config', config)
    const manifest = {
      ...{ schemaVersion: 2, mediaType: mediaTypes.dockerManifest, layers: [] },
      config: { mediaType: mediaTypes.dockerConfig, digest: blob.digest, size: blob.size },
    }
    const document = { mediaType: mediaTypes.dockerManifest, bytes: Buffer.from(JSON.stringify(manifest)) }
    const early = client.putManifest(registry.endpoint, 'v1', document, call)
    await expect(early).rejects.toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
      message: expect.stringContaining('MANIFEST_BLOB_UNKNOWN'),
    })
    expect(await client.manifestHead(registry.endpoint, 'v1', call)).toBeUndefined()
    await client.uploadBlob(registry.endpoint, blob, call)
    const digest = digestOf(document.bytes)
    await client.putManifest(registry.endpoint, 'v1', document, call)
    await client.putManifest(registry.endpoint, digest, document, call)
    const head = { mediaType: mediaTypes.dockerManifest, digest, size: document.bytes.length }
    expect(await client.manifestHead(registry.endpoint, 'v1', call)).toEqual(head)
    for (const reference of ['v1', digest]) {
      const read = await client.manifest(registry.endpoint, reference, call)
      expect(Buffer.from(read.bytes).equals(document.bytes)).toBe(true)
      expect(read).toMatchObject({ mediaType: mediaTypes.dockerManifest, digest })
    }
    expect(await client.tags(registry.endpoint, call)).toEqual(['v1'])
    expect(await client.referrers(registry.endpoint, digest, call)).toEqual([])
    const content = await client.readBlob(registry.endpoint, layerOf(blob), 1 << 20, call)
    expect(Buffer.from(content).equals(config)).toBe(true)
    await client.ping(registry.endpoint, call)
  })

  test('a blob is mounted from another repository, but not from one that does not have it', async () => {
    const call = registryCall()
    const blob = blobFile('mounted', randomBytes(1000))
    const other: Endpoint = { ...registry.endpoint, repository: 'other/app' }
    expect(await client.mountBlob(registry.endpoint, blob.digest, other.repository, call)).toBe(false)
    await client.uploadBlob(other, blob, call)
    expect(await client.hasBlob(registry.endpoint, blob.digest, call)).toBe(false)
    expect(await client.mountBlob(registry.endpoint, blob.digest, other.repository, call)).toBe(true)
    expect(await client.hasBlob(registry.endpoint, blob.digest, call)).toBe(true)
  })

  test('uploads and downloads survive connections that break anywhere', async () => {
    const bytes = randomBytes(6 * 1024 * 1024)
    const blob = blobFile('broken', bytes)
    // Bytes of the transfer after which a connection dies, one after the other.
    await using proxy = await breakingProxy(registry.endpoint.host, [3_000_000, 700_000, 2_000_000, 100])
    const call = registryCall()
    await client.uploadBlob({ ...registry.endpoint, host: proxy.host }, blob, call)
    expect(await client.hasBlob(registry.endpoint, blob.digest, call)).toBe(true)
    await using back = await breakingProxy(registry.endpoint.host, [5_000_000, 400, 1_000_000, 65_536])
    rmSync(path('again'), { force: true })
    await client.fetchBlob(
      { ...registry.endpoint, host: back.host },
      layerOf(blob),
      { path: path('again') },
      call,
    )
    expect(readFileSync(path('again')).equals(bytes)).toBe(true)
    expect([proxy.broken(), back.broken()]).toEqual([4, 4])
  })
})

/** Passes TCP on to `host`; connections die after so many bytes in either direction, until the list is used up. */
async function breakingProxy(
  host: string,
  after: readonly number[],
): Promise<AsyncDisposable & { readonly host: string; readonly broken: () => number }> {
  const [address = '', port = ''] = host.split(':')
  const sockets = new Set<Socket>()
  let broken = 0
  const server = createServer((near) => {
    const far = connect(Number(port), address)
    let passed = 0
    const pass = (from: Socket, to: Socket): void => {
      sockets.add(from)
      from.on('error', () => undefined)
      from.on('close', () => to.destroy())
      from.on('data', (chunk) => {
        passed += chunk.length
        const limit = after[broken]
        if (limit !== undefined && passed > limit) {
          broken += 1
          near.resetAndDestroy()
          far.resetAndDestroy()
        } else if (!to.write(chunk)) {
          from.pause()
          to.once('drain', () => from.resume())
        }
      })
    }
    pass(near, far)
    pass(far, near)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const bound = server.address()
  if (bound === null || typeof bound === 'string') throw new Error('no address')
  return {
    host: `127.0.0.1:${bound.port}`,
    broken: () => broken,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
