import { once } from 'node:events'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { mediaTypes } from '../../packages/shared/src/oci/media-types.js'
import { answers, type Fault, headers, redirects } from '../support/fake-registry/faults.js'
import { paths, type RecordedRequest } from '../support/fake-registry/record.js'
import { reply } from '../support/fake-registry/reply.js'
import { type FakeRegistry, startFakeRegistry } from '../support/fake-registry.js'
import {
  blobPath,
  expectNothingNamed,
  expectPulled,
  lastLayer,
  newImage,
  pullOver,
  withConnection,
} from '../support/registry-content.js'
import { startTransferDaemon, type TransferDaemon } from '../support/transfer-daemon.js'

// reliability.md 3.4, G06, G08, G12, G13 and G16: answers that lead in circles, tokens that are none, manifests that
// are none or change, and many who want the same.

let daemon: TransferDaemon
beforeAll(async () => {
  daemon = await startTransferDaemon()
})
afterAll(() => daemon[Symbol.asyncDispose]())
beforeEach(() => daemon.clear())

describe('redirects (G06)', () => {
  const blob = { method: 'GET', path: paths.blob }
  const hops = ({ query }: RecordedRequest): number => Number(query.get('hop') ?? '0')

  test('ten are followed, relative and absolute', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry, { sizes: [20_000] })
    registry.fail({
      match: (request) => request.method === 'GET' && paths.blob.test(request.path) && hops(request) < 10,
      times: 1000,
      with: redirects((request) => {
        const to = `${request.path}?hop=${hops(request) + 1}`
        return hops(request) % 2 === 0 ? to : registry.origin + to
      }),
    })
    await daemon.ok('pull', target.name)
    await expectPulled(daemon, registry, target)
    expect(registry.violations).toEqual([])
  })

  test.each<[string, (request: RecordedRequest) => string]>([
    ['a circle', ({ path }) => path],
    ['eleven', (request) => `${request.path}?hop=${hops(request) + 1}`],
  ])('%s is too much', async (_, to) => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    registry.fail({ match: blob, times: 1000, with: redirects(to, 302) })
    const text = await daemon.fails('pull', target.name)
    expect(text).toMatch(/redirects more than 10 times/)
    expect(text).toContain(registry.host)
    expect(registry.count(blob)).toBe(11)
    await expectNothingNamed(daemon)
  })

  test.each([
    ['nowhere', 'http://[::'],
    ['another protocol', 'file:///etc/passwd'],
    ['an address of a cloud', 'http://169.254.169.254/latest/meta-data'],
    ['no address', 'http://0.0.0.0/'],
    ['everybody', 'http://255.255.255.255/'],
  ])('to %s is refused', async (_, location) => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    registry.fail({ match: blob, times: 1000, with: redirects(location) })
    const text = await daemon.fails('pull', target.name)
    expect(text).toContain(registry.host)
    expect(registry.count(blob)).toBe(1)
    await expectNothingNamed(daemon)
  })

  test('to another host is followed, and content is checked all the same', async () => {
    await using registry = await startFakeRegistry()
    await using storage = await startFakeRegistry()
    const target = newImage(registry)
    const layer = lastLayer(target)
    registry.fail({
      match: { path: blobPath(layer.digest) },
      times: 9,
      with: redirects(`${storage.origin}/x`),
    })
    const bytes = Buffer.from(registry.storage.read('team/app', layer.digest))
    storage.fail({ match: { path: /^\/x$/ }, times: 9, with: { instead: () => reply(200, {}, bytes) } })
    await daemon.ok('pull', target.name)
    await expectPulled(daemon, registry, target)
    storage.behave()
    const other = newImage(registry)
    const lie = Buffer.alloc(lastLayer(other).size)
    registry.fail({
      match: { path: blobPath(lastLayer(other).digest) },
      times: 99,
      with: redirects(`${storage.origin}/x`),
    })
    storage.fail({ match: { path: /^\/x$/ }, times: 99, with: { instead: () => reply(200, {}, lie) } })
    expect(await daemon.fails('pull', other.name)).toMatch(/digest/)
  })
})

describe('authentication that does not come to an end (G08)', () => {
  const users = { anna: 'secret' }
  const tokens = ({ tokenRequests }: FakeRegistry): number => tokenRequests.length

  test('401 whatever the token', async () => {
    await using registry = await startFakeRegistry({ auth: { kind: 'token', users }, tokenServer: {} })
    const target = newImage(registry)
    const challenge = `Bearer realm="${registry.origin}/token",service="s",scope="repository:team/app:pull"`
    registry.fail({
      match: { path: /^\/v2\// },
      times: 1000,
      with: answers(401, { 'www-authenticate': challenge }),
    })
    registry.fail({ match: { path: paths.token }, times: 1000, with: answers(200, {}, '{"token":"t"}') })
    const text = await daemon.fails('pull', '--creds', 'anna:secret', target.name)
    expect(text).toContain(registry.host)
    expect(text).toMatch(/401/)
    expect(registry.count({ path: /^\/v2\// })).toBeLessThanOrEqual(3)
    expect(registry.count({ path: paths.token })).toBeLessThanOrEqual(2)
    await expectNothingNamed(daemon)
  })

  test('a scope that the user never gets', async () => {
    await using registry = await startFakeRegistry({
      auth: { kind: 'token', users, allows: () => false },
      tokenServer: {},
    })
    const target = newImage(registry)
    const text = await daemon.fails('pull', '--creds', 'anna:secret', target.name)
    expect(text).toContain(registry.host)
    expect(registry.requests.length).toBeLessThanOrEqual(3)
    expect(tokens(registry)).toBeLessThanOrEqual(2)
  })

  test('a wrong password is said to be one, after one attempt each', async () => {
    for (const kind of ['token', 'basic'] as const) {
      await using registry = await startFakeRegistry({ auth: { kind, users } })
      const target = newImage(registry)
      const text = await daemon.fails('pull', '--creds', 'anna:wrong', target.name)
      expect(text).toContain(registry.host)
      expect(text).toMatch(/401/)
      expect(text).toMatch(/login/i)
      expect(registry.requests.length).toBeLessThanOrEqual(kind === 'basic' ? 2 : 3)
    }
  })

  test.each<[string, string]>([
    ['without a token', '{"expires_in":60}'],
    ['with an empty one', '{"token":""}'],
    ['with a number for it', '{"token":7}'],
    ['with a header in it', '{"token":"a\\r\\nx-evil: 1"}'],
    ['that is a page', '<html>Please log in</html>'],
    ['that is a list', '[]'],
    ['that is nothing', ''],
  ])('an answer of the token server %s', async (_, body) => {
    await using registry = await startFakeRegistry({ auth: { kind: 'token', users, anonymous: 'pull' } })
    const target = newImage(registry)
    registry.fail({ match: { path: paths.token }, times: 100, with: answers(200, {}, body) })
    const text = await daemon.fails('pull', target.name)
    expect(text).toMatch(/token server/)
    expect(text).toMatch(/without a token/)
    expect(registry.requests.some((request) => 'x-evil' in request.headers)).toBe(false)
    await expectNothingNamed(daemon)
  })

  test.each([0, -1, 1e20, null])('expires_in %s', async (expiresIn) => {
    await using registry = await startFakeRegistry({
      auth: { kind: 'token', users, expiresIn },
      tokenServer: {},
    })
    const target = newImage(registry)
    await daemon.ok('pull', '--creds', 'anna:secret', target.name)
    await expectPulled(daemon, registry, target)
    expect(tokens(registry)).toBeLessThanOrEqual(2)
  })

  test('a clock that is years off', async () => {
    await using registry = await startFakeRegistry({ auth: { kind: 'token', users }, tokenServer: {} })
    for (const year of [1999, 2099]) {
      const target = newImage(registry)
      const issued = `${year}-01-01T00:00:00Z`
      registry.fail({
        match: { path: paths.token },
        times: 10,
        with: {
          change: (honest) => {
            const document = JSON.parse(String(honest.body))
            const date = new Date(issued).toUTCString()
            return reply(200, { date }, Buffer.from(JSON.stringify({ ...document, issued_at: issued })))
          },
        },
      })
      registry.forget()
      await daemon.ok('pull', '--creds', 'anna:secret', target.name)
      expect(tokens(registry)).toBeLessThanOrEqual(2)
    }
  })

  test('a revoked token is replaced once', async () => {
    await using registry = await startFakeRegistry({ auth: { kind: 'token', users }, tokenServer: {} })
    await daemon.ok('pull', '--creds', 'anna:secret', newImage(registry).name)
    registry.gate?.revoke()
    registry.forget()
    const target = newImage(registry, { tag: '2' })
    await daemon.ok('pull', '--creds', 'anna:secret', target.name)
    expect(tokens(registry)).toBe(1)
    await expectPulled(daemon, registry, target)
  })

  test('an identity token gets tokens by POST', async () => {
    await using registry = await startFakeRegistry({
      auth: { kind: 'token', users: {}, identityTokens: { 'refresh-1': 'anna' } },
      tokenServer: {},
    })
    const target = newImage(registry)
    await daemon.ok('pull', '--creds', '<token>:refresh-1', target.name)
    expect(registry.tokenRequests.map(({ method, status }) => [method, status])).toEqual([['POST', 200]])
    await expectPulled(daemon, registry, target)
  })
})

describe('a manifest that is none (G12)', () => {
  const page = '<html><body>Welcome to the hotel</body></html>'
  const manifest = { method: ['GET', 'HEAD'], path: paths.manifest }
  test.each<[string, Fault, RegExp]>([
    ['a page', answers(200, { 'content-type': 'text/html' }, page), /text\/html|manifest/],
    [
      'a page that calls itself a manifest',
      answers(200, { 'content-type': mediaTypes.ociManifest }, page),
      /JSON/i,
    ],
    ['nothing', answers(200, { 'content-type': mediaTypes.ociManifest }), /empty|JSON/i],
    ['a number', answers(200, { 'content-type': mediaTypes.ociManifest }, '7'), /manifest/],
    ['another type', headers({ 'content-type': mediaTypes.ociIndex }), /says it is .* the registry says/],
    ['a type nobody knows', headers({ 'content-type': 'application/x-thing' }), /application\/x-thing/],
    ['one with a digest that lies', headers({ 'docker-content-digest': digestOf('lie') }), /digest/i],
    [
      'a hundred megabytes',
      {
        instead: () =>
          reply(200, { 'content-type': mediaTypes.ociManifest }, Buffer.alloc(100 << 20, '{"a":"')),
      },
      /4 ?MiB|4194304|larger|more than/,
    ],
  ])('%s', async (_, fault, message) => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    registry.fail({ match: manifest, times: 100, with: fault })
    const text = await daemon.fails('pull', target.name)
    expect(text).toMatch(message)
    expect(text).toContain(registry.host)
    expect(text).toContain('team/app')
    expect(text.length).toBeLessThan(2000)
    expect(registry.count(manifest)).toBeLessThanOrEqual(2)
    await expectNothingNamed(daemon)
  })

  test('without Docker-Content-Digest is good all the same', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    registry.fail({ match: manifest, times: 100, with: headers({ 'docker-content-digest': undefined }) })
    await daemon.ok('pull', target.name)
    await expectPulled(daemon, registry, target)
    await daemon.ok('pull', target.name)
  })

  test('of schema 1 is called by its name', async () => {
    await using registry = await startFakeRegistry()
    const type = 'application/vnd.docker.distribution.manifest.v1+prettyjws'
    registry.addDocument('team/app', '1', type, '{"schemaVersion":1,"name":"team/app","tag":"1"}')
    expect(await daemon.fails('pull', `${registry.host}/team/app:1`)).toMatch(/schema(?:Version)? ?1/)
  })
})

test('a tag that moves between HEAD and GET gives one image or the other, whole (G13)', async () => {
  await using registry = await startFakeRegistry()
  const old = newImage(registry)
  await daemon.ok('pull', old.name)
  let now = old
  registry.forget()
  now = newImage(registry)
  let last = now
  registry.fail({
    match: { method: 'HEAD', path: paths.manifest },
    with: {
      change: (honest) => {
        // Told about this one, the client is given the next.
        last = newImage(registry)
        return honest
      },
    },
  })
  await daemon.ok('pull', '--policy=newer', now.name)
  expect(last.image.digest).not.toBe(now.image.digest)
  const manifests = registry.requests.filter(
    ({ method, path }) => method === 'GET' && paths.manifest.test(path),
  )
  expect(manifests.length).toBe(1)
  const taken = manifests[0]?.path.endsWith(now.image.digest) === true ? now : last
  await expectPulled(daemon, registry, taken)
  const blobs = registry.requests
    .filter(({ path }) => paths.blob.test(path))
    .map(({ path }) => path.split('/').at(-1))
  const own: readonly string[] = [taken.image.config, ...taken.image.layers].map(({ digest }) => digest)
  expect(blobs.filter((digest) => !own.includes(digest ?? ''))).toEqual([])
})

describe('many pulls of one image (G16)', () => {
  test('fetch every blob once', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry, { sizes: [200_000, 2_000_000, 400_000] })
    let release = (): void => undefined
    const gate = new Promise<void>((resolve) => {
      release = resolve
    })
    registry.fail({
      match: { path: blobPath(lastLayer(target).digest) },
      with: { wait: () => gate },
    })
    await withConnection(daemon, async (connection) => {
      const pulls = Array.from({ length: 100 }, () => pullOver(connection, target.name))
      await expect.poll(() => registry.count({ path: paths.manifest }), { timeout: 20_000 }).toBe(100)
      release()
      const ids = await Promise.all(pulls.map(({ ended }) => ended))
      expect(new Set(ids).size).toBe(1)
    })
    for (const { digest } of target.image.layers) {
      expect(registry.count({ method: 'GET', path: blobPath(digest) })).toBe(1)
    }
    await expectPulled(daemon, registry, target)
    await daemon.bench.expectSound()
  })

  test('go on when the one that fetches is cancelled', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    let isWaiting = false
    registry.fail({
      match: { path: blobPath(lastLayer(target).digest) },
      with: {
        wait: () => {
          isWaiting = true
          return once(process, 'never')
        },
      },
    })
    await withConnection(daemon, async (connection) => {
      const first = pullOver(connection, target.name)
      const end = first.ended.catch((error: Error) => error)
      await expect.poll(() => isWaiting, { timeout: 10_000 }).toBe(true)
      const others = Array.from({ length: 5 }, () => pullOver(connection, target.name))
      await expect.poll(() => registry.count({ path: paths.manifest }), { timeout: 10_000 }).toBe(6)
      first.cancel()
      expect(await end).toBeInstanceOf(Error)
      const ids = await Promise.all(others.map(({ ended }) => ended))
      expect(new Set(ids).size).toBe(1)
    })
    expect(registry.count({ path: blobPath(lastLayer(target).digest) })).toBe(2)
    await expectPulled(daemon, registry, target)
    await daemon.bench.expectSound()
  })
})
