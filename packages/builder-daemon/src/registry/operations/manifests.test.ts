import { createHash } from 'node:crypto'
import type { ServerResponse } from 'node:http'
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
afterAll(() => http.close())

const descriptor = { mediaType: mediaTypes.ociConfig, digest: digestOf('{}'), size: 2 }
const oci = document({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config: descriptor, layers: [] })
const index = document({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] })

function document(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}

type Handler = (request: SeenRequest, response: ServerResponse, count: number) => unknown

const serving =
  (body: Uint8Array, headers: Readonly<Record<string, string>> = {}): Handler =>
  ({ method }, response) => {
    response.writeHead(200, { 'content-length': body.length, ...headers })
    response.end(method === 'HEAD' ? undefined : body)
  }

async function read(handle: Handler, reference = 'latest') {
  await using registry = await serveRegistry(handle)
  const outcome = await client.manifest(registry.endpoint, reference, registryCall({ retries: 1 })).then(
    (manifest) => ({ manifest, error: undefined }),
    (error: unknown) => ({ manifest: undefined, error }),
  )
  return { ...outcome, requests: registry.requests, seen: registry.seen() }
}

describe('a manifest', () => {
  test('is asked for in all six types, and comes with type, bytes and digest', async () => {
    const { manifest, requests, seen } = await read(
      serving(oci, { 'content-type': `${mediaTypes.ociManifest}; charset=utf-8` }),
    )
    expect(manifest?.mediaType).toBe(mediaTypes.ociManifest)
    expect(Buffer.from(manifest?.bytes ?? []).equals(oci)).toBe(true)
    expect(manifest?.digest).toBe(digestOf(oci))
    expect(seen).toEqual(['GET /v2/team/app/manifests/latest'])
    expect(requests[0]?.headers.accept?.split(', ')).toEqual([
      ...[mediaTypes.ociIndex, mediaTypes.ociManifest, mediaTypes.dockerIndex, mediaTypes.dockerManifest],
      'application/vnd.docker.distribution.manifest.v1+json',
      'application/vnd.docker.distribution.manifest.v1+prettyjws',
    ])
  })

  test('that breaks off is asked for again', async () => {
    const { manifest, seen } = await read((_, response, count) => {
      response.writeHead(200, { 'content-length': oci.length })
      if (count === 1) response.write(oci.subarray(0, 5), () => response.destroy())
      else response.end(oci)
    })
    expect(manifest?.digest).toBe(digestOf(oci))
    expect(seen).toHaveLength(2)
  })

  test.each([
    ['the document', oci, 'application/json', mediaTypes.ociManifest],
    ['the document', index, undefined, mediaTypes.ociIndex],
    ['the document', oci, 'binary/octet-stream', mediaTypes.ociManifest],
    ['what it holds', document({ schemaVersion: 2, manifests: [] }), 'text/json', mediaTypes.ociIndex],
    ['what it holds', document({ schemaVersion: 2, manifests: [] }), 'text/plain', mediaTypes.ociIndex],
    ['what it holds', document({ schemaVersion: 2, config: descriptor }), undefined, mediaTypes.ociManifest],
    [
      'the header',
      document({ schemaVersion: 2, config: descriptor }),
      mediaTypes.dockerManifest,
      mediaTypes.dockerManifest,
    ],
  ])('is what %s says', async (_, body, type, expected) => {
    const { manifest } = await read(serving(body, type === undefined ? {} : { 'content-type': type }))
    expect(manifest?.mediaType).toBe(expected)
  })

  test('of a digest is that, or refused', async () => {
    expect((await read(serving(oci), digestOf(oci))).manifest?.digest).toBe(digestOf(oci))
    const wrong = await read(serving(oci), digestOf(index))
    expect(wrong.error).toMatchObject({
      code: 'ISB_DIGEST_MISMATCH',
      message: expect.stringContaining('team/app'),
    })
    expect(wrong.seen).toHaveLength(1)
  })

  test('whose digest header lies is refused; a header of another algorithm is verified too', async () => {
    const lie = await read(serving(oci, { 'docker-content-digest': digestOf(index) }))
    expect(lie.error).toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
    const sha512 = (bytes: Buffer): string => `sha512:${createHash('sha512').update(bytes).digest('hex')}`
    expect((await read(serving(oci, { 'docker-content-digest': sha512(oci) }))).error).toBeUndefined()
    const twice = `${digestOf(oci)}, ${digestOf(oci)}`
    expect((await read(serving(oci, { 'docker-content-digest': twice }))).error).toBeUndefined()
    const half = await read(serving(oci, { 'docker-content-digest': `${digestOf(oci)},${digestOf(index)}` }))
    expect(half.error).toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
    const other = await read(serving(oci, { 'docker-content-digest': sha512(index) }))
    expect(other.error).toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
  })

  test.each([
    ['a web page', Buffer.from('<html>log in</html>'), 'text/html', /web page instead of a manifest/],
    ['nothing', Buffer.alloc(0), mediaTypes.ociManifest, /empty document/],
    ['text', Buffer.from('hello'), undefined, /not valid JSON/],
    ['a list', Buffer.from('[]'), undefined, /must be an object/],
    ['another type than the header', oci, mediaTypes.dockerManifest, /the registry says/],
    ['an index called a manifest', document({ manifests: [] }), mediaTypes.ociManifest, /does not hold/],
    [
      'something that is both',
      document({ config: descriptor, layers: [], manifests: [] }),
      mediaTypes.ociManifest,
      /ambiguous/,
    ],
    ['another type', document({ mediaType: 'application/x', config: {} }), undefined, /does not hold/],
    [
      'neither',
      document({ mediaType: mediaTypes.ociManifest }),
      undefined,
      /neither a manifest nor an index/,
    ],
    ['nesting', Buffer.from('['.repeat(100)), undefined, /nested deeper/],
  ])('that is %s is refused', async (_, body, type, message) => {
    const { error } = await read(serving(body, type === undefined ? {} : { 'content-type': type }))
    expect(error).toMatchObject({ code: 'ISB_MANIFEST_INVALID', message: expect.stringMatching(message) })
  })

  test('of schema 1 is refused by its name', async () => {
    const signed = 'application/vnd.docker.distribution.manifest.v1+prettyjws'
    const old = document({ schemaVersion: 1, name: 'x', fsLayers: [] })
    for (const type of [signed, 'application/json', mediaTypes.dockerManifest]) {
      const { error } = await read(serving(old, { 'content-type': type }))
      expect(error).toMatchObject({ code: 'ISB_UNSUPPORTED', message: expect.stringContaining('schema 1') })
    }
  })

  test('larger than 4 MiB is not read, announced or not', async () => {
    const announced = await read(serving(Buffer.alloc(0), { 'content-length': '104857600' }))
    expect(announced.error).toMatchObject({
      code: 'ISB_LIMIT_EXCEEDED',
      message: expect.stringContaining('4 MiB'),
    })
    const endless = await read((_, response) => {
      const more = (): void => {
        while (response.write(Buffer.alloc(65_536, ' ')));
        response.once('drain', more)
      }
      more()
    })
    expect(endless.error).toMatchObject({ code: 'ISB_LIMIT_EXCEEDED' })
  })

  test('that is not there is named; so is what is no reference', async () => {
    const { error } = await read((_, response) => response.writeHead(404).end())
    expect(error).toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
      message: expect.stringMatching(/^manifest latest of 127\.0\.0\.1:\d+\/team\/app .*404/),
    })
    for (const [reference, code] of [
      [`sha512:${'a'.repeat(128)}`, 'ISB_UNSUPPORTED'],
      ['../../x', 'ISB_REFERENCE_INVALID'],
      ['a?b', 'ISB_REFERENCE_INVALID'],
      ['', 'ISB_REFERENCE_INVALID'],
    ] as const) {
      const refused = await read(serving(oci), reference)
      expect(refused.error).toMatchObject({ code })
      expect(refused.seen).toEqual([])
    }
    await using registry = await serveRegistry(serving(oci))
    for (const repository of ['', '../x', 'a//b', 'A', 'a?b', 'a/'.repeat(200)]) {
      const hostile = client.manifest({ ...registry.endpoint, repository }, 'latest', registryCall())
      await expect(hostile).rejects.toMatchObject({ code: 'ISB_REFERENCE_INVALID' })
    }
    expect(registry.requests).toHaveLength(0)
  })
})

describe('a manifest head', () => {
  const head = async (handle: Handler) => {
    await using registry = await serveRegistry(handle)
    const found = await client.manifestHead(registry.endpoint, 'latest', registryCall({ retries: 0 }))
    return { found, methods: registry.requests.map(({ method }) => method) }
  }
  const expected = { mediaType: mediaTypes.ociManifest, digest: digestOf(oci), size: oci.length }
  const type = { 'content-type': mediaTypes.ociManifest }

  test('is one HEAD', async () => {
    const told = await head(serving(oci, { ...type, 'docker-content-digest': digestOf(oci) }))
    expect(told).toEqual({ found: expected, methods: ['HEAD'] })
  })

  test('is a GET where HEAD tells no digest, or is not known', async () => {
    expect(await head(serving(oci, type))).toEqual({ found: expected, methods: ['HEAD', 'GET'] })
    for (const status of [400, 404, 405, 501]) {
      const told = await head((request, response, count) => {
        if (request.method === 'HEAD') response.writeHead(status, { 'content-type': 'text/html' }).end()
        else serving(oci, type)(request, response, count)
      })
      expect(told).toEqual({ found: expected, methods: ['HEAD', 'GET'] })
    }
  })

  test('is undefined for what is not there', async () => {
    const json = await head((_, response) =>
      response.writeHead(404, { 'content-type': 'application/json' }).end(),
    )
    expect(json).toEqual({ found: undefined, methods: ['HEAD'] })
    const bare = await head((_, response) => response.writeHead(404).end())
    expect(bare).toEqual({ found: undefined, methods: ['HEAD', 'GET'] })
  })
})

describe('putting a manifest', () => {
  const put = async (handle: Handler, mediaType: string = mediaTypes.ociManifest, reference = 'v1') => {
    await using registry = await serveRegistry(async (request, response, count) => {
      const chunks: Buffer[] = []
      for await (const chunk of request.message) chunks.push(chunk as Buffer)
      bodies.push(Buffer.concat(chunks))
      await handle(request, response, count)
    })
    const bodies: Buffer[] = []
    const error = await client
      .putManifest(registry.endpoint, reference, { mediaType, bytes: oci }, registryCall({ retries: 1 }))
      .catch((reason: unknown) => reason)
    return { error, bodies, requests: registry.requests, seen: registry.seen() }
  }
  const refusing =
    (status: number, code: string): Handler =>
    (_, response) => {
      response.writeHead(status, { 'content-type': 'application/json' })
      response.end(JSON.stringify({ errors: [{ code, message: 'because' }] }))
    }

  test('sends exactly its bytes under its type', async () => {
    const { error, bodies, requests, seen } = await put((_, response) => {
      response.writeHead(201, { 'docker-content-digest': digestOf(oci), location: '/x' }).end()
    })
    expect(error).toBeUndefined()
    expect(seen).toEqual(['PUT /v2/team/app/manifests/v1'])
    expect(requests[0]?.headers).toMatchObject({
      'content-type': mediaTypes.ociManifest,
      'content-length': String(oci.length),
    })
    expect(bodies[0]?.equals(oci)).toBe(true)
  })

  test('by digest only puts what has it', async () => {
    const ok: Handler = (_, response) => response.writeHead(201).end()
    expect((await put(ok, undefined, digestOf(oci))).error).toBeUndefined()
    const { error, seen } = await put(ok, undefined, digestOf('x'))
    expect(error).toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
    expect(seen).toEqual([])
  })

  test('fails when the registry stored something else', async () => {
    const { error } = await put((_, response) => {
      response.writeHead(201, { 'docker-content-digest': digestOf('x') }).end()
    })
    expect(error).toMatchObject({ code: 'ISB_DIGEST_MISMATCH' })
  })

  test.each([
    [404, 'MANIFEST_BLOB_UNKNOWN', 'ISB_IMAGE_NOT_FOUND', /misses a part .*MANIFEST_BLOB_UNKNOWN: because/],
    [400, 'MANIFEST_BLOB_UNKNOWN', 'ISB_IMAGE_NOT_FOUND', /misses a part/],
    [400, 'MANIFEST_INVALID', 'ISB_REGISTRY_DENIED', /does not take the OCI format/],
    [415, '', 'ISB_REGISTRY_DENIED', /does not take the OCI format/],
    [405, 'UNSUPPORTED', 'ISB_REGISTRY_DENIED', /does not take the OCI format/],
    [400, 'TAG_INVALID', 'ISB_REGISTRY_DENIED', /refused manifest v1 .*TAG_INVALID/],
    [413, '', 'ISB_REGISTRY_DENIED', /too large/],
    [403, 'DENIED', 'ISB_REGISTRY_DENIED', /team\/app/],
  ])('explains %i %s', async (status, code, expected, message) => {
    const { error, seen } = await put(refusing(status, code))
    expect(error).toMatchObject({ code: expected, message: expect.stringMatching(message) })
    expect(seen).toHaveLength(1)
    if (/OCI/.test(message.source))
      expect(error).toMatchObject({ hint: expect.stringContaining('--format docker') })
  })

  test('says nothing of OCI where Docker documents are refused', async () => {
    const { error } = await put(refusing(400, 'MANIFEST_INVALID'), mediaTypes.dockerManifest)
    expect(error).toMatchObject({
      code: 'ISB_REGISTRY_DENIED',
      message: expect.not.stringContaining('OCI format'),
    })
  })

  test('is repeated after a failure that passes', async () => {
    const { error, bodies } = await put((_, response, count) =>
      response.writeHead(count === 1 ? 503 : 201).end(),
    )
    expect(error).toBeUndefined()
    expect(bodies.map((body) => body.equals(oci))).toEqual([true, true])
  })
})

describe('tags', () => {
  test('come from all pages, of the same registry', async () => {
    await using registry = await serveRegistry(({ path }, response) => {
      const last = new URL(path, 'http://x').searchParams.get('last')
      const page = { undefined: ['a', 'b'], b: ['c', '../x', 7], c: null }[String(last ?? undefined)]
      const link = {
        undefined: '<?last=b&n=2>; rel="next"',
        b: `<${registry.origin}/v2/team/app/tags/list?last=c>; rel=next`,
      }
      const next = link[String(last ?? undefined) as keyof typeof link]
      response.writeHead(200, {
        'content-type': 'application/json',
        ...(next !== undefined && { link: next }),
      })
      response.end(JSON.stringify({ name: 'team/app', tags: page }))
    })
    expect(await client.tags(registry.endpoint, registryCall())).toEqual(['a', 'b', 'c'])
    expect(registry.seen()).toEqual([
      'GET /v2/team/app/tags/list?n=1000',
      'GET /v2/team/app/tags/list?last=b&n=2',
      'GET /v2/team/app/tags/list?last=c',
    ])
  })

  test('are not looked for at another registry', async () => {
    await using other = await serveRegistry((_, response) => response.end('{}'))
    await using registry = await serveRegistry((_, response) => {
      response
        .writeHead(200, { link: `<${other.origin}/v2/team/app/tags/list>; rel="next"` })
        .end('{"tags":[]}')
    })
    const foreign = client.tags(registry.endpoint, registryCall())
    await expect(foreign).rejects.toMatchObject({ code: 'ISB_REGISTRY_DENIED' })
    expect(other.requests).toHaveLength(0)
  })

  test('without end are given up after 1000 pages', async () => {
    await using registry = await serveRegistry((_, response) => {
      response.writeHead(200, { link: '<?n=1>; rel="next"' }).end('{"tags":["a"]}')
    })
    const endless = client.tags(registry.endpoint, registryCall())
    await expect(endless).rejects.toMatchObject({ code: 'ISB_LIMIT_EXCEEDED' })
    expect(registry.requests).toHaveLength(1000)
  })

  test('of nothing, or as something else, are errors', async () => {
    await using missing = await serveRegistry((_, response) => response.writeHead(404).end())
    await expect(client.tags(missing.endpoint, registryCall())).rejects.toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
    })
    await using page = await serveRegistry((_, response) => response.end('<html>'))
    await expect(client.tags(page.endpoint, registryCall())).rejects.toMatchObject({
      code: 'ISB_MANIFEST_INVALID',
    })
  })
})

describe('referrers', () => {
  const subject = digestOf(oci)
  const signature = { mediaType: mediaTypes.ociManifest, digest: digestOf('s'), size: 1, artifactType: 'x' }
  const foreign = { ...signature, digest: `sha512:${'0'.repeat(128)}` }
  const list = document({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [signature, foreign] })
  const found = [expect.objectContaining({ digest: signature.digest, size: 1 })]

  test('are listed by the registry', async () => {
    await using registry = await serveRegistry(serving(list, { 'content-type': mediaTypes.ociIndex }))
    expect(await client.referrers(registry.endpoint, subject, registryCall())).toEqual(found)
    expect(registry.seen()).toEqual([`GET /v2/team/app/referrers/${subject}`])
  })

  test.each([404, 400, 405, 200])('are looked up under their tag where the answer is %i', async (status) => {
    await using registry = await serveRegistry((request, response, count) => {
      if (count === 1) response.writeHead(status, { 'content-type': 'text/html' }).end('<html>')
      else serving(list, { 'content-type': mediaTypes.ociIndex })(request, response, count)
    })
    expect(await client.referrers(registry.endpoint, subject, registryCall())).toEqual(found)
    expect(registry.seen()[1]).toBe(`GET /v2/team/app/manifests/sha256-${subject.slice(7)}`)
  })

  test('are none where there is neither', async () => {
    await using registry = await serveRegistry((_, response) => response.writeHead(404).end())
    expect(await client.referrers(registry.endpoint, subject, registryCall())).toEqual([])
  })
})

test('a ping tells a registry from a web server', async () => {
  await using registry = await serveRegistry((_, response) => response.writeHead(200).end('{}'))
  await client.ping(registry.endpoint, registryCall())
  expect(registry.seen()).toEqual(['GET /v2/'])
  await using web = await serveRegistry((_, response) => response.writeHead(404).end())
  const refused = client.ping(web.endpoint, registryCall())
  await expect(refused).rejects.toMatchObject({
    code: 'ISB_REGISTRY_DENIED',
    message: expect.stringMatching(/no registry/),
  })
})
