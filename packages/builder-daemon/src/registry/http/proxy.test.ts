import { expect, test } from 'vitest'
import { useLoopback } from '../../../../../test/support/loopback-bench.js'
import { failureOf, openHttp, serve, serveProxy, trustFor, until } from './loopback.test-support.js'
import { proxyRules } from './proxy.js'

const loopback = useLoopback()

const uses = (environment: Readonly<Record<string, string>>, url: string) =>
  proxyRules(environment)(new URL(url))?.url.href

test('the proxy is that of the scheme, lower case first, with http assumed', () => {
  const environment = { https_proxy: 'secure:1', HTTPS_PROXY: 'other:1', HTTP_PROXY: 'http://plain:2' }
  expect(uses(environment, 'https://r.example/')).toBe('http://secure:1/')
  expect(uses(environment, 'http://r.example/')).toBe('http://plain:2/')
  expect(uses({}, 'https://r.example/')).toBeUndefined()
  expect(uses({ https_proxy: '', HTTPS_PROXY: 'other:1' }, 'https://r.example/')).toBe('http://other:1/')
})

test.each([
  ['https://localhost:5000/', ''],
  ['https://a.localhost/', ''],
  ['https://127.0.0.1/', ''],
  ['https://127.9.9.9/', ''],
  ['https://[::1]/', ''],
  ['https://r.example/', '*'],
  ['https://r.example/', 'r.example'],
  ['https://r.example/', 'R.EXAMPLE'],
  ['https://a.r.example/', 'other, r.example'],
  ['https://a.r.example/', '.r.example'],
  ['https://a.r.example/', '*.r.example'],
  ['https://r.example:444/', 'r.example:444'],
  ['https://r.example/', 'r.example:443'],
  ['https://10.1.2.3/', '10.0.0.0/8'],
  ['https://10.1.2.3/', '10.1.2.3'],
  ['https://[fd00::1]/', 'fd00::/8'],
  ['https://[fd00::1]/', 'fd00::1'],
  ['https://[fd00::1]:5000/', '[fd00::1]:5000'],
])('%s goes directly with no_proxy=%j', (url, no_proxy) => {
  expect(uses({ https_proxy: 'p:1', no_proxy }, url)).toBeUndefined()
})

test.each([
  ['https://r.example/', ''],
  ['https://r.example/', '.r.example'],
  ['https://r.example/', '*.r.example'],
  ['https://br.example/', 'r.example'],
  ['https://r.example/', 'r.example:444'],
  ['https://r.example.org/', 'r.example'],
  ['https://11.1.2.3/', '10.0.0.0/8'],
  ['https://10.1.2.3/', '10.0.0.0/99'],
  ['https://[fd00::1]:5001/', '[fd00::1]:5000'],
  ['https://r.example/', ':,/,.,[,]:8,%'],
])('%s goes through the proxy with no_proxy=%j', (url, no_proxy) => {
  expect(uses({ https_proxy: 'p:1', no_proxy }, url)).toBe('http://p:1/')
})

test('a proxy that cannot be used is an error without its password', () => {
  for (const value of ['socks5://user:geheim@p:1', 'http://user:geheim@[bad']) {
    const attempt = () => uses({ https_proxy: value }, 'https://r.example/')
    expect(attempt).toThrow(expect.objectContaining({ code: 'ISB_CONFIG_INVALID' }))
    expect(attempt).toThrow(expect.objectContaining({ message: expect.not.stringContaining('geheim') }))
  }
})

const issued = () => loopback.authority.issue('registry', 'DNS:registry.example')

test('https goes through a tunnel, its certificate is checked for the registry', async () => {
  const { port, seen } = await serve(loopback.bench, (_seen, response) => response.end('inside'), issued())
  const proxy = await serveProxy(loopback.bench, () => port)
  trustFor(loopback.bench, 'registry.example', { 'ca.crt': loopback.authority.pem })
  const { send } = openHttp(loopback.bench, { environment: { https_proxy: proxy.host } })
  for (let count = 0; count < 3; count++) {
    expect((await (await send('registry.example')).bytes(10)).toString()).toBe('inside')
  }
  expect(proxy.targets).toEqual(['CONNECT registry.example:443'])
  expect(seen.map(({ headers }) => headers.host)).toEqual(Array(3).fill('registry.example'))
  expect((await failureOf(send('other.example', {}, { retries: 0 }))).message).toMatch(/unknown authority/)
})

test('a proxy gets its own credentials, the registry never sees them', async () => {
  const authorization = `Basic ${Buffer.from('user:p@ss').toString('base64')}`
  const { port, seen } = await serve(loopback.bench, (_seen, response) => response.end('inside'), issued())
  const proxy = await serveProxy(loopback.bench, () => port, { authorization })
  trustFor(loopback.bench, 'registry.example', { 'ca.crt': loopback.authority.pem })
  const { send } = openHttp(loopback.bench, {
    environment: { https_proxy: `http://user:p%40ss@${proxy.host}` },
  })
  await (await send('registry.example')).discard()
  expect(seen[0]?.headers).not.toHaveProperty('proxy-authorization')
  for (const [url, reason] of [
    [proxy.host, /requires a user name.*407/],
    [`user:wrong@${proxy.host}`, /does not accept the user name.*407/],
  ] as const) {
    const other = openHttp(loopback.bench, { environment: { https_proxy: `http://${url}` } })
    const before = proxy.targets.length
    const failure = await failureOf(other.send('registry.example'))
    expect(failure).toMatchObject({
      code: 'ISB_REGISTRY_UNAVAILABLE',
      message: expect.stringMatching(reason),
    })
    expect(JSON.stringify([failure.message, failure.hint, other.logged])).not.toMatch(/wrong|Basic/)
    expect(proxy.targets.length).toBe(before + 1)
  }
})

test('plain HTTP of an insecure registry is forwarded with an absolute URL', async () => {
  const plain = await serve(loopback.bench, () => {})
  const authorization = `Basic ${Buffer.from('u:p').toString('base64')}`
  const proxy = await serveProxy(loopback.bench, () => plain.port, { authorization })
  const environment = { https_proxy: `http://u:p@${proxy.host}`, http_proxy: `http://u:p@${proxy.host}` }
  const { send } = openHttp(loopback.bench, { environment })
  const answer = await send('registry.example', {}, { insecure: true })
  expect((await answer.bytes(20)).toString()).toBe('by proxy')
  expect(proxy.targets).toEqual(['CONNECT registry.example:443', 'http://registry.example/v2/'])
  expect(proxy.seen[0]?.headers.host).toBe('registry.example')
  const other = openHttp(loopback.bench, {
    environment: { https_proxy: `http://u:p@${proxy.host}`, http_proxy: proxy.host },
  })
  expect((await failureOf(other.send('registry.example', {}, { insecure: true }))).message).toMatch(
    /requires a user name/,
  )
})

test('a proxy reached by https has its certificate checked', async () => {
  const { port } = await serve(loopback.bench, (_seen, response) => response.end('inside'), issued())
  const inner = await serveProxy(loopback.bench, () => port)
  const { createServer } = await import('node:tls')
  const { connect } = await import('node:net')
  const outer = createServer({ ...loopback.authority.issue('proxy', 'IP:127.0.0.1') }, (socket) => {
    const to = connect(inner.port, '127.0.0.1')
    socket.on('error', () => to.destroy())
    to.on('error', () => socket.destroy())
    socket.pipe(to).pipe(socket)
  })
  await new Promise<void>((resolve) => outer.listen(0, '127.0.0.1', resolve))
  loopback.bench.onEnd(() => outer.close())
  const host = `127.0.0.1:${(outer.address() as { port: number }).port}`
  trustFor(loopback.bench, 'registry.example', { 'ca.crt': loopback.authority.pem })
  const { send } = openHttp(loopback.bench, { environment: { https_proxy: `https://${host}` } })
  expect((await failureOf(send('registry.example'))).message).toMatch(/proxy 127.*unknown authority/)
  trustFor(loopback.bench, host, { 'ca.crt': loopback.authority.pem })
  expect((await (await send('registry.example')).bytes(10)).toString()).toBe('inside')
})

test('a proxy that is not there is named, and one that hangs leaves no socket', async () => {
  const gone = await serve(loopback.bench, () => {})
  gone.close()
  const { send } = openHttp(loopback.bench, { environment: { https_proxy: gone.host } })
  expect(await failureOf(send('registry.example', {}, { retries: 0 }))).toMatchObject({
    message: expect.stringMatching(/cannot reach the proxy 127.*refused/),
    hint: expect.stringMatching(/https_proxy/),
  })
  const hanging = await serve(loopback.bench, () => {})
  const silent = openHttp(loopback.bench, {
    environment: { https_proxy: hanging.host },
    limits: { connect: 100 },
  })
  hanging.sockets.clear()
  expect((await failureOf(silent.send('registry.example', {}, { retries: 0 }))).message).toMatch(
    /proxy|no connection within/,
  )
  await until(() => hanging.sockets.size === 0)
})
