import { expect, test } from 'vitest'
import { useLoopback } from '../../../../../test/support/loopback-bench.js'
import {
  bodyOf,
  failureOf,
  openHttp,
  type Seen,
  serve,
  serveProxy,
  type TestServer,
  trustFor,
} from '../http/loopback.test-support.js'

const loopback = useLoopback()

const user = { username: 'me', password: 'geheim:1' }
const basic = `Basic ${Buffer.from('me:geheim:1').toString('base64')}`

interface TokenServer extends TestServer {
  readonly realm: string
  /** Tokens that were given away, the newest last. */
  readonly given: string[]
}

/** Gives `token-1`, `token-2`, …; `answer` adds to the document. */
async function serveTokens(answer: (seen: Seen) => object | undefined = () => ({})): Promise<TokenServer> {
  const given: string[] = []
  const server = await serve(loopback.bench, (seen, response) => {
    const more = answer(seen)
    if (more === undefined) {
      response.writeHead(401).end('{"details":"incorrect username or password"}')
      return
    }
    given.push(`token-${given.length + 1}`)
    response.end(JSON.stringify({ token: given.at(-1), expires_in: 300, ...more }))
  })
  return { ...server, given, realm: `http://${server.host}/token` }
}

/** A registry that accepts what `accepts` says, and challenges everybody else. */
const serveRegistry = (
  challenge: (seen: Seen) => string,
  accepts: (authorization: string, seen: Seen) => boolean,
) =>
  serve(loopback.bench, (seen, response) => {
    if (accepts(seen.headers.authorization ?? '', seen)) response.end('welcome')
    else
      response
        .writeHead(401, { 'www-authenticate': challenge(seen) })
        .end('{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}')
  })

const query = (seen: Seen | undefined) => {
  const parameters = new URL(seen?.url ?? '', 'http://x').searchParams
  return {
    service: parameters.get('service'),
    scope: parameters.getAll('scope'),
    account: parameters.get('account'),
  }
}

test('Basic credentials are sent when asked for, and from the start after that', async () => {
  const { host, seen } = await serveRegistry(
    () => 'Basic realm="r"',
    (given) => given === basic,
  )
  const { send } = openHttp(loopback.bench)
  for (let count = 0; count < 3; count++) await (await send(host, {}, { user })).discard()
  expect(seen.map(({ headers }) => headers.authorization)).toEqual([undefined, basic, basic, basic])
})

test('without a login, or with a wrong one, the error says which and what to do', async () => {
  const { host, seen } = await serveRegistry(
    () => 'Basic realm="r"',
    () => false,
  )
  const { send, logged } = openHttp(loopback.bench)
  expect(await failureOf(send(host))).toMatchObject({
    code: 'ISB_REGISTRY_DENIED',
    message: `registry ${host}: answered 401 unauthorized: UNAUTHORIZED "no" (manifest 1 of ${host}/x)`,
    hint: expect.stringContaining(`isula-build login ${host}`),
  })
  const failure = await failureOf(send(host, {}, { user }))
  expect(failure).toMatchObject({
    code: 'ISB_REGISTRY_DENIED',
    hint: expect.stringMatching(/login is not accepted/),
  })
  expect(JSON.stringify([failure.message, failure.hint, logged])).not.toMatch(/geheim|Basic/)
  expect(seen.map(({ headers }) => headers.authorization)).toEqual([undefined, basic])
})

test('a token is asked for with service, repeated scopes and account, and kept', async () => {
  const tokens = await serveTokens()
  const { host, seen } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}?kept=1",service="the service",scope="repository:x:pull"`,
    (given) => given === `Bearer ${tokens.given.at(-1)}`,
  )
  const { send } = openHttp(loopback.bench)
  const scope = { repository: 'x', actions: 'pull,push', mountFrom: 'other/repo' } as const
  for (let count = 0; count < 3; count++) await (await send(host, { scope }, { user })).discard()
  expect(tokens.seen).toHaveLength(1)
  expect(query(tokens.seen[0])).toEqual({
    service: 'the service',
    scope: ['repository:other/repo:pull', 'repository:x:pull,push'],
    account: 'me',
  })
  expect(tokens.seen[0]?.url).toContain('kept=1')
  expect(tokens.seen[0]?.headers.authorization).toBe(basic)
  expect(seen.map(({ headers }) => headers.authorization)).toEqual([
    undefined,
    ...Array(3).fill('Bearer token-1'),
  ])
  // Another scope is known to need a token, before it is asked for.
  await (await send(host, { scope: { repository: 'y', actions: 'pull' } }, { user })).discard()
  expect(query(tokens.seen[1]).scope).toEqual(['repository:y:pull'])
  expect(seen).toHaveLength(5)
})

test('anonymous tokens are asked for without credentials', async () => {
  const tokens = await serveTokens()
  const { host } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}"`,
    (given) => given === 'Bearer token-1',
  )
  await (await openHttp(loopback.bench).send(host)).discard()
  expect(tokens.seen[0]?.headers).not.toHaveProperty('authorization')
  expect(query(tokens.seen[0])).toEqual({ service: null, scope: ['repository:x:pull'], account: null })
})

test('a question without a scope asks for a token without one', async () => {
  const tokens = await serveTokens()
  const { host } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}"`,
    (given) => given !== '',
  )
  await (await openHttp(loopback.bench).send(host, { scope: undefined }, { user })).discard()
  expect(query(tokens.seen[0]).scope).toEqual([])
})

test('an identity token is exchanged by OAuth2, and never becomes Basic', async () => {
  const tokens = await serveTokens(() => ({ token: undefined, access_token: 'access' }))
  const { host } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}",service="s"`,
    (given) => given === 'Bearer access',
  )
  await (
    await openHttp(loopback.bench).send(host, {}, { user: { username: '<token>', password: 'identity' } })
  ).discard()
  const [asked] = tokens.seen
  expect(asked?.method).toBe('POST')
  expect(asked?.headers['content-type']).toBe('application/x-www-form-urlencoded')
  expect(asked?.headers).not.toHaveProperty('authorization')
  expect(Object.fromEntries(new URLSearchParams(asked?.body))).toEqual({
    grant_type: 'refresh_token',
    client_id: 'isula-build',
    service: 's',
    scope: 'repository:x:pull',
    refresh_token: 'identity',
  })
})

test('tokens and challenges of one user, or one password, are not used for another', async () => {
  const tokens = await serveTokens()
  const { host, seen } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}"`,
    (given) => given.startsWith('Bearer'),
  )
  const { send } = openHttp(loopback.bench)
  await (await send(host, {}, { user })).discard()
  await (await send(host, {}, { user, uid: 2 })).discard()
  await (await send(host, {}, { user: { ...user, password: 'other' } })).discard()
  await (await send(host)).discard()
  expect(tokens.given).toHaveLength(4)
  expect(seen.filter(({ headers }) => headers.authorization === undefined)).toHaveLength(2)
  // What `login` checks is the password of this moment, whatever was accepted before.
  expect(new Set(tokens.seen.map(({ headers }) => headers.authorization)).size).toBe(3)
})

test('an expired token is replaced once in the middle of a transfer, and the body sent again', async () => {
  const tokens = await serveTokens()
  let valid = 'Bearer token-1'
  const { host, seen } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}"`,
    (given) => given === valid,
  )
  const { send } = openHttp(loopback.bench)
  await (await send(host, {}, { user })).discard()
  valid = 'Bearer token-2'
  await (await send(host, { method: 'PATCH', repeat: 'once', body: bodyOf('data') }, { user })).discard()
  expect(seen.slice(2).map(({ headers, body }) => [headers.authorization, body])).toEqual([
    ['Bearer token-1', 'data'],
    ['Bearer token-2', 'data'],
  ])
  expect(tokens.seen).toHaveLength(2)
})

test('many requests that find the token expired fetch one new one', async () => {
  const tokens = await serveTokens()
  let valid = 'Bearer token-1'
  const { host } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}"`,
    (given) => given === valid,
  )
  const { send } = openHttp(loopback.bench)
  await (await send(host, {}, { user })).discard()
  valid = 'Bearer token-2'
  await Promise.all(Array.from({ length: 20 }, async () => (await send(host, {}, { user })).discard()))
  expect(tokens.given).toEqual(['token-1', 'token-2'])
})

test('a 401 that does not end is given up after one refresh', async () => {
  const tokens = await serveTokens()
  const { host, seen } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}"`,
    () => false,
  )
  const { send } = openHttp(loopback.bench)
  expect(await failureOf(send(host, {}, { user }))).toMatchObject({ code: 'ISB_REGISTRY_DENIED' })
  expect([seen.length, tokens.seen.length]).toEqual([2, 1])
  expect(await failureOf(send(host, {}, { user }))).toMatchObject({
    code: 'ISB_REGISTRY_DENIED',
    // The login itself was accepted, by the token server.
    hint: 'The user who is logged in may not do this, or there is no such repository; check the name.',
  })
  expect([seen.length, tokens.seen.length]).toEqual([4, 2])
})

test('a registry that cannot decide how to be asked is given up after five rounds', async () => {
  const tokens = await serveTokens()
  const { host, seen } = await serveRegistry(
    ({ headers }) =>
      headers.authorization?.startsWith('Bearer') ? 'Basic realm="r"' : `Bearer realm="${tokens.realm}"`,
    () => false,
  )
  const failure = await failureOf(openHttp(loopback.bench).send(host, {}, { user }))
  expect(failure.message).toContain('401')
  expect(seen.length).toBeLessThanOrEqual(6)
  expect(tokens.seen.length).toBeLessThanOrEqual(5)
})

test('insufficient scope is met once with what the challenge asks for', async () => {
  const tokens = await serveTokens((seen) => ({ token: query(seen).scope.join('+') }))
  const { host, seen } = await serveRegistry(
    ({ headers }) =>
      headers.authorization === undefined
        ? `Bearer realm="${tokens.realm}"`
        : `Bearer realm="${tokens.realm}",error="insufficient_scope",scope="repository:x:delete repository:y:pull"`,
    (given) => given === 'Bearer repository:x:pull,delete+repository:y:pull',
  )
  await (await openHttp(loopback.bench).send(host, {}, { user })).discard()
  expect([seen.length, tokens.seen.length]).toEqual([3, 2])
  let count = 0
  const greedy = await serveRegistry(
    () => `Bearer realm="${tokens.realm}",scope="repository:more-${count++}:pull"`,
    () => false,
  )
  expect((await failureOf(openHttp(loopback.bench).send(greedy.host, {}, { user }))).code).toBe(
    'ISB_REGISTRY_DENIED',
  )
  expect(greedy.seen).toHaveLength(3)
})

test('a token is not used longer than it lives', async () => {
  const tokens = await serveTokens(() => ({ expires_in: 1 }))
  const { host } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}"`,
    (given) => given !== '',
  )
  const { send } = openHttp(loopback.bench)
  await (await send(host, {}, { user })).discard()
  await (await send(host, {}, { user })).discard()
  expect(tokens.given).toHaveLength(1)
  await new Promise((resolve) => setTimeout(resolve, 950))
  await (await send(host, {}, { user })).discard()
  expect(tokens.given).toHaveLength(2)
})

test('a token server that refuses, fails or answers nonsense is named', async () => {
  const cases: readonly (readonly [Parameters<typeof serve>[1], string, RegExp, number])[] = [
    [
      (_seen, response) => response.writeHead(401).end('{"details":"incorrect username or password"}'),
      'ISB_REGISTRY_DENIED',
      /answered 401 unauthorized: "incorrect username or password"/,
      1,
    ],
    [
      (_seen, response) => response.writeHead(302, { location: '/elsewhere' }).end(),
      'ISB_REGISTRY_UNAVAILABLE',
      /answered 302/,
      1,
    ],
    [
      (_seen, response) => response.writeHead(503).end(),
      'ISB_REGISTRY_UNAVAILABLE',
      /answered 503.*5 attempts/,
      5,
    ],
    [
      (_seen, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>login</html>'),
      'ISB_REGISTRY_UNAVAILABLE',
      /without a token \(text\/html\)/,
      1,
    ],
    [
      (_seen, response) => response.end('{"expires_in":300}'),
      'ISB_REGISTRY_UNAVAILABLE',
      /without a token/,
      1,
    ],
    [
      (_seen, response) => response.end(Buffer.alloc(2_000_000, 32)),
      'ISB_LIMIT_EXCEEDED',
      /more than 1048576 bytes/,
      1,
    ],
  ]
  for (const [handler, code, message, count] of cases) {
    const tokens = await serve(loopback.bench, handler)
    const { host, seen } = await serveRegistry(
      () => `Bearer realm="http://${tokens.host}/token"`,
      () => false,
    )
    const failure = await failureOf(openHttp(loopback.bench).send(host, {}, { user }))
    expect(failure).toMatchObject({ code, message: expect.stringMatching(message) })
    if (code !== 'ISB_LIMIT_EXCEEDED')
      expect(failure.message).toContain(`token server ${tokens.host} for registry ${host}`)
    expect([seen.length, tokens.seen.length]).toEqual([1, count])
  }
})

test('one caller who leaves does not take the token of the others along', async () => {
  let answer = () => {}
  const tokens = await serve(loopback.bench, (_seen, response) => {
    answer = () => response.end('{"token":"t"}')
  })
  const { host } = await serveRegistry(
    () => `Bearer realm="http://${tokens.host}/token"`,
    (given) => given !== '',
  )
  const { send } = openHttp(loopback.bench, { limits: { head: 5000 } })
  const stop = new AbortController()
  const left = failureOf(send(host, {}, { user, signal: stop.signal }))
  while (tokens.seen.length === 0) await new Promise((resolve) => setTimeout(resolve, 5))
  const stays = send(host, {}, { user })
  await new Promise((resolve) => setTimeout(resolve, 50))
  stop.abort()
  expect((await left).code).toBe('ISB_CANCELLED')
  answer()
  await (await stays).discard()
  expect(tokens.seen).toHaveLength(1)
})

test('what is open to everybody stays open when the token server is in the way', async () => {
  const tokens = await serveTokens(() => undefined)
  const { host } = await serveRegistry(
    () => `Bearer realm="${tokens.realm}"`,
    (_given, { url }) => url === '/open',
  )
  const { send } = openHttp(loopback.bench)
  expect((await failureOf(send(host, { target: '/closed' }))).code).toBe('ISB_REGISTRY_DENIED')
  await (await send(host, { target: '/open' })).discard()
})

test('a token server that has moved is found again', async () => {
  let realm = 'http://127.0.0.1:1/token'
  const tokens = await serveTokens()
  const { host } = await serveRegistry(
    () => `Bearer realm="${realm}"`,
    (given) => given !== '',
  )
  const { send } = openHttp(loopback.bench)
  expect((await failureOf(send(host, {}, { user }))).code).toBe('ISB_REGISTRY_UNAVAILABLE')
  realm = tokens.realm
  const found = async () => (await send(host, {}, { user })).discard()
  await found().catch(found)
})

test('credentials of the registry stay with it: redirects and absolute targets get none', async () => {
  const thief = await serve(loopback.bench, (_seen, response) => response.end('x'))
  let location = `http://${thief.host}/blob`
  const { host, seen } = await serve(loopback.bench, ({ url, headers }, response) => {
    if (headers.authorization !== basic)
      response.writeHead(401, { 'www-authenticate': 'Basic realm="r"' }).end()
    else if (url === '/away') response.writeHead(307, { location }).end()
    else response.end('home')
  })
  const { send } = openHttp(loopback.bench)
  const headers = { cookie: 'session=1', authorization: 'Bearer smuggled' }
  await (await send(host, { target: '/away', headers }, { user })).discard()
  for (const method of ['GET', 'HEAD', 'POST', 'PATCH', 'PUT', 'DELETE'] as const) {
    await (await send(host, { method, target: `http://${thief.host}/upload`, headers }, { user })).discard()
  }
  expect(thief.seen).toHaveLength(7)
  for (const { headers: got } of thief.seen) {
    expect(got).not.toHaveProperty('authorization')
    expect(got).not.toHaveProperty('cookie')
  }
  // Away and back again is not home.
  const back = await serve(loopback.bench, (_seen, response) =>
    response.writeHead(307, { location: `http://${host}/home` }).end(),
  )
  location = `http://${back.host}/`
  const before = seen.length
  await failureOf(send(host, { target: '/away' }, { user })).catch(() => undefined)
  expect(seen.slice(before).filter(({ url }) => url === '/home')[0]?.headers.authorization).toBeUndefined()
  // Within the registry it is.
  location = '/home'
  expect((await (await send(host, { target: '/away' }, { user })).bytes(10)).toString()).toBe('home')
})

test('the challenge of another host is not answered', async () => {
  const tokens = await serveTokens()
  const thief = await serveRegistry(
    () => `Bearer realm="${tokens.realm}", Basic realm="x"`,
    () => false,
  )
  const { host } = await serve(loopback.bench, (_seen, response) =>
    response.writeHead(307, { location: `http://${thief.host}/` }).end(),
  )
  expect(await failureOf(openHttp(loopback.bench).send(host, {}, { user }))).toMatchObject({
    code: 'ISB_REGISTRY_DENIED',
    message: expect.stringContaining(`${thief.host} for registry ${host}`),
  })
  expect(thief.seen).toHaveLength(1)
  expect(tokens.seen).toEqual([])
})

test('a public registry cannot send credentials where it likes', async () => {
  const thief = await serve(loopback.bench, (_seen, response) => response.end('{"token":"t"}'))
  let realm = ''
  const registry = await serve(
    loopback.bench,
    (_seen, response) =>
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}", Basic realm="x"` }).end(),
    loopback.authority.issue('registry', 'DNS:registry.example'),
  )
  const proxy = await serveProxy(loopback.bench, () => registry.port)
  trustFor(loopback.bench, 'registry.example', { 'ca.crt': loopback.authority.pem })
  const no_proxy = '10.0.0.1,169.254.169.254'
  const { send } = openHttp(loopback.bench, { environment: { https_proxy: proxy.host, no_proxy } })
  let asked = 0
  for (realm of [
    'http://attacker.example/token',
    'http://registry.example/token',
    `http://127.0.0.1:${thief.port}/token`,
    `https://127.0.0.1:${thief.port}/token`,
    `https://localhost:${thief.port}/token`,
    'https://[::1]/token',
    'https://10.0.0.1/token',
    'https://169.254.169.254/token',
    'https://0.0.0.0/token',
    'https://2130706433/token',
    'https://user:pass@registry.example/token',
    'ftp://registry.example/token',
    '/token',
    '',
  ]) {
    const failure = await failureOf(send('registry.example', {}, { user }))
    expect(failure).toMatchObject({
      code: 'ISB_REGISTRY_DENIED',
      message: expect.stringMatching(/^registry registry\.example: its token server ".*" (is|does|carries)/),
    })
    expect(failure.message).not.toContain('user:pass')
    asked++
  }
  expect(registry.seen).toHaveLength(asked)
  expect(registry.seen.every(({ headers }) => headers.authorization === undefined)).toBe(true)
  expect(thief.seen).toEqual([])
  expect(new Set(proxy.targets)).toEqual(new Set(['CONNECT registry.example:443']))
})

test('a registry behind https is never asked to trust a token server with http, an insecure one only its own host', async () => {
  const tokens = await serveTokens()
  const tls = loopback.authority.issue('registry', 'IP:127.0.0.1')
  const registry = await serve(
    loopback.bench,
    (_seen, response) =>
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${tokens.realm}"` }).end(),
    tls,
  )
  trustFor(loopback.bench, registry.host, { 'ca.crt': loopback.authority.pem })
  const strict = await failureOf(openHttp(loopback.bench).send(registry.host, {}, { user, tlsVerify: true }))
  expect(strict.message).toMatch(/does not use https/)
  const elsewhere = await serveRegistry(
    () => 'Bearer realm="http://attacker.example/token"',
    () => false,
  )
  const failure = await failureOf(openHttp(loopback.bench).send(elsewhere.host, {}, { user, insecure: true }))
  expect(failure.message).toMatch(/"http:\/\/attacker\.example\/token" does not use https/)
  expect(tokens.seen).toEqual([])
})

test('an insecure registry does not make its token server insecure', async () => {
  const tls = loopback.authority.issue('tokens', 'IP:127.0.0.1')
  const tokens = await serve(loopback.bench, (_seen, response) => response.end('{"token":"t"}'), tls)
  const accepts = (given: string) => given === 'Bearer t'
  const registry = await serveRegistry(() => `Bearer realm="https://${tokens.host}/token"`, accepts)
  const { send } = openHttp(loopback.bench)
  const failure = await failureOf(send(registry.host, {}, { user, insecure: true }))
  expect(failure).toMatchObject({
    code: 'ISB_REGISTRY_UNAVAILABLE',
    message: expect.stringMatching(
      new RegExp(`token server ${tokens.host} for registry ${registry.host}: .*unknown authority`),
    ),
  })
  expect(tokens.seen).toEqual([])
  // The administrator may vouch for it, or the user for this call.
  await (await send(registry.host, {}, { user, tlsVerify: false })).discard()
  trustFor(loopback.bench, tokens.host, { 'ca.crt': loopback.authority.pem })
  await (await send(registry.host, {}, { user, insecure: true })).discard()
  expect(tokens.seen).toHaveLength(2)
})

test('an insecure registry may be its own token server', async () => {
  const tls = loopback.authority.issue('both', 'DNS:nobody')
  let host = ''
  const both = await serve(
    loopback.bench,
    ({ url, headers }, response) => {
      if (url.startsWith('/token')) response.end('{"token":"t"}')
      else if (headers.authorization === 'Bearer t') response.end('x')
      else response.writeHead(401, { 'www-authenticate': `Bearer realm="https://${host}/token"` }).end()
    },
    tls,
  )
  host = both.host
  await (await openHttp(loopback.bench).send(host, {}, { user, insecure: true })).discard()
  expect(both.seen[1]?.headers.authorization).toBe(basic)
})

test('a user is asked once for a whole transfer, with host and repository, and only if the registry asks', async () => {
  const { host } = await serveRegistry(
    () => 'Basic realm="r"',
    (given, { url }) => url === '/open' || given === basic,
  )
  const { http } = openHttp(loopback.bench)
  const asked: (string | undefined)[][] = []
  const access = {
    uid: 1,
    tlsVerify: undefined,
    retries: 0,
    retryDelay: 1,
    credentials: async (...args: (string | undefined)[]) => {
      asked.push(args)
      return user
    },
  }
  const exchange = {
    method: 'GET',
    scope: { repository: 'a/b', actions: 'pull' },
    expect: [200],
    repeat: 'safe',
  } as const
  const context = { access, signal: new AbortController().signal, what: 'blob' }
  await (await http.send({ host, insecure: false }, { ...exchange, target: '/open' }, context)).discard()
  expect(asked).toEqual([])
  for (const target of ['/a', '/b', '/c']) {
    await (await http.send({ host, insecure: false }, { ...exchange, target }, context)).discard()
  }
  expect(asked).toEqual([[host, 'a/b']])
})
