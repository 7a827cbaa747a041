import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { digestOf } from '@isula-build/shared/oci/digest.js'
import { afterAll, expect, test } from 'vitest'
import { registryCall, serveRegistry, testLimits } from '../../../../../test/support/registry-bench.js'
import { silentLogger } from '../../../../../test/support/silent-logger.js'
import { startUploadRegistry as uploads } from '../../../../../test/support/upload-registry.js'
import { createRegistryClient } from '../client.js'
import { createRegistryHttp } from '../http/registry-http.js'

const http = createRegistryHttp({
  ...{ certificates: [], environment: {}, log: silentLogger },
  limits: { ...testLimits, head: 500 },
})
const client = createRegistryClient(http)
const directory = mkdtempSync(join(tmpdir(), 'isula-build-trouble-'))
afterAll(() => {
  http.close()
  rmSync(directory, { recursive: true, force: true })
})

function blobOf(size: number) {
  const bytes = Buffer.alloc(size, 'x')
  const path = join(directory, String(size))
  writeFileSync(path, bytes)
  return { digest: digestOf(bytes), size, path }
}

test('a body that is cut twice without progress is sent in pieces', async () => {
  const blob = blobOf(33 << 20)
  const piece = 16 << 20
  await using registry = await uploads([
    { on: 'PUT', cut: 0 },
    { on: 'PATCH', cut: 0 },
  ])
  await client.uploadBlob(registry.endpoint, blob, registryCall())
  expect(registry.bodies.slice(2)).toEqual([
    `PATCH 0-${piece - 1}`,
    `PATCH ${piece}-${2 * piece - 1}`,
    `PATCH ${2 * piece}-${blob.size - 1}`,
  ])
  expect(registry.stored.has(blob.digest)).toBe(true)
})

test('a body that comes farther each time is not', async () => {
  const blob = blobOf(33 << 20)
  const cut = 2 << 20
  await using registry = await uploads([
    { on: 'PUT', cut },
    { on: 'PATCH', cut, times: 3 },
  ])
  await client.uploadBlob(registry.endpoint, blob, registryCall())
  expect(registry.bodies.at(-1)).toBe(`PATCH ${4 * cut}-${blob.size - 1}`)
})

test('an upload whose end takes the registry too long is looked for before it is begun anew', async () => {
  const blob = blobOf(10)
  let asked = 0
  await using registry = await serveRegistry(({ method, message }, response) => {
    message.resume()
    if (method === 'POST') response.writeHead(202, { location: '/v2/up' }).end()
    if (method === 'HEAD') response.writeHead(++asked < 3 ? 404 : 200).end()
  })
  await client.uploadBlob(registry.endpoint, blob, registryCall({ retryDelay: 20 }))
  expect(registry.requests.map(({ method }) => method)).toEqual(['POST', 'PUT', 'HEAD', 'HEAD', 'HEAD'])
})
