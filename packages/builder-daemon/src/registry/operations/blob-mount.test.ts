import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestOf } from '@isula-build/shared/oci/digest.js'
import { afterAll, describe, expect, test } from 'vitest'
import { registryCall, serveRegistry, testRegistryHttp } from '../../../../../test/support/registry-bench.js'
import { startUploadRegistry as uploads } from '../../../../../test/support/upload-registry.js'
import { createRegistryClient } from '../client.js'

const http = testRegistryHttp()
const client = createRegistryClient(http)
const directory = mkdtempSync(join(tmpdir(), 'isula-build-mount-'))
const bytes = randomBytes(100_000)
const blob = { digest: digestOf(bytes), size: bytes.length, path: join(directory, 'blob') }
writeFileSync(blob.path, bytes)
afterAll(() => {
  http.close()
  rmSync(directory, { recursive: true, force: true })
})

describe('a mount', () => {
  test('that the registry makes needs no upload', async () => {
    const both = `${blob.digest}, ${blob.digest}`
    await using registry = await serveRegistry((_, response) => {
      response.writeHead(201, { 'docker-content-digest': both }).end()
    })
    expect(await client.mountBlob(registry.endpoint, blob.digest, 'other/app', registryCall())).toBe(true)
    expect(registry.seen()).toEqual([
      `POST /v2/team/app/blobs/uploads/?mount=sha256%3A${blob.digest.slice(7)}&from=other%2Fapp`,
    ])
  })

  test('of something else is an error', async () => {
    const other = digestOf(Buffer.from('other'))
    await using registry = await serveRegistry((_, response) => {
      response.writeHead(201, { 'docker-content-digest': `${blob.digest}, ${other}` }).end()
    })
    const failing = client.mountBlob(registry.endpoint, blob.digest, 'other/app', registryCall())
    await expect(failing).rejects.toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
  })

  test('that becomes an upload is the upload of that blob, by the same user, once', async () => {
    await using registry = await uploads([])
    const { endpoint } = registry
    expect(await client.mountBlob(endpoint, blob.digest, 'other/app', registryCall())).toBe(false)
    expect(registry.requests.map(({ method }) => method)).toEqual(['POST'])
    await client.uploadBlob(endpoint, blob, registryCall())
    expect(registry.requests.map(({ method }) => method)).toEqual(['POST', 'PUT'])
    expect(registry.stored.get(blob.digest)?.equals(bytes)).toBe(true)
    await client.uploadBlob(endpoint, blob, registryCall())
    expect(registry.requests.map(({ method }) => method)).toEqual(['POST', 'PUT', 'POST', 'PUT'])
    await client.mountBlob(endpoint, blob.digest, 'other/app', registryCall())
    await client.uploadBlob(endpoint, blob, registryCall({ uid: 7 }))
    expect(registry.requests.slice(4).map(({ method }) => method)).toEqual(['POST', 'POST', 'PUT'])
  })

  test('whose upload the registry forgets is begun anew', async () => {
    await using registry = await uploads([{ on: 'PUT', forget: true }])
    await client.mountBlob(registry.endpoint, blob.digest, 'other/app', registryCall())
    await client.uploadBlob(registry.endpoint, blob, registryCall())
    expect(registry.stored.has(blob.digest)).toBe(true)
  })

  test.each([400, 401, 403, 404, 405, 409, 418, 429, 500, 502, 503])(
    'that is refused with %i is none, and asked for once',
    async (status) => {
      await using registry = await serveRegistry((_, response) => response.writeHead(status).end())
      expect(await client.mountBlob(registry.endpoint, blob.digest, 'other/app', registryCall())).toBe(false)
      expect(registry.requests).toHaveLength(1)
    },
  )

  test.each(['http://[::1', undefined])('with Location %j is none', async (location) => {
    await using registry = await serveRegistry((_, response) => {
      response.writeHead(202, location === undefined ? {} : { location }).end()
    })
    expect(await client.mountBlob(registry.endpoint, blob.digest, 'other/app', registryCall())).toBe(false)
  })

  test('that gets no answer is none', async () => {
    await using registry = await serveRegistry(({ message }) => message.socket.resetAndDestroy())
    expect(await client.mountBlob(registry.endpoint, blob.digest, 'other/app', registryCall())).toBe(false)
    expect(registry.requests).toHaveLength(1)
  })

  test('survives a kept connection that the registry has closed', async () => {
    await using registry = await serveRegistry((_, response) => response.writeHead(201).end())
    await client.mountBlob(registry.endpoint, blob.digest, 'other/app', registryCall())
    registry.requests[0]?.message.socket.resetAndDestroy()
    expect(await client.mountBlob(registry.endpoint, blob.digest, 'other/app', registryCall())).toBe(true)
  })

  test.each(['ISB_CANCELLED', 'ISB_SHUTTING_DOWN'] as const)('ends with %s', async (code) => {
    await using registry = await serveRegistry(() => undefined)
    const stop = new AbortController()
    const call = registryCall({}, stop.signal)
    const mounting = client.mountBlob(registry.endpoint, blob.digest, 'other/app', call)
    setTimeout(() => stop.abort(new BuilderError(code, 'over')), 50)
    await expect(mounting).rejects.toMatchObject({ code })
  })

  test('from what is no repository is not asked for', async () => {
    await using registry = await serveRegistry((_, response) => response.end())
    const hostile = client.mountBlob(registry.endpoint, blob.digest, '../x', registryCall())
    await expect(hostile).rejects.toMatchObject({ code: 'ISB_REFERENCE_INVALID' })
    expect(registry.requests).toHaveLength(0)
  })
})
