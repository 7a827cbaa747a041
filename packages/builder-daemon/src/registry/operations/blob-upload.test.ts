import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { digestOf } from '@isula-build/shared/oci/digest.js'
import { afterAll, describe, expect, test } from 'vitest'
import {
  registryCall,
  serveRegistry,
  type TestRegistry,
  testRegistryHttp,
} from '../../../../../test/support/registry-bench.js'
import { startUploadRegistry as uploads } from '../../../../../test/support/upload-registry.js'
import { createRegistryClient } from '../client.js'
import { acknowledged, withDigest } from './upload-session.js'

const http = testRegistryHttp()
const client = createRegistryClient(http)
const directory = mkdtempSync(join(tmpdir(), 'isula-build-upload-'))
const bytes = randomBytes(4 * 1024 * 1024 + 7)
const path = join(directory, 'blob')
writeFileSync(path, bytes)
const blob = { digest: digestOf(bytes), size: bytes.length, path }
afterAll(() => {
  http.close()
  rmSync(directory, { recursive: true, force: true })
})

const methods = ({ requests }: TestRegistry): readonly string[] => requests.map(({ method }) => method)
const count = (registry: TestRegistry, method: string): number =>
  methods(registry).filter((each) => each === method).length

describe('an upload', () => {
  test('is a POST and one PUT of the whole blob', async () => {
    await using registry = await uploads([])
    const sent: number[] = []
    await client.uploadBlob(
      registry.endpoint,
      { ...blob, onProgress: (done) => sent.push(done) },
      registryCall(),
    )
    expect(methods(registry)).toEqual(['POST', 'PUT'])
    expect(registry.stored.get(blob.digest)?.equals(bytes)).toBe(true)
    expect(sent.at(-1)).toBe(bytes.length)
    expect([...sent].sort((a, b) => a - b)).toEqual(sent)
    const [post, put] = registry.requests
    expect(post?.headers).toMatchObject({ 'content-length': '0' })
    expect(put?.headers).toMatchObject({
      'content-length': String(bytes.length),
      'content-type': 'application/octet-stream',
    })
    expect(put?.path).toContain(`?_state=a%2Fb+1&digest=sha256%3A${blob.digest.slice(7)}`)
  })

  test.each([0, 1, 65_536, bytes.length - 1])(
    'that breaks after %i bytes goes on where the registry is',
    async (cut) => {
      await using registry = await uploads([{ on: 'PUT', cut }], { relative: cut > 1 })
      await client.uploadBlob(registry.endpoint, blob, registryCall())
      expect(registry.stored.get(blob.digest)?.equals(bytes)).toBe(true)
      // A single byte looks like none, is sent twice, and refused.
      if (cut === 1) return
      expect(methods(registry)).toEqual(['POST', 'PUT', 'GET', 'PATCH', 'PUT'])
      expect(registry.bodies.at(-1)).toBe(`PATCH ${cut}-${bytes.length - 1}`)
      expect(registry.requests.at(-2)?.headers).toMatchObject({
        'content-range': `${cut}-${bytes.length - 1}`,
        'content-length': String(bytes.length - cut),
        'content-type': 'application/octet-stream',
      })
      expect(registry.requests.at(-1)?.headers).toMatchObject({ 'content-length': '0' })
    },
  )

  test('that breaks again and again goes on for as long as every attempt brings a mebibyte', async () => {
    const cut = 1024 * 1024
    await using registry = await uploads([
      { on: 'PUT', cut },
      { on: 'PATCH', cut, times: 3 },
    ])
    await client.uploadBlob(registry.endpoint, blob, registryCall({ retries: 1 }))
    expect(registry.stored.get(blob.digest)?.equals(bytes)).toBe(true)
    expect(registry.bodies).toHaveLength(5)
  })

  test('whose last answer is lost is found to be there', async () => {
    await using registry = await uploads([{ on: 'PUT', mute: true }])
    await client.uploadBlob(registry.endpoint, blob, registryCall())
    expect(methods(registry)).toEqual(['POST', 'PUT', 'GET', 'HEAD'])
  })

  test('whose answer to a PATCH is lost sends nothing twice', async () => {
    await using registry = await uploads([
      { on: 'PUT', cut: 1000 },
      { on: 'PATCH', mute: true },
    ])
    await client.uploadBlob(registry.endpoint, blob, registryCall())
    expect(registry.bodies).toEqual(['PUT 0-999', `PATCH 1000-${bytes.length - 1}`])
    expect(registry.stored.has(blob.digest)).toBe(true)
  })

  test.each([500, 502, 503, 504, 429, 408])(
    'goes on after four answers of %i, and not after six',
    async (status) => {
      await using patient = await uploads([{ on: 'PUT', times: 4, status }])
      await client.uploadBlob(patient.endpoint, blob, registryCall())
      expect(patient.stored.has(blob.digest)).toBe(true)
      await using broken = await uploads([
        { on: 'PUT', times: 4, status },
        { on: 'PATCH', times: 9, status },
      ])
      const small = { ...blob, ...smallBlob() }
      const failing = client.uploadBlob(broken.endpoint, small, registryCall())
      await expect(failing).rejects.toMatchObject({
        code: 'ISB_REGISTRY_UNAVAILABLE',
        message: expect.stringMatching(
          new RegExp(`^upload of blob sha256:.* to 127.*/team/app failed: status ${status}.*5 attempts$`),
        ),
      })
      expect(count(broken, 'PUT') + count(broken, 'PATCH')).toBe(5)
    },
  )

  test('waits as Retry-After says', async () => {
    await using registry = await uploads([{ on: 'PUT', status: 429, headers: { 'retry-after': '1' } }])
    const start = performance.now()
    await client.uploadBlob(registry.endpoint, blob, registryCall())
    expect(performance.now() - start).toBeGreaterThan(950)
    expect(performance.now() - start).toBeLessThan(2500)
  })

  test('whose token ends goes on with another one, from the acknowledged offset', async () => {
    await using registry = await uploads([
      { on: 'PUT', cut: 1000 },
      { on: 'PATCH', status: 401 },
      { on: 'PUT', status: 401 },
    ])
    await client.uploadBlob(registry.endpoint, blob, registryCall())
    expect(registry.bodies).toEqual(['PUT 0-999', `PATCH 1000-${bytes.length - 1}`])
    const asked = registry.requests.map(({ method, path: to, headers }) =>
      to.startsWith('/token') ? 'token' : `${method} ${headers.authorization ?? 'nobody'}`,
    )
    expect(asked).toEqual([
      ...['POST nobody', 'PUT nobody', 'GET nobody', 'PATCH nobody', 'token', 'PATCH Bearer t1'],
      ...['PUT Bearer t1', 'token', 'PUT Bearer t2'],
    ])
    const scopes = new URL(registry.requests[4]?.path ?? '', registry.origin).searchParams.getAll('scope')
    expect(scopes).toEqual(['repository:team/app:pull,push'])
    expect(registry.stored.has(blob.digest)).toBe(true)
  })

  test('that the registry forgets begins anew, twice at most', async () => {
    await using registry = await uploads([
      { on: 'PUT', cut: 5000, forget: true },
      { on: 'PATCH', cut: 5000, forget: true },
    ])
    await client.uploadBlob(registry.endpoint, blob, registryCall())
    expect(registry.stored.has(blob.digest)).toBe(true)
    await using amnesia = await uploads([
      { on: 'PUT', status: 404, code: 'BLOB_UPLOAD_UNKNOWN', times: 99 },
      { on: 'PATCH', status: 404, code: 'BLOB_UPLOAD_UNKNOWN', times: 99 },
    ])
    const failing = client.uploadBlob(amnesia.endpoint, blob, registryCall())
    await expect(failing).rejects.toMatchObject({
      code: 'ISB_REGISTRY_DENIED',
      message: expect.stringContaining('BLOB_UPLOAD_UNKNOWN'),
    })
    expect(count(amnesia, 'POST')).toBe(3)
  })

  test.each([400, 404, 405, 411, 415, 501])(
    'goes in chunks to a registry that answers %i to a whole blob',
    async (status) => {
      await using registry = await uploads([{ on: 'PUT', status, code: 'UNSUPPORTED' }])
      await client.uploadBlob(registry.endpoint, blob, registryCall())
      expect(methods(registry)).toEqual(['POST', 'PUT', 'HEAD', 'POST', 'PATCH', 'PUT'])
      expect(registry.stored.has(blob.digest)).toBe(true)
    },
  )

  test('goes in chunks no shorter than wanted where the whole is too large', async () => {
    const large = randomBytes(33 * 1024 * 1024)
    writeFileSync(join(directory, 'large'), large)
    const upload = { digest: digestOf(large), size: large.length, path: join(directory, 'large') }
    const minimum = 20 * 1024 * 1024
    await using registry = await uploads([{ on: 'PUT', status: 413 }], { minimum })
    await client.uploadBlob(registry.endpoint, upload, registryCall())
    expect(registry.bodies).toEqual([`PATCH 0-${minimum - 1}`, `PATCH ${minimum}-${large.length - 1}`])
    await using strict = await uploads([
      { on: 'PUT', status: 413 },
      { on: 'PATCH', status: 413 },
    ])
    const refused = client.uploadBlob(strict.endpoint, upload, registryCall())
    await expect(refused).rejects.toMatchObject({
      code: 'ISB_REGISTRY_DENIED',
      hint: expect.stringContaining('proxy'),
    })
    expect(strict.bodies).toEqual([])
  })

  test('of a file that is not the blob is not begun, or not blamed on the registry', async () => {
    await using registry = await uploads([])
    const short = client.uploadBlob(registry.endpoint, { ...blob, size: 5 }, registryCall())
    await expect(short).rejects.toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
    expect(registry.requests).toHaveLength(0)
    const digest = digestOf(Buffer.from('other'))
    const other = client.uploadBlob(registry.endpoint, { ...blob, digest }, registryCall())
    await expect(other).rejects.toMatchObject({
      code: 'ISB_DIGEST_MISMATCH',
      message: expect.stringContaining('local file'),
    })
    expect(registry.stored.size).toBe(0)
  })

  test('that was damaged on its way is repeated', async () => {
    await using registry = await uploads([{ on: 'PUT', status: 400, code: 'DIGEST_INVALID', forget: true }])
    await client.uploadBlob(registry.endpoint, blob, registryCall())
    expect(registry.stored.has(blob.digest)).toBe(true)
  })

  test('is not done when the registry says it stored something else', async () => {
    await using registry = await serveRegistry(({ method, message }, response) => {
      message.resume()
      const headers = { location: '/v2/up', 'docker-content-digest': digestOf('other') }
      message.on('end', () => response.writeHead(method === 'POST' ? 202 : 201, headers).end())
    })
    const lied = client.uploadBlob(registry.endpoint, blob, registryCall())
    await expect(lied).rejects.toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
  })

  test('follows 307 with its body, and no more than ten', async () => {
    await using registry = await uploads([])
    await using front = await serveRegistry(({ path: asked, message }, response) => {
      message.resume()
      response.writeHead(307, { location: registry.origin + asked }).end()
    })
    await client.uploadBlob(front.endpoint, blob, registryCall())
    expect(registry.stored.has(blob.digest)).toBe(true)
    await using loop = await serveRegistry(({ path: asked, message }, response) => {
      message.resume()
      response.writeHead(308, { location: asked }).end()
    })
    const endless = client.uploadBlob(loop.endpoint, blob, registryCall())
    await expect(endless).rejects.toMatchObject({
      message: expect.stringContaining('redirected more than 10 times'),
    })
    expect(loop.requests).toHaveLength(11)
  })

  test.each([undefined, 'http://[', 'ftp://host/x'])(
    'fails where the registry gives the Location %s',
    async (location) => {
      await using registry = await serveRegistry((_, response) => {
        response.writeHead(202, location === undefined ? {} : { location }).end()
      })
      const failing = client.uploadBlob(registry.endpoint, blob, registryCall({ retries: 0 }))
      await expect(failing).rejects.toMatchObject({ name: 'BuilderError' })
      expect(count(registry, 'PUT')).toBe(0)
    },
  )

  test('that is aborted stops at once and leaves no connection', async () => {
    const abort = new AbortController()
    await using registry = await serveRegistry(({ method, message }, response) => {
      if (method === 'POST') response.writeHead(202, { location: '/v2/up' }).end()
      else {
        message.once('data', () => {
          message.pause()
          abort.abort()
        })
      }
    })
    const large = join(directory, 'aborted')
    writeFileSync(large, Buffer.alloc(64 << 20))
    const running = client.uploadBlob(
      registry.endpoint,
      { digest: digestOf(''), size: 64 << 20, path: large },
      registryCall({}, abort.signal),
    )
    await expect(running).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    // A server that does not read does not see the end either.
    const message = registry.requests[1]?.message
    message?.resume()
    await expect.poll(() => message?.socket.destroyed).toBe(true)
    expect(openFiles()).not.toContain(large)
  })
})

function openFiles(): readonly string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)]
    } catch {
      return []
    }
  })
}

function smallBlob(): {
  readonly digest: ReturnType<typeof digestOf>
  readonly size: number
  readonly path: string
} {
  const small = Buffer.from('small')
  writeFileSync(join(directory, 'small'), small)
  return { digest: digestOf(small), size: small.length, path: join(directory, 'small') }
}

test('the range of an upload is read in all its spellings', () => {
  expect(acknowledged('0-1023', 5)).toBe(1024)
  expect(acknowledged('bytes=0-9', 5)).toBe(10)
  expect(acknowledged('0-0', 0)).toBe(0)
  expect(acknowledged('0-0', 5)).toBe(1)
  for (const odd of [undefined, '', '5-10', '0-', 'x', `0-${'9'.repeat(30)}`])
    expect(acknowledged(odd, 5)).toBe(5)
})

test('the digest goes behind what the Location holds, which stays as it is', () => {
  const of = (url: string): string => withDigest(new URL(url), blob.digest).href
  const digest = `digest=sha256%3A${blob.digest.slice(7)}`
  expect(of('https://h/u')).toBe(`https://h/u?${digest}`)
  expect(of('https://h/u?a=%2F+b&c')).toBe(`https://h/u?a=%2F+b&c&${digest}`)
})
