import { beforeEach, describe, expect, test } from 'vitest'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { mediaTypes } from '../../packages/shared/src/oci/media-types.js'
import { useAttackBench } from '../support/attack-bench.js'
import { type Fault, redirects, relocates } from '../support/fake-registry/faults.js'
import { isMatch, type Match, paths } from '../support/fake-registry/record.js'
import { type FakeRegistry, type FakeRegistryOptions, startFakeRegistry } from '../support/fake-registry.js'
import { blobPath, expectNothingNamed, lastLayer, newImage } from '../support/registry-content.js'

// reliability.md 1.4, S50 to S54 and S57: registries that want what is not theirs, or give what was not asked for.

const world = useAttackBench()

describe('S50: a token server that is not to be trusted gets nothing', () => {
  const creds = () => ['--creds', `anna:${world.secret}`]
  let thief: FakeRegistry
  beforeEach(async () => {
    thief = await startFakeRegistry()
    return () => thief[Symbol.asyncDispose]()
  })

  test.each<[string, () => string]>([
    ['plain HTTP on another host', () => 'http://elsewhere.test/token'],
    ['plain HTTP on its own host', () => 'http://registry.test/token'],
    ['this machine', () => `http://${thief.host}/token`],
    ['this machine by https', () => `https://${thief.host}/token`],
    ['this machine by name', () => `https://localhost:${thief.port}/token`],
    ['this machine by IPv6', () => `https://[::1]:${thief.port}/token`],
    ['this machine in disguise', () => `https://[::ffff:127.0.0.1]:${thief.port}/token`],
    ['this machine as a number', () => `https://2130706433:${thief.port}/token`],
    ['any address', () => `https://0.0.0.0:${thief.port}/token`],
    ['the address of a cloud', () => 'https://169.254.169.254/latest/meta-data'],
    ['a private network', () => 'https://10.0.0.1/token'],
    ['a URL with a user', () => 'https://admin:admin@auth.test/token'],
    ['a file', () => 'file:///etc/shadow'],
    ['nonsense', () => 'token please'],
  ])('%s', async (_, realm) => {
    const auth = { kind: 'token', users: { anna: world.secret }, realm: realm() } as const
    await using registry = await world.bench.publicRegistry({ auth })
    newImage(registry)
    const name = await world.daemon.load('registry.test/team/app:2', [1000])
    const texts = [
      await world.daemon.fails('pull', ...creds(), 'registry.test/team/app:1'),
      await world.daemon.fails('push', ...creds(), name),
      (await world.daemon.login('registry.test', 'anna', world.secret)).stderr,
    ]
    expect(texts[0]).toMatch(/token server/)
    expect(thief.requests).toEqual([])
    expect(thief.connections()).toBe(0)
    expect(world.bench.credentialsIn(registry)).toEqual([])
    expect(new Set(world.proxy.targets)).toEqual(new Set(['registry.test:443']))
    world.bench.expectSecretKept(...texts)
  })

  test('its own host and another public one do', async () => {
    await using registry = await startFakeRegistry({
      tls: world.bench.certificate('registry.test'),
      tokenServer: { tls: world.bench.certificate('auth.test') },
      auth: { kind: 'token', users: { anna: world.secret }, realm: 'https://auth.test/token' },
    })
    world.proxy.routes.set('registry.test:443', registry.port)
    world.proxy.routes.set('auth.test:443', registry.tokenPort)
    newImage(registry)
    const text = await world.daemon.ok('pull', ...creds(), 'registry.test/team/app:1')
    expect(registry.tokenRequests.map(({ user, status }) => [user, status])).toEqual([['anna', 200]])
    // The registry itself sees the token, never the password.
    for (const { headers } of registry.requests) expect(headers.authorization ?? 'Bearer').toMatch(/^Bearer/)
    world.bench.expectSecretKept(text)
  })
})

describe('S51: no credentials cross an origin', () => {
  const auth = () => ({ kind: 'basic', users: { anna: world.secret } }) as const
  const run = (command: string, name: string) =>
    world.daemon.run(command, '--creds', `anna:${world.secret}`, name)

  const places: readonly (readonly [string, string, Match, (thief: FakeRegistry) => Fault])[] = [
    ['GET of a manifest', 'pull', { path: paths.manifest }, ({ origin }) => redirects(`${origin}/steal`)],
    ['GET of a blob', 'pull', { path: paths.blob }, ({ origin }) => redirects(`${origin}/steal`, 302)],
    ['HEAD of a blob', 'push', { method: 'HEAD' }, ({ origin }) => redirects(`${origin}/steal`)],
    ['POST of an upload', 'push', { method: 'POST' }, ({ origin }) => redirects(`${origin}/steal`)],
    [
      'PUT of a blob',
      'push',
      { method: 'PUT', path: paths.upload },
      ({ origin }) => redirects(`${origin}/steal`),
    ],
    [
      'PUT of a manifest',
      'push',
      { method: 'PUT', path: paths.manifest },
      ({ origin }) => redirects(`${origin}/steal`),
    ],
    [
      'the Location of an upload',
      'push',
      { method: 'POST' },
      ({ origin }) => relocates((path) => origin + path),
    ],
  ]

  test.each(places)('%s', async (_, command, match, fault) => {
    await using thief = await startFakeRegistry()
    await using registry = await startFakeRegistry({ auth: auth() })
    const target = newImage(registry)
    const name =
      command === 'pull' ? target.name : await world.daemon.load(`${registry.host}/team/new:1`, [5000])
    const rule = registry.fail({
      match: (request) => request.headers.authorization !== undefined && isMatch(match, request),
      times: 1000,
      with: fault(thief),
    })
    const { status, stdout, stderr } = await run(command, name)
    // A blob that a stranger does not have is sent to where it belongs.
    expect(status).toBe(_ === 'HEAD of a blob' ? 0 : 1)
    expect(world.bench.credentialsIn(thief)).toEqual([])
    expect(rule.used()).toBeGreaterThan(0)
    world.bench.expectSecretKept(stdout, stderr)
  })

  test('where a stranger keeps the blobs, they come without', async () => {
    await using registry = await startFakeRegistry({ auth: auth() })
    await using storage = await startFakeRegistry()
    const target = newImage(registry)
    const blob = lastLayer(target)
    const bytes = registry.storage.read('team/app', blob.digest)
    storage.addBlob('team/app', bytes, blob.mediaType)
    registry.fail({
      match: (request) =>
        blobPath(blob.digest).test(request.path) && request.headers.authorization !== undefined,
      times: 10,
      with: redirects(({ path }) => storage.origin + path),
    })
    await world.daemon.ok('pull', '--creds', `anna:${world.secret}`, target.name)
    expect(storage.requests.map(({ method, status }) => [method, status])).toEqual([['GET', 200]])
    expect(world.bench.credentialsIn(storage)).toEqual([])
  })

  test('a stranger who asks for a password is not given one', async () => {
    await using registry = await startFakeRegistry({ auth: auth() })
    await using thief = await startFakeRegistry({ auth: { kind: 'basic', users: {} } })
    const target = newImage(registry)
    registry.fail({
      match: (request) => paths.blob.test(request.path) && request.headers.authorization !== undefined,
      times: 10,
      with: redirects(({ path }) => thief.origin + path),
    })
    await world.daemon.fails('pull', '--creds', `anna:${world.secret}`, target.name)
    expect(thief.requests.length).toBeGreaterThan(0)
    expect(world.bench.credentialsIn(thief)).toEqual([])
  })

  test('a public registry cannot send the daemon to this machine', async () => {
    await using thief = await startFakeRegistry()
    await using registry = await world.bench.publicRegistry({}, 'elsewhere.test')
    newImage(registry)
    for (const host of [thief.host, `localhost:${thief.port}`]) {
      registry.behave()
      registry.fail({ match: { path: paths.blob }, times: 10, with: redirects(`https://${host}/steal`) })
      const text = await world.daemon.fails('pull', 'elsewhere.test/team/app:1')
      expect(text).toContain('elsewhere.test')
      registry.behave()
      registry.fail({ match: { path: paths.blob }, times: 10, with: redirects(`http://${host}/steal`) })
      expect(await world.daemon.fails('pull', 'elsewhere.test/team/app:1')).toMatch(/http/i)
    }
    expect(thief.requests).toEqual([])
  })

  test('urls of foreign layers are not fetched', async () => {
    await using thief = await startFakeRegistry()
    await using registry = await startFakeRegistry({ auth: auth() })
    const { image } = newImage(registry)
    const layers = image.layers.map((layer) => ({
      ...layer,
      mediaType: mediaTypes.dockerForeignLayerGzip,
      urls: [`${thief.origin}/layer`],
    }))
    const document = { schemaVersion: 2, mediaType: image.mediaType, config: image.config, layers }
    for (const { digest } of image.layers) registry.storage.repository('team/app').blobs.delete(digest)
    registry.addDocument('team/app', '1', image.mediaType, JSON.stringify(document))
    const { status } = await run('pull', `${registry.host}/team/app:1`)
    expect(status).toBe(1)
    expect(thief.requests).toEqual([])
    await expectNothingNamed(world.daemon)
  })
})

describe('S53: certificates of token servers are checked by themselves', () => {
  async function withTokenServer(host: string, tls: FakeRegistryOptions['tls']): Promise<FakeRegistry> {
    const registry = await startFakeRegistry({
      tls:
        host === 'lax.test'
          ? world.bench.stranger.issue('lax', 'DNS:lax.test')
          : world.bench.certificate(host),
      ...(tls !== undefined && { tokenServer: { tls } }),
      auth: { kind: 'token', users: { anna: world.secret }, realm: 'https://auth.test/token' },
    })
    world.proxy.routes.set(`${host}:443`, registry.port)
    world.proxy.routes.set('auth.test:443', registry.tokenPort)
    newImage(registry)
    return registry
  }

  test.each(['registry.test', 'lax.test'])('for %s', async (host) => {
    await using registry = await withTokenServer(host, world.bench.stranger.issue('auth', 'DNS:auth.test'))
    const text = await world.daemon.fails('pull', '--creds', `anna:${world.secret}`, `${host}/team/app:1`)
    expect(text).toMatch(/auth\.test/)
    expect(text).toMatch(/certificate|authority|issuer/)
    expect(registry.tokenRequests).toEqual([])
    world.bench.expectSecretKept(text)
  })

  test('and the insecure registry itself is not', async () => {
    await using registry = await withTokenServer('lax.test', world.bench.certificate('auth.test'))
    await world.daemon.ok('pull', '--creds', `anna:${world.secret}`, 'lax.test/team/app:1')
    expect(registry.tokenRequests.map(({ user }) => user)).toEqual(['anna'])
  })
})

describe('S54: answers without end', () => {
  test.each([401, 403, 404, 500])('an error %d that never stops talking ends', async (status) => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    registry.fail({
      match: { path: paths.manifest },
      times: 100,
      with: {
        raw(socket) {
          socket.write(`HTTP/1.1 ${status} No\r\ntransfer-encoding: chunked\r\n\r\n`)
          const chunk = `10000\r\n${'\u001b[31mA'.repeat(8192).slice(0, 65536)}\r\n`
          const more = (): void => {
            while (socket.writable && socket.write(chunk));
          }
          socket.on('drain', more)
          more()
        },
      },
    })
    const text = await world.daemon.fails('pull', '--retry=0', target.name)
    expect(text.length).toBeLessThan(2000)
    expect(text).not.toContain('\u001b')
    await expect.poll(() => registry.connections(), { timeout: 15_000 }).toBeLessThanOrEqual(1)
  })
})

describe('S57: content that is not what was asked for', () => {
  test('by digest', async () => {
    await using registry = await startFakeRegistry()
    const { image } = newImage(registry)
    const other = newImage(registry, { tag: '2' }).image
    registry.fail({
      match: { method: 'GET', path: paths.manifest },
      times: 100,
      with: {
        change: (honest) => ({ ...honest, body: other.bytes, headers: { 'content-type': other.mediaType } }),
      },
    })
    const text = await world.daemon.fails('pull', `${registry.host}/team/app@${image.digest}`)
    expect(text).toMatch(/digest/)
    expect(text).toContain(registry.host)
    await expectNothingNamed(world.daemon)
  })

  test('by tag and digest', async () => {
    await using registry = await startFakeRegistry()
    newImage(registry)
    const wrong = digestOf('something else')
    await world.daemon.fails('pull', `${registry.host}/team/app:1@${wrong}`)
    await expectNothingNamed(world.daemon)
  })

  test('a layer in the place of another', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry, { sizes: [300_000, 300_000] })
    const { blobs } = registry.storage.repository('team/app')
    const [one, two] = target.image.layers
    const bytes = blobs.get(two?.digest ?? '')
    if (bytes !== undefined) blobs.set(one?.digest ?? '', bytes)
    await world.daemon.fails('pull', target.name)
    await expectNothingNamed(world.daemon)
  })
})
