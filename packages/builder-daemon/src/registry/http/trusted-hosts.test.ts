import { expect, test } from 'vitest'
import { useLoopback } from '../../../../../test/support/loopback-bench.js'
import { failureOf, openHttp, serve, serveProxy, trustFor } from './loopback.test-support.js'
import { trustedHosts } from './trusted-hosts.js'

const loopback = useLoopback()

const entries = ['10.0.0.0/8', 'minio.internal', '*.corp', 'fd00::1', '192.0.2.7']

test.each([
  ['http://10.1.2.3:9000/x', true],
  ['http://11.1.2.3/x', false],
  ['https://minio.internal:9000/', true],
  ['https://MINIO.internal./', true],
  ['https://x.minio.internal/', false],
  ['https://a.corp/', true],
  ['https://a.b.corp/', true],
  ['https://corp/', false],
  ['https://evilcorp/', false],
  ['http://[fd00::1]/', true],
  ['http://[fd00::2]/', false],
  ['http://192.0.2.7/', true],
])('%s is trusted: %s', (url, expected) => {
  expect(trustedHosts(entries).names(new URL(url))).toBe(expected)
})

test('an address is trusted by its network, also written as IPv6', () => {
  const { holds } = trustedHosts(entries)
  expect(['10.9.9.9', '::ffff:10.9.9.9', '192.0.2.7'].every(holds)).toBe(true)
  expect(['11.0.0.1', '::1', 'minio.internal', ''].some(holds)).toBe(false)
})

/** A registry that counts as public, at the end of a tunnel, and sends everybody to `location`. */
async function servePublic(location: () => string) {
  const registry = await serve(
    loopback.bench,
    (_seen, response) => response.writeHead(307, { location: location() }).end(),
    loopback.authority.issue('registry', 'DNS:registry.example'),
  )
  const proxy = await serveProxy(loopback.bench, () => registry.port)
  trustFor(loopback.bench, 'registry.example', { 'ca.crt': loopback.authority.pem })
  return { https_proxy: proxy.host }
}

test('what a public registry may name nearby, and by plain HTTP, is up to the administrator', async () => {
  const storage = await serve(loopback.bench, (_seen, response) => response.end('content'))
  const environment = await servePublic(() => `http://${storage.host}/blob`)
  const target = '/v2/x/blobs/sha256:1'
  const refused = await failureOf(
    openHttp(loopback.bench, { environment }).send('registry.example', { target }, { retries: 0 }),
  )
  expect(refused).toMatchObject({
    code: 'ISB_REGISTRY_UNAVAILABLE',
    hint: expect.stringMatching(/add "127\.0\.0\.1" to `trusted_hosts`/),
  })
  expect(refused.message).toContain(storage.host)
  expect(storage.seen).toEqual([])
  for (const entry of ['127.0.0.0/8', '127.0.0.1']) {
    const { send } = openHttp(loopback.bench, { environment, trustedHosts: [entry] })
    expect((await (await send('registry.example', { target }, { user })).bytes(100)).toString()).toBe(
      'content',
    )
  }
  expect(storage.seen.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined])
})

const user = { username: 'me', password: 'geheim' }

test('an address nearby is refused with the setting that would allow it', async () => {
  const storage = await serve(
    loopback.bench,
    (_seen, response) => response.end('content'),
    loopback.authority.issue('storage', 'DNS:localhost,IP:127.0.0.1'),
  )
  trustFor(loopback.bench, `localhost:${storage.port}`, { 'ca.crt': loopback.authority.pem })
  const environment = await servePublic(() => `https://localhost:${storage.port}/blob`)
  const failure = await failureOf(
    openHttp(loopback.bench, { environment }).send('registry.example', {}, { retries: 0 }),
  )
  expect(failure).toMatchObject({
    message: expect.stringMatching(/public registry sends us to localhost:\d+, which is a loopback address/),
    hint: expect.stringMatching(/add "localhost" to `trusted_hosts`/),
  })
  for (const trusted of ['localhost', '127.0.0.0/8']) {
    const trustedHosts = trusted === 'localhost' ? [trusted] : [trusted, '::1']
    const { send } = openHttp(loopback.bench, { environment, trustedHosts })
    expect((await (await send('registry.example')).bytes(100)).toString()).toBe('content')
  }
})

test('a token server of the administrator gets the login by plain HTTP too', async () => {
  const tokens = await serve(loopback.bench, (_seen, response) => response.end('{"token":"t"}'))
  const registry = await serve(
    loopback.bench,
    ({ headers }, response) =>
      headers.authorization === 'Bearer t'
        ? response.end('welcome')
        : response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${tokens.host}/token"` }).end(),
    loopback.authority.issue('registry', 'DNS:registry.example'),
  )
  const proxy = await serveProxy(loopback.bench, () => registry.port)
  trustFor(loopback.bench, 'registry.example', { 'ca.crt': loopback.authority.pem })
  const environment = { https_proxy: proxy.host }
  const refused = await failureOf(
    openHttp(loopback.bench, { environment }).send('registry.example', {}, { user }),
  )
  expect(refused).toMatchObject({
    code: 'ISB_REGISTRY_DENIED',
    hint: expect.stringMatching(/^No credentials were sent\..*add "127\.0\.0\.1" to `trusted_hosts`/),
  })
  const { send } = openHttp(loopback.bench, { environment, trustedHosts: ['127.0.0.1'] })
  expect((await (await send('registry.example', {}, { user })).bytes(10)).toString()).toBe('welcome')
  expect(tokens.seen).toHaveLength(1)
})

test('an upload goes on at a trusted host by plain HTTP, without credentials', async () => {
  const storage = await serve(loopback.bench, (_seen, response) => response.writeHead(201).end())
  const environment = await servePublic(() => '')
  const target = new URL(`http://${storage.host}/upload`)
  const exchange = { method: 'PUT', target, repeat: 'once', expect: [201] } as const
  const refused = await failureOf(
    openHttp(loopback.bench, { environment }).send('registry.example', exchange),
  )
  expect(refused.message).toContain(storage.host)
  const { send } = openHttp(loopback.bench, { environment, trustedHosts: ['127.0.0.1'] })
  await (await send('registry.example', exchange, { user })).discard()
  expect(storage.seen.map(({ headers }) => headers.authorization)).toEqual([undefined])
})
