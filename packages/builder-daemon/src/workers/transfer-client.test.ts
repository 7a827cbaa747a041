import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestOf } from '@isula-build/shared/oci/digest.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bundleEntry } from '../../../../test/support/bundled-worker.js'
import { registryCall, serveRegistry, testLimits } from '../../../../test/support/registry-bench.js'
import type { Logger } from '../ports/logger.js'
import type { RegistryClient } from '../ports/registry.js'
import { createTransferClient } from './transfer-client.js'

const directory = mkdtempSync(join(tmpdir(), 'isula-build-transfer-'))
const path = join(directory, 'blob')
const bytes = randomBytes(8 * 1024 * 1024)
const blob = { mediaType: mediaTypes.ociLayerGzip, digest: digestOf(bytes), size: bytes.length }
const events: string[] = []
const record = (event: string): void => void events.push(event)
const log: Logger = { debug: record, info: record, warn: record, error: record }
let entry = new URL('file:///')

beforeAll(async () => {
  entry = await bundleEntry('packages/builder-daemon/src/workers/transfer-worker.ts')
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

function transfers(from = entry): RegistryClient & AsyncDisposable {
  return createTransferClient({
    entry: from,
    http: { certificates: [], environment: {}, limits: testLimits },
    log,
  })
}

const threads = (): number => readdirSync('/proc/self/task').length

function openFiles(): readonly string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)]
    } catch {
      return []
    }
  })
}

describe('the transfer thread', () => {
  test('starts with the first call, and not before', async () => {
    await using registry = await serveRegistry((_, response) => response.end('{}'))
    const before = threads()
    await using client = transfers()
    expect(threads()).toBe(before)
    await client.ping(registry.endpoint, registryCall())
    expect(threads()).toBeGreaterThan(before)
  })

  test('brings a blob with its progress, the last state always', async () => {
    await using registry = await serveRegistry((_, response) => response.end(bytes))
    await using client = transfers()
    const progress: number[] = []
    rmSync(path, { force: true })
    await client.fetchBlob(
      registry.endpoint,
      blob,
      { path, onProgress: (done) => progress.push(done) },
      registryCall(),
    )
    expect(readFileSync(path).equals(bytes)).toBe(true)
    expect(progress.at(-1)).toBe(bytes.length)
    expect(progress.length).toBeLessThan(60)
  })

  test('takes a blob, and manifests in both directions', async () => {
    const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, config: {}, layers: [] }))
    const sent: Buffer[] = []
    await using registry = await serveRegistry(async ({ method, message }, response) => {
      const chunks: Buffer[] = []
      for await (const chunk of message) chunks.push(chunk as Buffer)
      if (method === 'PUT') sent.push(Buffer.concat(chunks))
      if (method === 'GET') response.end(manifest)
      else response.writeHead(method === 'POST' ? 202 : 201, { location: '/v2/up' }).end()
    })
    await using client = transfers()
    const call = registryCall()
    writeFileSync(path, bytes)
    const progress: number[] = []
    const upload = { ...blob, path, onProgress: (done: number) => void progress.push(done) }
    await client.uploadBlob(registry.endpoint, upload, call)
    expect(progress.at(-1)).toBe(bytes.length)
    const { mediaType } = await client.manifest(registry.endpoint, 'v1', call)
    const read = await client.manifest(registry.endpoint, digestOf(manifest), call)
    expect(Buffer.from(read.bytes).equals(manifest)).toBe(true)
    await client.putManifest(registry.endpoint, 'v1', { mediaType, bytes: read.bytes }, call)
    // What was given stays with the caller.
    expect(Buffer.from(read.bytes).equals(manifest)).toBe(true)
    expect(sent.map((body) => digestOf(body))).toEqual([blob.digest, digestOf(manifest)])
    const small = { mediaType: '', digest: digestOf(manifest), size: manifest.length }
    expect(Buffer.from(await client.readBlob(registry.endpoint, small, 1000, call)).equals(manifest)).toBe(
      true,
    )
  })

  test('tells of a long wait', async () => {
    await using registry = await serveRegistry((_, response) =>
      response.writeHead(429, { 'retry-after': '30' }).end(),
    )
    await using client = transfers()
    const stop = new AbortController()
    const notices: string[] = []
    const onNotice = (line: string): void => {
      notices.push(line)
      stop.abort()
    }
    const waiting = client.tags(registry.endpoint, { ...registryCall({}, stop.signal), onNotice })
    await expect(waiting).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    expect(notices).toEqual([`registry ${registry.endpoint.host} limits requests, next attempt in 30 s`])
  })

  test('passes errors on with code, message and hint', async () => {
    await using registry = await serveRegistry((_, response) => response.writeHead(404).end())
    await using client = transfers()
    const failing = client.manifest(registry.endpoint, 'v1', registryCall())
    await expect(failing).rejects.toMatchObject({
      name: 'BuilderError',
      code: 'ISB_IMAGE_NOT_FOUND',
      message: expect.stringContaining('team/app'),
      hint: expect.stringContaining('tag'),
    })
    const nowhere = { path: join(directory, 'no/such/directory') }
    const unwritable = client.fetchBlob(registry.endpoint, blob, nowhere, registryCall())
    await expect(unwritable).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('asks here for credentials, for each call its own, and passes a refusal on', async () => {
    await using registry = await serveRegistry(({ headers }, response) => {
      const [, encoded = ''] = (headers.authorization ?? '').split(' ')
      const [user] = Buffer.from(encoded, 'base64').toString().split(':')
      if (user === '') response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end()
      else response.writeHead(200).end(JSON.stringify({ tags: [user] }))
    })
    await using client = transfers()
    const asked: string[] = []
    const as = (uid: number, username: string) =>
      client.tags(
        registry.endpoint,
        registryCall({
          uid,
          credentials: async (host, repository) => {
            asked.push(`${host}/${repository}`)
            return { username, password: 'p' }
          },
        }),
      )
    expect(await Promise.all([as(1, 'alice'), as(2, 'bob')])).toEqual([['alice'], ['bob']])
    expect(new Set(asked)).toEqual(new Set([`${registry.endpoint.host}/team/app`]))
    const credentials = () => Promise.reject(new BuilderError('ISB_CONFIG_INVALID', 'the authfile is broken'))
    const refused = client.tags(registry.endpoint, registryCall({ uid: 3, credentials }))
    await expect(refused).rejects.toMatchObject({
      code: 'ISB_CONFIG_INVALID',
      message: 'the authfile is broken',
    })
  })

  test('tells of a question which host the reference has, and of a mirror none', async () => {
    await using registry = await serveRegistry((_, response) => {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end()
    })
    await using client = transfers()
    const { endpoint } = registry
    const named: (string | undefined)[] = []
    for (const one of [endpoint, { ...endpoint, named: 'user.test' }, { ...endpoint, mirror: true }]) {
      const credentials = async (_host: string, _repository: string, name?: string): Promise<undefined> => {
        named.push(name)
      }
      await client.tags(one, registryCall({ credentials })).catch(() => undefined)
    }
    expect(named).toEqual([endpoint.host, 'user.test', undefined])
  })

  test('an abort ends a question that nobody answers', async () => {
    await using registry = await serveRegistry((_, response) => {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end()
    })
    await using client = transfers()
    const abort = new AbortController()
    const credentials = (): Promise<undefined> => {
      abort.abort()
      return new Promise(() => undefined)
    }
    const waiting = client.tags(registry.endpoint, registryCall({ credentials }, abort.signal))
    await expect(waiting).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  })

  test('an abort frees socket and file before it is told', async () => {
    await using registry = await serveRegistry((_, response) => {
      response.writeHead(200, { 'content-length': bytes.length })
      response.write(bytes.subarray(0, 2_000_000))
    })
    await using client = transfers()
    const abort = new AbortController()
    rmSync(path, { force: true })
    let wasOpen = false
    const onProgress = (done: number): void => {
      if (done < 2_000_000) return
      wasOpen = openFiles().includes(path)
      abort.abort()
    }
    const running = client.fetchBlob(
      registry.endpoint,
      blob,
      { path, onProgress },
      registryCall({}, abort.signal),
    )
    await expect(running).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    expect(wasOpen).toBe(true)
    expect(openFiles()).not.toContain(path)
    expect(readFileSync(path).length).toBe(2_000_000)
    await expect.poll(() => registry.connections()).toBe(0)
  })

  test('that dies fails its calls, and the next call has another one', async () => {
    const dying = join(directory, 'dying.mjs')
    // The real thread, and a listener beside its own that kills it from within.
    writeFileSync(
      dying,
      `import { parentPort } from 'node:worker_threads'
await import(${JSON.stringify(entry.href)})
parentPort.on('message', ({ operation, params }) => {
  if (operation === 'tags' && params[0].repository === 'deadly/app') throw new Error('killed')
})
`,
    )
    await using registry = await serveRegistry(({ path: asked }, response) => {
      if (asked.includes('/v2/ok/')) response.end('{"tags":["fine"]}')
    })
    await using client = transfers(pathToFileURL(dying))
    const ok = { ...registry.endpoint, repository: 'ok/app' }
    expect(await client.tags(ok, registryCall())).toEqual(['fine'])
    events.length = 0
    const hanging = client.tags(registry.endpoint, registryCall())
    const deadly = client.tags({ ...registry.endpoint, repository: 'deadly/app' }, registryCall())
    const results = await Promise.allSettled([hanging, deadly])
    expect(results.map((result) => result.status === 'rejected' && result.reason.message)).toEqual([
      'the transfer thread died during "tags"',
      'the transfer thread died during "tags"',
    ])
    expect(events).toContain('transfer.thread.died')
    expect(await client.tags(ok, registryCall())).toEqual(['fine'])
  })

  test('that cannot be loaded fails every call, and disposal all the same ends', async () => {
    await using client = transfers(pathToFileURL(join(directory, 'missing.mjs')))
    await using registry = await serveRegistry((_, response) => response.end())
    for (let round = 0; round < 2; round++) {
      const failing = client.ping(registry.endpoint, registryCall())
      await expect(failing).rejects.toThrow(/transfer thread died/)
    }
  })

  test('is disposed of while it starts, and with calls under way, which are cancelled', async () => {
    await using registry = await serveRegistry(() => undefined)
    for (const delay of [0, 0, 5, 20, 60, 150]) {
      const client = transfers()
      const hanging = client.tags(registry.endpoint, registryCall()).catch((error: unknown) => error)
      await new Promise((resolve) => setTimeout(resolve, delay))
      await client[Symbol.asyncDispose]()
      expect(await hanging).toMatchObject({ code: 'ISB_CANCELLED' })
      await expect(client.tags(registry.endpoint, registryCall())).rejects.toMatchObject({
        code: 'ISB_SHUTTING_DOWN',
      })
    }
    await expect.poll(() => registry.connections()).toBe(0)
  })

  test('serves many calls at once', async () => {
    await using registry = await serveRegistry((_, response) =>
      setTimeout(() => response.end('{"tags":["a"]}'), 5),
    )
    await using client = transfers()
    const all = await Promise.all(
      Array.from({ length: 200 }, () => client.tags(registry.endpoint, registryCall())),
    )
    expect(all.flat()).toEqual(Array(200).fill('a'))
  })
})
