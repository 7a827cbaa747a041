import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  answers,
  type Fault,
  fails,
  headers,
  loses,
  redirects,
  relocates,
} from '../support/fake-registry/faults.js'
import { isMatch, paths, type RecordedRequest } from '../support/fake-registry/record.js'
import { refusal } from '../support/fake-registry/reply.js'
import { type FakeRegistry, type FakeRegistryOptions, startFakeRegistry } from '../support/fake-registry.js'
import { patience, startTransferDaemon, type TransferDaemon } from '../support/transfer-daemon.js'

// reliability.md 3.4, G07, G09, G10 and G11: uploads that break, move, are forgotten or are not needed.

let daemon: TransferDaemon
beforeAll(async () => {
  daemon = await startTransferDaemon()
})
afterAll(() => daemon[Symbol.asyncDispose]())
beforeEach(() => daemon.clear())

const body = { method: ['PUT', 'PATCH'], path: paths.upload }
/** Of the layer; the small configuration goes beside it. */
const upload = (request: RecordedRequest): boolean =>
  isMatch(body, request) && Number(request.headers['content-length'] ?? 0) > 10_000

/** An image with one layer of which so many bytes are uploaded at least. */
async function load(registry: FakeRegistry, repository = 'team/app', size = 600_000): Promise<string> {
  return await daemon.load(`${registry.host}/${repository}:1`, [size])
}

const bodies = ({ requests }: FakeRegistry) =>
  requests.filter(({ method, path }) => body.method.includes(method) && paths.upload.test(path))

const blobPuts = (registry: FakeRegistry): number =>
  bodies(registry).filter(({ status }) => status === 201).length

/** The image is in the registry, whole, and the client did nothing that the spec forbids. */
function expectPushed(registry: FakeRegistry, repository = 'team/app'): void {
  const { tags, manifests } = registry.storage.repository(repository)
  const manifest = manifests.get(tags.get('1') ?? '')
  expect(manifest).toBeDefined()
  const { config, layers } = JSON.parse(manifest?.bytes.toString() ?? '{}')
  for (const { digest, size } of [config, ...layers]) {
    expect(registry.storage.read(repository, digest).length).toBe(size)
  }
  expect(registry.violations).toEqual([])
  expect(registry.requests.at(-1)).toMatchObject({ method: 'PUT', path: `/v2/${repository}/manifests/1` })
}

describe('an upload that breaks goes on where the registry is', () => {
  const chunkStarts = (registry: FakeRegistry) =>
    bodies(registry)
      .filter(({ method }) => method === 'PATCH')
      .map(({ headers }) => headers['content-range']?.split('-')[0])

  test('after a reset', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    registry.fail({ match: upload, with: loses(250_000) })
    await daemon.ok('push', name)
    expectPushed(registry)
    expect(chunkStarts(registry)).toEqual(['250000'])
  })

  test('after silence', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry, 'team/app', 12_000_000)
    registry.fail({ match: upload, with: loses(5_000_000, 'stall') })
    await daemon.ok('push', name)
    expectPushed(registry)
    expect(chunkStarts(registry)).toEqual(['5000000'])
  })

  test('again and again, and where the registry has forgotten the last of it', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    const faults = [loses(300_000), loses(100_000, 'reset', false), loses(100_000)]
    registry.fail({ match: upload, times: 3, with: (_request, count) => faults[count - 1] ?? {} })
    await daemon.ok('push', name)
    expectPushed(registry)
    expect(chunkStarts(registry)).toEqual(['300000', '300000', '400000'])
  })

  test('after an error with the body half sent', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    registry.fail({ match: upload, with: loses(250_000, refusal(500, 'UNKNOWN', 'the disk is ill')) })
    await daemon.ok('push', name)
    expectPushed(registry)
  })

  test('after 416, by asking for the status', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    registry.fail({ match: upload, with: loses(250_000) })
    registry.fail({ match: { method: 'PATCH' }, with: answers(416, { range: '0-249999' }) })
    await daemon.ok('push', name)
    expectPushed(registry)
    expect(chunkStarts(registry)).toEqual(['250000', '250000'])
  })

  test('with a new token when the old one has ended, and sends nothing twice (G07)', async () => {
    await using registry = await startFakeRegistry({
      auth: { kind: 'token', users: { anna: 'secret' } },
      tokenServer: {},
    })
    const name = await load(registry)
    registry.fail({ match: upload, with: loses(250_000) })
    registry.fail({
      match: { method: 'PATCH' },
      with: () => {
        registry.gate?.revoke()
        return {}
      },
    })
    await daemon.ok('push', '--creds', 'anna:secret', name)
    expectPushed(registry)
    const patches = bodies(registry).filter(({ method }) => method === 'PATCH')
    expect(patches.map(({ status }) => status)).toEqual([401, 202])
    expect(chunkStarts(registry)).toEqual(['250000', '250000'])
  })

  test('with tokens that live a second (G07)', async () => {
    await using registry = await startFakeRegistry({
      auth: { kind: 'token', users: { anna: 'secret' }, lifetime: 1000 },
      tokenServer: {},
    })
    const name = await daemon.load(`${registry.host}/team/app:1`, [300_000, 300_000, 300_000])
    registry.fail({
      match: upload,
      times: 3,
      with: { wait: () => new Promise((resolve) => setTimeout(resolve, 800)) },
    })
    await daemon.ok('push', '--creds', 'anna:secret', name)
    expectPushed(registry)
    expect(registry.tokenRequests.length).toBeLessThanOrEqual(6)
  })
})

describe('an upload', () => {
  test.each<[string, (location: string, registry: FakeRegistry) => string]>([
    ['an absolute Location', (location, { origin }) => origin + location],
    ['one without a scheme', (location, { host }) => `//${host}${location}`],
    ['one with a signature', (location) => `${location}&signature=a%2Fb%3D&empty=`],
    ['one relative to the request', (location) => location.replace(/^.*\/uploads\//, '')],
  ])('follows %s', async (_, change) => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    registry.fail({
      match: { method: 'POST', path: paths.uploads },
      times: 100,
      with: relocates((location) => change(location, registry)),
    })
    await daemon.ok('push', name)
    expectPushed(registry)
    if (_.includes('signature')) {
      expect(bodies(registry)[0]?.query.get('signature')).toBe('a/b=')
    }
  })

  test('follows 307 with its body', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    registry.fail({ match: upload, with: redirects(({ path, query }) => `${path}?${query}&again=1`) })
    await daemon.ok('push', name)
    expectPushed(registry)
  })

  test('without a Location, or with nonsense in it, is a clear error', async () => {
    for (const location of [undefined, 'http://[', 'ftp://127.0.0.1/x']) {
      await using registry = await startFakeRegistry()
      const name = await load(registry)
      registry.fail({ match: { method: 'POST' }, times: 100, with: headers({ location }) })
      const text = await daemon.fails('push', name)
      expect(text).toContain(registry.host)
      expect(registry.storage.repository('team/app').tags.size).toBe(0)
    }
  })

  /** The registry has forgotten everything that was begun. */
  const forgets = (registry: FakeRegistry): Fault => {
    for (const one of registry.storage.uploads.values()) registry.storage.cancel(one)
    return {}
  }

  test('that is forgotten begins anew', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    registry.fail({ match: upload, with: () => forgets(registry) })
    await daemon.ok('push', name)
    expectPushed(registry)
  })

  test('that is forgotten every time is given up after the third beginning', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    registry.fail({ match: upload, times: 100, with: () => forgets(registry) })
    const text = await daemon.fails('push', name)
    expect(text).toContain(registry.host)
    expect(text).toContain('team/app')
    // The configuration goes beside it, and may lose its upload with the layer's.
    const begun = registry.count({ method: 'POST', path: paths.uploads })
    expect(begun).toBeGreaterThanOrEqual(3 + 1)
    expect(begun).toBeLessThanOrEqual(3 + 3)
    expect(registry.storage.repository('team/app').tags.size).toBe(0)
    await daemon.bench.expectSound()
  })

  test('goes in chunks as long as the registry wants where the whole is too long for it', async () => {
    await using registry = await startFakeRegistry({
      abilities: { maxBody: 20_000_000, chunkMinLength: 17_000_000 },
    })
    const name = await load(registry, 'team/app', 40_000_000)
    await daemon.ok('push', name)
    expectPushed(registry)
    const lengths = bodies(registry)
      .filter(({ method, status }) => method === 'PATCH' && status === 202)
      .map(({ received }) => received)
    expect(lengths.length).toBeGreaterThan(1)
    for (const length of lengths.slice(0, -1)) {
      expect(length).toBeGreaterThanOrEqual(17_000_000)
      expect(length).toBeLessThanOrEqual(20_000_000)
    }
  })

  test('that fails takes the others with it, and the next push sends only what is missing', async () => {
    await using registry = await startFakeRegistry()
    const name = await daemon.load(`${registry.host}/team/app:1`, [200_000, 5_000_000])
    const isSecond = ({ method, path, headers }: FakeRegistry['requests'][number]): boolean =>
      method === 'PUT' && paths.upload.test(path) && Number(headers['content-length']) > 1_000_000
    registry.fail({ match: isSecond, with: fails(403) })
    expect(await daemon.fails('push', name)).toMatch(/403/)
    expect(registry.storage.repository('team/app').tags.size).toBe(0)
    const before = registry.storage.repository('team/app').blobs.size
    registry.forget()
    await daemon.ok('push', name)
    expectPushed(registry)
    expect(blobPuts(registry)).toBe(3 - before)
  })
})

describe('a blob that is there', () => {
  test('is not sent again', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    await daemon.ok('push', name)
    expect(blobPuts(registry)).toBe(2)
    registry.forget()
    await daemon.ok('push', name)
    expect(bodies(registry)).toEqual([])
    expect(registry.count({ method: 'POST' })).toBe(0)
  })

  async function pushTwice(options: FakeRegistryOptions, ...flags: readonly string[]): Promise<FakeRegistry> {
    const registry = await startFakeRegistry(options)
    const name = await load(registry)
    await daemon.ok('push', ...flags, name)
    registry.forget()
    await daemon.ok('push', ...flags, name, `${registry.host}/other/place:1`)
    expectPushed(registry, 'other/place')
    return registry
  }

  const mounts = ({ requests }: FakeRegistry) => requests.filter(({ query }) => query.has('mount'))

  test('in another repository is mounted', async () => {
    await using registry = await pushTwice({})
    expect(mounts(registry).map(({ status }) => status)).toContain(201)
    expect(bodies(registry).filter(({ received }) => received > 100_000)).toEqual([])
  })

  test('is sent where the registry mounts nothing', async () => {
    await using registry = await pushTwice({ abilities: { mounts: false } })
    expect(mounts(registry).map(({ status }) => status)).not.toContain(201)
    expect(bodies(registry).filter(({ received }) => received > 100_000).length).toBe(1)
    // What was begun by trying is taken back.
    expect(registry.storage.uploads.size).toBe(0)
  })

  test('is mounted with a token for both repositories', async () => {
    const auth = { kind: 'token', users: { anna: 'secret' } } as const
    await using registry = await pushTwice({ auth, tokenServer: {} }, '--creds', 'anna:secret')
    expect(mounts(registry).map(({ status }) => status)).toContain(201)
  })

  test('is sent where its repository may not be read any more', async () => {
    let closed = false
    await using registry = await startFakeRegistry({
      auth: {
        ...{ kind: 'token', users: { anna: 'secret' } },
        allows: (_user, repository) => !(closed && repository === 'team/app'),
      },
      tokenServer: {},
    })
    const name = await load(registry)
    await daemon.ok('push', '--creds', 'anna:secret', name)
    closed = true
    registry.gate?.revoke()
    registry.forget()
    await daemon.ok('push', '--creds', 'anna:secret', name, `${registry.host}/other/place:1`)
    expectPushed(registry, 'other/place')
    expect(bodies(registry).filter(({ received }) => received > 100_000).length).toBe(1)
  })
})

describe('a manifest that is refused', () => {
  test('because a blob has gone missing: sends it again, once', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    await daemon.ok('push', name)
    const { tags, blobs } = registry.storage.repository('team/app')
    tags.clear()
    registry.fail({
      match: { method: 'PUT', path: paths.manifest },
      with: (): Fault => {
        blobs.clear()
        return { instead: () => refusal(404, 'MANIFEST_BLOB_UNKNOWN', 'blob unknown to registry') }
      },
    })
    await daemon.ok('push', name)
    expectPushed(registry)
    tags.clear()
    registry.fail({
      match: { method: 'PUT', path: paths.manifest },
      times: 2,
      with: () => ({ instead: () => refusal(404, 'MANIFEST_BLOB_UNKNOWN', 'blob unknown to registry') }),
    })
    const text = await daemon.fails('push', name)
    expect(text).toMatch(/MANIFEST_BLOB_UNKNOWN/)
    expect(text).toContain(registry.host)
    expect(tags.size).toBe(0)
  })

  test('because it is too large, or for no reason: says so, once', async () => {
    for (const status of [413, 400]) {
      await using registry = await startFakeRegistry()
      const name = await load(registry)
      const rule = registry.fail({
        match: { method: 'PUT', path: paths.manifest },
        times: 100,
        with: fails(status),
      })
      const text = await daemon.fails('push', name)
      expect(text).toMatch(new RegExp(`${status}`))
      expect(text).toContain(registry.host)
      expect(rule.used()).toBe(1)
      expect(registry.storage.repository('team/app').tags.size).toBe(0)
    }
  })

  test('because OCI is not known there: says so and converts nothing', async () => {
    await using registry = await startFakeRegistry({ abilities: { oci: false } })
    const name = await load(registry)
    const text = await daemon.fails('push', '--format', 'oci', name)
    expect(text).toMatch(/OCI/)
    expect(text).toMatch(/docker/)
    expect(registry.storage.repository('team/app').tags.size).toBe(0)
    await daemon.ok('push', '--format', 'docker', name)
    expect(registry.storage.repository('team/app').tags.size).toBe(1)
  })

  test('is retried no more often than told', async () => {
    await using registry = await startFakeRegistry()
    const name = await load(registry)
    const rule = registry.fail({
      match: { method: 'PUT', path: paths.manifest },
      times: 100,
      with: fails(503),
    })
    await daemon.fails('push', '--retry=2', name)
    expect(rule.used()).toBe(Math.min(3, patience.retries + 1))
  })
})
