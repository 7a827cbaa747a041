import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { digestOf } from '@isula-build/shared/oci/digest.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import { afterAll, describe, expect, test } from 'vitest'
import {
  registryCall,
  type SeenRequest,
  serveRegistry,
  testRegistryHttp,
} from '../../../../../test/support/registry-bench.js'
import { createRegistryClient } from '../client.js'

const http = testRegistryHttp()
const client = createRegistryClient(http)
const directory = mkdtempSync(join(tmpdir(), 'isula-build-download-'))
const path = join(directory, 'blob.part')
const bytes = randomBytes(3 * 1024 * 1024 + 5)
const blob = { mediaType: mediaTypes.ociLayerGzip, digest: digestOf(bytes), size: bytes.length }
afterAll(() => {
  http.close()
  rmSync(directory, { recursive: true, force: true })
})

type Handler = (request: SeenRequest, response: ServerResponse, count: number) => unknown

/** Fetches into a file that holds `before`; gives the requests. */
async function fetched(
  handle: Handler,
  before: Uint8Array = new Uint8Array(),
  call = registryCall(),
): Promise<{
  readonly ranges: readonly (string | undefined)[]
  readonly progress: readonly number[]
  readonly error: unknown
}> {
  await using registry = await serveRegistry(handle)
  rmSync(path, { force: true })
  if (before.length > 0) writeFileSync(path, before)
  const progress: number[] = []
  const error = await client
    .fetchBlob(registry.endpoint, blob, { path, onProgress: (done) => progress.push(done) }, call)
    .then(
      () => undefined,
      (reason: unknown) => reason,
    )
  for (const { method, path: asked } of registry.requests) {
    expect(`${method} ${asked}`).toBe(`GET /v2/team/app/blobs/${blob.digest}`)
  }
  return { ranges: registry.requests.map(({ headers }) => headers.range), progress, error }
}

function startOf({ headers }: SeenRequest): number {
  return Number(/^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] ?? 0)
}

/** Obeys RFC 9110; `cut`: bytes after which the connection is reset. */
function serve(
  request: SeenRequest,
  response: ServerResponse,
  cut = Number.POSITIVE_INFINITY,
  content = bytes,
): void {
  const start = startOf(request)
  if (request.headers.range !== undefined && start >= content.length) {
    response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end()
    return
  }
  const part = content.subarray(start)
  response.writeHead(request.headers.range === undefined ? 200 : 206, {
    'content-length': part.length,
    ...(request.headers.range !== undefined && {
      'content-range': `bytes ${start}-${content.length - 1}/${content.length}`,
    }),
  })
  if (cut >= part.length) response.end(part)
  else if (cut === 0) response.flushHeaders()
  if (cut < part.length) {
    response.write(part.subarray(0, cut), () => setTimeout(() => response.destroy(), 20))
  }
}

const whole = (): boolean => readFileSync(path).equals(bytes)
const left = (): number => (existsSync(path) ? statSync(path).size : 0)

describe('a blob', () => {
  test('comes in one request, which asks for no part and no encoding', async () => {
    await using registry = await serveRegistry((request, response) => serve(request, response))
    rmSync(path, { force: true })
    await client.fetchBlob(registry.endpoint, blob, { path }, registryCall())
    expect(whole()).toBe(true)
    expect(registry.requests).toHaveLength(1)
    expect(registry.requests[0]?.headers).toMatchObject({ 'accept-encoding': 'identity' })
    expect(registry.requests[0]?.headers.range).toBeUndefined()
    expect(statSync(path).mode & 0o777).toBe(0o600)
  })

  test.each([0, 1, 1024 * 1024, bytes.length - 1])(
    'whose connection breaks after %i bytes goes on there',
    async (cut) => {
      const { ranges, error } = await fetched((request, response, count) =>
        serve(request, response, count === 1 ? cut : undefined),
      )
      expect(error).toBeUndefined()
      expect(whole()).toBe(true)
      expect(ranges).toEqual([undefined, cut === 0 ? undefined : `bytes=${cut}-`])
    },
  )

  test('whose answer ends early, well-formed, goes on by Range', async () => {
    const { ranges, error } = await fetched((request, response, count) => {
      if (count > 1) return serve(request, response)
      response.writeHead(200, { 'content-length': 1000 }).end(bytes.subarray(0, 1000))
    })
    expect(error).toBeUndefined()
    expect(ranges).toEqual([undefined, 'bytes=1000-'])
    expect(whole()).toBe(true)
  })

  test('goes on for as long as every attempt brings a mebibyte', async () => {
    const call = registryCall({ retries: 1 })
    const { ranges, error } = await fetched(
      (request, response) => serve(request, response, 1 << 20),
      undefined,
      call,
    )
    expect(error).toBeUndefined()
    expect(ranges).toHaveLength(4)
    expect(whole()).toBe(true)
  })

  test('that brings less is given up when the attempts are used up, and what came stays for the next time', async () => {
    const { ranges, error } = await fetched((request, response) => serve(request, response, 1000))
    expect(error).toMatchObject({
      code: 'ISB_REGISTRY_UNAVAILABLE',
      message: expect.stringContaining(blob.digest),
    })
    expect(ranges).toHaveLength(5)
    expect(left()).toBe(5000)
    const again = await fetched((request, response) => serve(request, response), readFileSync(path))
    expect(again.error).toBeUndefined()
    expect(again.ranges).toEqual(['bytes=5000-'])
    expect(whole()).toBe(true)
  })

  test('of a file that is whole already is not asked for', async () => {
    const { ranges, progress, error } = await fetched(() => undefined, bytes)
    expect({ ranges, error, last: progress.at(-1) }).toEqual({
      ranges: [],
      error: undefined,
      last: bytes.length,
    })
  })

  test('is fetched from the start when the file holds more than it, or as much of something else', async () => {
    for (const before of [Buffer.concat([bytes, Buffer.from('x')]), randomBytes(bytes.length)]) {
      const { ranges, error } = await fetched((request, response) => serve(request, response), before)
      expect(error).toBeUndefined()
      expect(ranges).toEqual([undefined])
      expect(whole()).toBe(true)
    }
  })

  test('whose beginning was something else is fetched anew, once', async () => {
    const { ranges, error } = await fetched(
      (request, response) => serve(request, response),
      randomBytes(1000),
    )
    expect(error).toBeUndefined()
    expect(ranges).toEqual(['bytes=1000-', undefined])
    expect(whole()).toBe(true)
    const wrong = randomBytes(bytes.length)
    const lying = await fetched(
      (request, response) => serve(request, response, undefined, wrong),
      bytes.subarray(0, 1000),
    )
    expect(lying.error).toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
    expect(lying.ranges).toEqual(['bytes=1000-', undefined])
    expect(left()).toBe(0)
  })

  test('starts over where the registry knows no Range, or refuses it', async () => {
    const ignoring = await fetched(
      (_, response) => {
        response.writeHead(200, { 'content-length': bytes.length }).end(bytes)
      },
      bytes.subarray(0, 5000),
    )
    expect(ignoring.error).toBeUndefined()
    expect(ignoring.ranges).toEqual(['bytes=5000-'])
    expect(ignoring.progress).toContain(0)
    expect(whole()).toBe(true)
    const refusing = await fetched(
      (request, response) => {
        if (request.headers.range !== undefined) response.writeHead(416).end()
        else serve(request, response)
      },
      bytes.subarray(0, 5000),
    )
    expect(refusing.error).toBeUndefined()
    expect(refusing.ranges).toEqual(['bytes=5000-', undefined])
    expect(whole()).toBe(true)
  })

  test('is given up where a Range is always refused and nothing comes whole', async () => {
    const { error, ranges } = await fetched((request, response) => {
      if (request.headers.range !== undefined) response.writeHead(416).end()
      else serve(request, response, 100)
    })
    expect(error).toMatchObject({ code: 'ISB_DIGEST_MISMATCH', message: expect.stringContaining('416') })
    expect(ranges).toHaveLength(4)
    expect(left()).toBe(0)
  })
})

describe('not believed, and nothing kept, is', () => {
  const partial =
    (range: string | undefined): Handler =>
    (_, response) => {
      response
        .writeHead(206, { ...(range !== undefined && { 'content-range': range }) })
        .end(bytes.subarray(1000))
    }
  const end = bytes.length - 1
  test.each<readonly [string, Handler, number]>([
    ['wrong bytes of the right length', (q, r) => serve(q, r, undefined, randomBytes(bytes.length)), 0],
    [
      'a blob that is announced as longer',
      (q, r) => serve(q, r, undefined, Buffer.concat([bytes, bytes])),
      0,
    ],
    [
      'a blob that is longer',
      (_, response) => {
        response.write(bytes)
        response.end('x')
      },
      0,
    ],
    [
      'an encoded blob',
      (_, response) => {
        response.writeHead(200, { 'content-encoding': 'gzip' }).end(bytes)
      },
      0,
    ],
    ['a part where all was asked for', partial(`bytes 0-${end}/${bytes.length}`), 0],
    ['a part without Content-Range', partial(undefined), 1000],
    ['a part from elsewhere', partial(`bytes 0-${end}/${bytes.length}`), 1000],
    ['a part of something longer', partial(`bytes 1000-${end}/${bytes.length + 1}`), 1000],
    ['a part that goes too far', partial(`bytes 1000-${end + 1}/*`), 1000],
    ['a part with an odd Content-Range', partial('bytes 1000-'), 1000],
  ])('%s', async (_, handle, present) => {
    const { error, ranges } = await fetched(handle, bytes.subarray(0, present))
    expect(error).toMatchObject({ message: expect.stringContaining('team/app') })
    expect(['ISB_DIGEST_MISMATCH', 'ISB_REGISTRY_DENIED', 'ISB_REGISTRY_UNAVAILABLE']).toContain(
      (error as { code?: string }).code,
    )
    expect(ranges).toHaveLength(1)
    expect(left()).toBe(0)
  })

  test('a blob that is too short everywhere', async () => {
    const { error } = await fetched((request, response) =>
      serve(request, response, undefined, bytes.subarray(0, 99)),
    )
    expect(error).toMatchObject({
      code: 'ISB_DIGEST_MISMATCH',
      message: expect.stringContaining(`has 99 bytes instead of ${bytes.length}`),
    })
    expect(left()).toBe(0)
  })
})

test('a blob that the registry does not have is named with its place', async () => {
  const { error, ranges } = await fetched((_, response) => response.writeHead(404).end('{}'))
  expect(error).toMatchObject({
    code: 'ISB_IMAGE_NOT_FOUND',
    message: expect.stringMatching(/127\.0\.0\.1:\d+\/team\/app does not have blob sha256:.* \(status 404\)/),
  })
  expect(ranges).toHaveLength(1)
})

test('an abort in the middle keeps what came and closes connection and file', async () => {
  const abort = new AbortController()
  await using registry = await serveRegistry((_, response) => {
    response.writeHead(200, { 'content-length': bytes.length })
    response.write(bytes.subarray(0, 100_000))
  })
  rmSync(path, { force: true })
  const running = client.fetchBlob(
    registry.endpoint,
    blob,
    { path, onProgress: (done) => done === 100_000 && abort.abort() },
    registryCall({}, abort.signal),
  )
  await expect(running).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  expect(readFileSync(path).equals(bytes.subarray(0, 100_000))).toBe(true)
  await expect.poll(() => registry.connections()).toBe(0)
})

test.skipIf(userInfo().uid !== 0)('a full disk is told, and its room given back', async () => {
  await using registry = await serveRegistry((request, response) => serve(request, response))
  const mount = join(directory, 'small')
  mkdirSync(mount)
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'none', mount])
  try {
    const file = join(mount, 'blob.part')
    const full = client.fetchBlob(registry.endpoint, blob, { path: file }, registryCall())
    await expect(full).rejects.toMatchObject({ code: 'ISB_NO_SPACE' })
    expect(statSync(file).size).toBe(0)
  } finally {
    execFileSync('umount', [mount])
  }
})

describe('a small blob in memory', () => {
  const small = Buffer.from('{"config": true}')
  const descriptor = { mediaType: mediaTypes.ociConfig, digest: digestOf(small), size: small.length }

  test('comes back, also after a connection that broke', async () => {
    await using registry = await serveRegistry((_, response, count) => {
      response.writeHead(200, { 'content-length': small.length })
      if (count === 1) response.write(small.subarray(0, 3), () => response.destroy())
      else response.end(small)
    })
    const bytesRead = await client.readBlob(registry.endpoint, descriptor, 100, registryCall())
    expect(Buffer.from(bytesRead).equals(small)).toBe(true)
    expect(registry.requests).toHaveLength(2)
  })

  test('is refused when it is too large, another one, longer or shorter', async () => {
    const answers: readonly (readonly [string, number])[] = [
      ['{"config": fals}', 1],
      ['{"config": true}x', 1],
      ['{"config"', 1],
    ]
    for (const [body] of answers) {
      await using registry = await serveRegistry((_, response) => response.end(body))
      const read = client.readBlob(registry.endpoint, descriptor, 100, registryCall())
      await expect(read).rejects.toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
      expect(registry.requests).toHaveLength(1)
    }
    await using registry = await serveRegistry((_, response) => response.end(small))
    const limited = client.readBlob(registry.endpoint, descriptor, 10, registryCall())
    await expect(limited).rejects.toMatchObject({ code: 'ISB_LIMIT_EXCEEDED' })
    expect(registry.requests).toHaveLength(0)
  })
})
