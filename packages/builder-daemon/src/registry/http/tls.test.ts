import { execFileSync, spawn } from 'node:child_process'
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import type { ServerOptions } from 'node:https'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import {
  type Authority,
  type Bench,
  failureOf,
  makeAuthority,
  openBench,
  openHttp,
  serve,
  serveTcp,
  trustFor,
} from './loopback.test-support.js'

let own: Bench
let authority: Authority
let server: ServerOptions
let bench: Bench

beforeAll(() => {
  own = openBench()
  authority = makeAuthority(join(own.directory, 'ca'))
  server = authority.issue('here', 'IP:127.0.0.1,DNS:localhost')
})
afterAll(() => own.end())
beforeEach(() => {
  bench = openBench()
})
afterEach(() => bench.end())

const strict = { tlsVerify: true } as const
const answerOk = (tls: ServerOptions) => serve(bench, (_seen, response) => response.end('ok'), tls)

test('a certificate of an authority in certs.d is trusted, one of nobody is not', async () => {
  const { host } = await answerOk(server)
  const { send } = openHttp(bench)
  expect(await failureOf(send(host, {}, strict))).toMatchObject({
    code: 'ISB_REGISTRY_UNAVAILABLE',
    message: expect.stringMatching(
      new RegExp(`^registry ${host}: .*signed by an unknown authority.*manifest 1 of`),
    ),
    hint: expect.stringMatching(/certs\.d/),
  })
  trustFor(bench, host, { 'ca.crt': authority.pem })
  const answer = await send(host, {}, strict)
  expect((await answer.bytes(10)).toString()).toBe('ok')
})

test('an authority of another host in certs.d is not trusted', async () => {
  const { host } = await answerOk(server)
  trustFor(bench, '127.0.0.1:1', { 'ca.crt': authority.pem })
  expect((await failureOf(openHttp(bench).send(host, {}, strict))).message).toMatch(/unknown authority/)
})

test('an authority of the system bundle, and of NODE_EXTRA_CA_CERTS, is trusted', async () => {
  const { host } = await answerOk(server)
  for (const name of ['SSL_CERT_FILE', 'NODE_EXTRA_CA_CERTS']) {
    const { send } = openHttp(bench, { environment: { [name]: authority.file } })
    await (await send(host, {}, strict)).discard()
  }
})

test('exact reasons are given for certificates that are no good', async () => {
  const selfSigned = (() => {
    const args =
      'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost'
    const out = ['-keyout', join(own.directory, 's.key'), '-out', join(own.directory, 's.crt')]
    execFileSync('openssl', [...args.split(' '), ...out], { stdio: 'ignore' })
    const read = (name: string) => execFileSync('cat', [join(own.directory, name)]).toString()
    return { key: read('s.key'), cert: read('s.crt') }
  })()
  const cases: readonly (readonly [ServerOptions, RegExp])[] = [
    [selfSigned, /self-signed/],
    [authority.issue('old', 'IP:127.0.0.1', '20200101000000Z'), /has expired/],
    [authority.issue('other', 'DNS:other.example'), /for another host/],
  ]
  const { send } = openHttp(bench)
  for (const [tls, reason] of cases) {
    const { host, seen } = await answerOk(tls)
    trustFor(bench, host, { 'ca.crt': authority.pem })
    const before = performance.now()
    expect(await failureOf(send(host, {}, strict))).toMatchObject({
      code: 'ISB_REGISTRY_UNAVAILABLE',
      message: expect.stringMatching(reason),
    })
    // Nothing about it passes, so nothing is repeated, and nothing is sent.
    expect(performance.now() - before).toBeLessThan(5000)
    expect(seen).toEqual([])
  }
})

test.each(['TLSv1.2', 'TLSv1.3'] as const)(
  'a client certificate is presented, and asked for by name when lacking, with %s',
  async (version) => {
    const tls: ServerOptions = {
      ...server,
      ca: authority.pem,
      requestCert: true,
      rejectUnauthorized: true,
      minVersion: version,
      maxVersion: version,
    }
    const { host, seen } = await answerOk(tls)
    trustFor(bench, host, { 'ca.crt': authority.pem })
    const { send } = openHttp(bench)
    expect(await failureOf(send(host, {}, strict))).toMatchObject({
      code: 'ISB_REGISTRY_UNAVAILABLE',
      message: expect.stringMatching(/client certificate/),
      hint: expect.stringMatching(/client\.cert/),
    })
    expect(seen).toEqual([])
    const client = authority.issue('me', 'DNS:me')
    trustFor(bench, host, { 'client.cert': client.cert, 'client.key': client.key })
    await (await send(host, {}, strict)).discard()
    expect(seen).toHaveLength(1)
  },
)

test('a client certificate that the server does not accept is named', async () => {
  const files = { 'server.crt': server.cert, 'server.key': server.key, 'ca.crt': authority.pem }
  for (const [name, text] of Object.entries(files)) writeFileSync(join(bench.directory, name), String(text))
  const { port, close } = await serveTcp(bench, () => {})
  close()
  // Node's own server closes the connection without saying why.
  const args = `s_server -accept 127.0.0.1:${port} -Verify 1 -verify_return_error -tls1_2 -quiet -www`
  const child = spawn(
    'openssl',
    [...args.split(' '), '-cert', 'server.crt', '-key', 'server.key', '-CAfile', 'ca.crt'],
    {
      cwd: bench.directory,
      stdio: ['pipe', 'ignore', 'ignore'],
    },
  )
  bench.onEnd(() => void child.kill())
  const host = `127.0.0.1:${port}`
  const stranger = makeAuthority(join(bench.directory, 'stranger')).issue('me', 'DNS:me')
  trustFor(bench, host, { 'ca.crt': authority.pem, 'client.cert': stranger.cert, 'client.key': stranger.key })
  const { send } = openHttp(bench)
  expect((await failureOf(send(host, {}, { ...strict, retryDelay: 200 }))).message).toMatch(
    /does not accept our client certificate/,
  )
})

test('a server with TLS 1.1 only is named as too old', async () => {
  const { host } = await answerOk({
    ...server,
    minVersion: 'TLSv1',
    maxVersion: 'TLSv1.1',
    ciphers: 'DEFAULT:@SECLEVEL=0',
  })
  expect((await failureOf(openHttp(bench).send(host, {}, strict))).message).toMatch(/older than 1\.2/)
})

test('half a pair, an unreadable file and no certificate are clear errors', async () => {
  const { host, seen } = await answerOk(server)
  const { send } = openHttp(bench)
  const directory = join(bench.directory, 'certs.d', host)
  const failing = (files: Readonly<Record<string, string>>) => {
    rmSync(directory, { recursive: true, force: true })
    trustFor(bench, host, files)
    return failureOf(send(host))
  }
  const config = (message: RegExp) => ({
    code: 'ISB_CONFIG_INVALID',
    message: expect.stringMatching(message),
  })
  expect(await failing({ 'client.cert': server.cert as string })).toMatchObject(
    config(/client\.cert.*without client\.key/),
  )
  expect(await failing({ 'client.key': server.key as string })).toMatchObject(
    config(/client\.key.*without client\.cert/),
  )
  expect(await failing({ 'a.cert': 'nonsense', 'a.key': 'nonsense' })).toMatchObject(
    config(/no usable certificates/),
  )
  rmSync(directory, { recursive: true })
  mkdirSync(join(directory, 'ca.crt'), { recursive: true })
  expect(await failureOf(send(host))).toMatchObject(config(/ca\.crt.*EISDIR/))
  expect(seen).toEqual([])
})

test('certs.d is read again when it changes', async () => {
  const { host } = await answerOk(server)
  const { send } = openHttp(bench)
  trustFor(bench, host, { 'ca.crt': makeAuthority(join(bench.directory, 'other')).pem })
  expect((await failureOf(send(host, {}, strict))).message).toMatch(/unknown authority/)
  trustFor(bench, host, { 'ca.crt': authority.pem })
  await (await send(host, {}, strict)).discard()
})

test.each(['../../etc', 'a/b', 'a\0b', '..', 'a b', 'user@host', 'host:123456', '', '[::1', 'x'.repeat(300)])(
  'what is no host never becomes a path: %j',
  async (host) => {
    expect(await failureOf(openHttp(bench).send(host))).toMatchObject({ code: 'ISB_REFERENCE_INVALID' })
  },
)

test('a loopback host is reached with any certificate, or without TLS, and the outcome is remembered', async () => {
  const secure = await answerOk(server)
  const { send } = openHttp(bench)
  await (await send(secure.host)).discard()
  let handshakes = 0
  const plain = await serve(bench, (_seen, response) => response.end('plain'))
  const front = await serveTcp(bench, (socket) => {
    socket.once('data', (head) => {
      if (head[0] === 22) handshakes++
      socket.end(
        head[0] === 22
          ? 'HTTP/1.0 400 Bad Request\r\n\r\n'
          : 'HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nplain',
      )
    })
  })
  for (const { host } of [plain, front]) {
    for (let count = 0; count < 3; count++) {
      expect((await (await send(host)).bytes(10)).toString()).toBe('plain')
    }
  }
  expect(handshakes).toBe(1)
  expect((await failureOf(send(plain.host, {}, strict))).message).toMatch(/does not speak TLS/)
  expect(plain.seen).toHaveLength(3)
})

test('a handshake that fails is never answered by plain HTTP', async () => {
  const { host } = await answerOk({
    ...server,
    ca: authority.pem,
    requestCert: true,
    rejectUnauthorized: true,
  })
  const first: number[] = []
  const { port } = await serveTcp(bench, (socket) =>
    socket.once('data', (head) => void first.push(head[0] ?? 0)),
  )
  expect((await failureOf(openHttp(bench).send(host, {}, { insecure: true }))).message).toMatch(
    /client certificate/,
  )
  // A registry that is not insecure gets a TLS greeting and nothing else, whatever it does.
  const failure = await failureOf(
    openHttp(bench, { limits: { connect: 100 } }).send(`127.0.0.1:${port}`, {}, { ...strict, retries: 1 }),
  )
  expect(failure.message).toMatch(/no connection within 0\.1 s.*2 attempts/)
  expect(first).toEqual([22, 22])
})

test('files that are not for TLS are left alone', async () => {
  const { host } = await answerOk(server)
  trustFor(bench, host, { README: 'nothing', 'ca.crt': authority.pem, 'hosts.toml': '' })
  chmodSync(join(bench.directory, 'certs.d', host, 'README'), 0)
  writeFileSync(join(bench.directory, 'certs.d', 'file-instead'), '')
  await (await openHttp(bench).send(host, {}, strict)).discard()
  expect(await failureOf(openHttp(bench).send('file-instead', {}, { ...strict, retries: 0 }))).toMatchObject({
    code: 'ISB_REGISTRY_UNAVAILABLE',
  })
})
