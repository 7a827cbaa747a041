import type { ServerResponse } from 'node:http'
import { parseReference } from '@isula-build/shared/oci/reference.js'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  type Bench,
  bodyOf,
  failureOf,
  openBench,
  openHttp,
  serve,
  serveProxy,
  serveTcp,
  until,
} from './loopback.test-support.js'

let bench: Bench
beforeEach(() => {
  bench = openBench()
})
afterEach(() => bench.end())

const statuses = (...codes: readonly number[]) => {
  const left = [...codes]
  return (_seen: unknown, response: ServerResponse) => response.writeHead(left.shift() ?? 200).end('x')
}

test('an answer has status, joined lower-case headers, URL and body', async () => {
  const { host } = await serve(bench, (_seen, response) => {
    response.setHeader('Docker-Content-Digest', ['a', 'b'])
    response.end('body')
  })
  const answer = await openHttp(bench).send(host, { target: '/v2/x/manifests/1' })
  expect(answer.status).toBe(200)
  expect(answer.headers['docker-content-digest']).toBe('a, b')
  expect(answer.url.href).toBe(`http://${host}/v2/x/manifests/1`)
  expect((await answer.bytes(4)).toString()).toBe('body')
})

test('a body is sent with its length, one without a body with length zero', async () => {
  const { host, seen } = await serve(bench, (_seen, response) => response.writeHead(201).end())
  const { send } = openHttp(bench)
  await (await send(host, { method: 'PUT', body: bodyOf('12345'), expect: [201] })).discard()
  await (await send(host, { method: 'POST', expect: [201] })).discard()
  expect(seen.map(({ headers, body }) => [headers['content-length'], body])).toEqual([
    ['5', '12345'],
    ['0', ''],
  ])
})

test('connections are kept for one user, and never shared with another', async () => {
  const { host, sockets } = await serve(bench, (_seen, response) => response.end('x'))
  const ports = new Set<number | undefined>()
  const { send } = openHttp(bench)
  for (const uid of [1, 1, 1, 2]) {
    await (await send(host, {}, { uid })).bytes(10)
    for (const { remotePort } of sockets) ports.add(remotePort)
  }
  // One that was greeted by TLS first, and one for each user.
  expect(ports.size).toBeLessThanOrEqual(3)
  expect(sockets.size).toBe(2)
})

test('a kept connection that the server closed meanwhile is no failure', async () => {
  const { host, sockets, seen } = await serve(bench, (_seen, response) => response.end('x'))
  const { send } = openHttp(bench)
  await (await send(host)).bytes(10)
  for (const socket of sockets) socket.resetAndDestroy()
  await (await send(host, {}, { retries: 0 })).bytes(10)
  expect(seen).toHaveLength(2)
})

test.each([1, 2, 3, 4])('%i transient failures are survived', async (count) => {
  const { host, seen } = await serve(bench, statuses(...[500, 502, 503, 504].slice(0, count)))
  await (await openHttp(bench).send(host)).discard()
  expect(seen).toHaveLength(count + 1)
})

test('attempts end with the budget, and the error tells status, cause and count', async () => {
  const { host, seen } = await serve(bench, (_seen, response) =>
    response
      .writeHead(503)
      .end('{"errors":[{"code":"UNAVAILABLE","message":"come back\\n\\u001b[31mlater"}]}'),
  )
  const { send, logged } = openHttp(bench)
  expect(await failureOf(send(host))).toMatchObject({
    code: 'ISB_REGISTRY_UNAVAILABLE',
    message: expect.stringMatching(
      new RegExp(
        `^registry ${host}: answered 503 service unavailable: UNAVAILABLE "come back \\[31mlater" \\(manifest 1 of ${host}/x; 5 attempts in \\d\\.\\d s\\)$`,
      ),
    ),
  })
  expect(seen).toHaveLength(5)
  expect(logged).toHaveLength(4)
  await failureOf(send(host, {}, { retries: 1 }))
  expect(seen).toHaveLength(7)
  await failureOf(send(host, { repeat: 'once' }))
  expect(seen).toHaveLength(8)
})

test.each([400, 404, 405, 413, 418, 501])('status %i is not repeated', async (status) => {
  const { host, seen } = await serve(bench, statuses(status))
  expect(await failureOf(openHttp(bench).send(host))).toMatchObject({
    message: expect.stringContaining(`answered ${status}`),
  })
  expect(seen).toHaveLength(1)
})

test('a status that is expected is an answer, transient or not', async () => {
  const { host, seen } = await serve(bench, statuses(429, 302))
  const { send } = openHttp(bench)
  expect((await send(host, { expect: [429] })).status).toBe(429)
  expect((await send(host, { expect: [302] })).status).toBe(302)
  expect(seen).toHaveLength(2)
})

test('waits double, differ by a tenth, and can be cancelled', async () => {
  const { host, seen } = await serve(bench, statuses(500, 500, 500))
  const { send } = openHttp(bench)
  await (await send(host, {}, { retryDelay: 100 })).discard()
  const waits = seen.slice(1).map(({ at }, index) => at - (seen[index]?.at ?? 0))
  for (const [index, wait] of waits.entries()) {
    expect(wait).toBeGreaterThan(90 * 2 ** index - 2)
    expect(wait).toBeLessThan(110 * 2 ** index + 1000)
  }
  const stop = new AbortController()
  const other = await serve(bench, (_seen, response) => response.writeHead(500).end())
  const work = failureOf(send(other.host, {}, { retryDelay: 5000, signal: stop.signal }))
  await until(() => other.seen.length === 1)
  stop.abort()
  expect(await work).toMatchObject({ code: 'ISB_CANCELLED' })
})

test.each([
  ['1', 950, 3000],
  [() => new Date(Date.now() + 2000).toUTCString(), 900, 4000],
  [() => new Date(Date.now() - 60_000).toUTCString(), 0, 900],
  ['99999', 450, 3000],
  ['0', 0, 900],
  ['soon', 0, 900],
])('Retry-After %s is honoured within its cap', async (value, least, most) => {
  const capped = value === '99999' ? 500 : 120_000
  const { host, seen } = await serve(bench, (_seen, response) => {
    const header = typeof value === 'string' ? value : value()
    if (seen.length > 1) response.end('x')
    else response.writeHead(429, { 'retry-after': header }).end()
  })
  await (await openHttp(bench, { limits: { longestRetryAfter: capped } }).send(host)).discard()
  const wait = (seen[1]?.at ?? 0) - (seen[0]?.at ?? 0)
  expect(wait).toBeGreaterThanOrEqual(least)
  expect(wait).toBeLessThan(most)
})

test('the total budget ends attempts before their number does', async () => {
  const { host, seen } = await serve(bench, (_seen, response) =>
    response.writeHead(429, { 'retry-after': '60' }).end(),
  )
  const before = performance.now()
  await failureOf(openHttp(bench, { limits: { budget: 500 } }).send(host))
  expect(performance.now() - before).toBeLessThan(5000)
  expect(seen).toHaveLength(1)
})

test('connections that are refused, reset or ended before an answer are tried again', async () => {
  let count = 0
  const { host } = await serveTcp(bench, (socket) => {
    socket.once('data', (head) => {
      // Not to be taken for a server without TLS.
      if (head[0] === 22) return socket.end('HTTP/1.0 400 no\r\n\r\n')
      count++
      if (count === 1) return socket.resetAndDestroy()
      if (count === 2) return socket.end()
      if (count === 3) return socket.end('HTTP/1.1 2')
      return socket.end('HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx')
    })
  })
  await (await openHttp(bench).send(host)).discard()
  expect(count).toBe(4)
})

test('where nobody ever listened is asked twice, unless the caller wants more, or somebody has answered', async () => {
  const refused = (attempts: number) => ({
    code: 'ISB_REGISTRY_UNAVAILABLE',
    message: expect.stringMatching(new RegExp(`connection refused.*${attempts} attempts`)),
  })
  const gone = await serve(bench, (_seen, response) => response.end('1'))
  const { send } = openHttp(bench)
  await (await send(gone.host)).discard()
  gone.close()
  expect(await failureOf(send(gone.host))).toMatchObject(refused(5))
  const fresh = openHttp(bench)
  expect(await failureOf(fresh.send(gone.host))).toMatchObject(refused(2))
  expect(await failureOf(fresh.send(`localhost:${new URL(`http://${gone.host}`).port}`))).toMatchObject(
    refused(2),
  )
  expect(await failureOf(fresh.send(gone.host, {}, { retries: 3, insists: true }))).toMatchObject(refused(4))
  expect((await failureOf(fresh.send(gone.host, {}, { retries: 0 }))).message).not.toMatch(/attempts/)
})

test('nobody listening at the default port of this machine is known at once', async () => {
  const before = performance.now()
  const failure = await failureOf(openHttp(bench).send('127.255.0.9', {}, { retryDelay: 5000 }))
  expect(failure.message).toMatch(/connection refused/)
  expect(performance.now() - before).toBeLessThan(4000)
})

test('an unknown host is named, and not asked for again', async () => {
  const failure = await failureOf(openHttp(bench).send('registry.invalid', {}, { retryDelay: 1 }))
  expect(failure).toMatchObject({ code: 'ISB_REGISTRY_UNAVAILABLE', message: expect.stringMatching(/DNS/) })
})

test('a head that does not come, or never ends, or is too large ends in time', async () => {
  const silent = await serve(bench, () => {})
  const { send } = openHttp(bench, { limits: { head: 150 } })
  expect((await failureOf(send(silent.host, {}, { retries: 1 }))).message).toMatch(
    /no answer for 0\.15 s.*2 attempts/,
  )
  const endless = await serveTcp(bench, (socket) => {
    socket.once('data', (head) => {
      if (head[0] === 22) return socket.end('HTTP/1.0 400 no\r\n\r\n')
      socket.write('HTTP/1.1 200 OK\r\n')
      const timer = setInterval(() => socket.write('a: b\r\n'), 10)
      socket.on('close', () => clearInterval(timer))
    })
  })
  expect((await failureOf(send(endless.host, {}, { retries: 0 }))).message).toMatch(/no answer for 0\.15 s/)
  const large = await serve(bench, (_seen, response) =>
    response.writeHead(200, { x: 'y'.repeat(17_000) }).end(),
  )
  expect((await failureOf(send(large.host))).message).toMatch(/longer than 16 KiB/)
  await until(() => silent.sockets.size + endless.sockets.size === 0)
})

test('a body that stops, trickles or breaks off fails as unavailable and holds no socket', async () => {
  const kinds: Readonly<Record<string, (response: ServerResponse) => void>> = {
    stops: () => {},
    trickles: (response) => {
      const timer = setInterval(() => response.write('x'), 20)
      response.on('close', () => clearInterval(timer))
    },
    breaks: (response) => void setTimeout(() => response.socket?.resetAndDestroy(), 20),
    ends: (response) => void setTimeout(() => response.socket?.end(), 20),
  }
  const { host, sockets } = await serve(bench, ({ url }, response) => {
    response.writeHead(200, { 'content-length': '1000000' })
    response.write('begin')
    kinds[url.slice(1)]?.(response)
  })
  const { send } = openHttp(bench, { limits: { idle: 200 } })
  for (const kind of Object.keys(kinds)) {
    const answer = await send(host, { target: `/${kind}` })
    expect(await failureOf(answer.bytes(2_000_000))).toMatchObject({
      code: 'ISB_REGISTRY_UNAVAILABLE',
      message: expect.stringMatching(
        /^registry 127.*(the answer stopped \(\d+ bytes in 0\.2 s\)|broke before the answer)/,
      ),
    })
  }
  await until(() => sockets.size === 0)
})

test('time in which the reader is busy is not held against the server', async () => {
  const { host } = await serve(bench, (_seen, response) => response.end(Buffer.alloc(3_000_000)))
  const answer = await openHttp(bench, { limits: { idle: 100 } }).send(host)
  let size = 0
  for await (const chunk of answer.body) {
    if (size === 0) await new Promise((resolve) => setTimeout(resolve, 300))
    size += chunk.length
  }
  expect(size).toBe(3_000_000)
})

test('an aborted request, body or wait leaves no socket behind', async () => {
  const { host, sockets } = await serve(bench, ({ url }, response) => {
    if (url === '/body') response.writeHead(200, { 'content-length': '10' }).write('x')
  })
  const { port, sockets: greeted } = await serveTcp(bench, (socket) => socket.resume())
  const { send } = openHttp(bench)
  for (const [target, at] of [
    ['/head', host],
    ['/body', host],
    ['/handshake', `127.0.0.1:${port}`],
  ] as const) {
    const stop = new AbortController()
    setTimeout(() => stop.abort(), 50)
    const work = send(at, { target }, { signal: stop.signal }).then((answer) => answer.bytes(100))
    expect(await failureOf(work)).toMatchObject({ code: 'ISB_CANCELLED' })
  }
  await until(() => sockets.size + greeted.size === 0)
  const aborted = AbortSignal.abort()
  expect(await failureOf(send(host, {}, { signal: aborted }))).toMatchObject({ code: 'ISB_CANCELLED' })
})

test('an answer that nobody reads, or not to its end, frees connection and slot', async () => {
  const { host, sockets } = await serve(bench, (_seen, response) => response.end(Buffer.alloc(3_000_000)))
  const { send } = openHttp(bench, { limits: { connections: 1, idle: 300 } })
  const target = '/v2/x/blobs/1'
  await send(host, { target })
  for await (const _chunk of (await send(host, { target })).body) break
  await (await send(host, { target })).discard()
  await until(() => sockets.size === 0)
})

test('what is longer than a limit is not read', async () => {
  const { host } = await serve(bench, ({ url }, response) => {
    if (url === '/told') response.setHeader('content-length', '101')
    response.end('x'.repeat(101))
  })
  const { send } = openHttp(bench)
  for (const target of ['/told', '/chunked']) {
    expect(await failureOf((await send(host, { target })).bytes(100))).toMatchObject({
      code: 'ISB_LIMIT_EXCEEDED',
    })
    expect(await (await send(host, { target })).bytes(101)).toHaveLength(101)
  }
})

test('endless error bodies are read to a limit, and shown to a smaller one', async () => {
  const { host } = await serve(bench, (_seen, response) => {
    response.writeHead(400, { 'content-type': 'application/json' })
    response.write('{"errors":[{"code":"X","message":"')
    const more = () => {
      if (!response.destroyed) response.write('y'.repeat(100_000), more)
    }
    more()
  })
  expect((await failureOf(openHttp(bench).send(host))).message.length).toBeLessThan(400)
  const long = await serve(bench, (_seen, response) =>
    response.writeHead(400).end(JSON.stringify({ errors: [{ code: 'X', message: 'y'.repeat(5000) }] })),
  )
  const { message } = await failureOf(openHttp(bench).send(long.host))
  expect(message).toMatch(/y{200}…/)
  expect(message.length).toBeLessThan(400)
})

test('a Content-Encoding that was not asked for is refused', async () => {
  const { host } = await serve(bench, (_seen, response) =>
    response.writeHead(200, { 'content-encoding': 'gzip' }).end('x'),
  )
  const { send } = openHttp(bench)
  expect((await failureOf(send(host))).message).toMatch(/Content-Encoding/)
  expect((await send(host, { method: 'HEAD' })).status).toBe(200)
})

test('a server that takes no data is given up, one that answers early is heard', async () => {
  const { host } = await serveTcp(bench, (socket) => {
    socket.once('data', (head) => {
      if (head[0] === 22) return socket.end('HTTP/1.0 400 no\r\n\r\n')
      if (head.toString('latin1').startsWith('PUT /early')) {
        socket.on('data', () => {})
        return socket.write('HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n')
      }
      return socket.pause()
    })
  })
  const { send } = openHttp(bench, { limits: { idle: 300 } })
  const size = 64 * 1024 * 1024
  const chunk = Buffer.alloc(1024 * 1024)
  let given = 0
  const body = {
    size,
    async *open() {
      for (let sent = 0; sent < size; sent += chunk.length) {
        given += chunk.length
        yield chunk
        // As a file would.
        await new Promise((resolve) => setTimeout(resolve, 2))
      }
    },
  }
  await (
    await send(host, { method: 'GET', target: '/first' }, { retries: 0 }).catch(() => undefined)
  )?.discard()
  const stuck = await failureOf(send(host, { method: 'PUT', target: '/stuck', body, repeat: 'once' }))
  expect(stuck.message).toMatch(/takes no data/)
  given = 0
  const early = await send(host, { method: 'PUT', target: '/early', body, repeat: 'once', expect: [413] })
  expect(early.status).toBe(413)
  await early.discard()
  expect(given).toBeLessThan(size)
})

test('a body that is not as long as it said fails loudly', async () => {
  const { host } = await serve(bench, (_seen, response) => response.end())
  const body = { ...bodyOf('12345'), size: 6 }
  expect((await failureOf(openHttp(bench).send(host, { method: 'PUT', body }))).message).toMatch(
    /6 bytes gave 5/,
  )
})

test('the connection limit holds, and stalled transfers do not starve others', async () => {
  let open = 0
  let most = 0
  const { host } = await serve(bench, ({ url }, response) => {
    response.on('close', () => open--)
    most = Math.max(most, ++open)
    response.writeHead(200, { 'content-length': '5' })
    if (url.includes('stalled')) response.write('x')
    else setTimeout(() => response.end('12345'), 20)
  })
  const { send } = openHttp(bench, { limits: { connections: 3, stalled: 80, idle: 20_000 } })
  const fetchBlob = async (name: string, signal?: AbortSignal) =>
    (await send(host, { target: `/v2/x/blobs/${name}` }, signal === undefined ? {} : { signal })).bytes(5)
  await Promise.all(Array.from({ length: 12 }, (_, index) => fetchBlob(`a${index}`)))
  expect(most).toBe(3)
  const stop = new AbortController()
  const stalled = Array.from({ length: 50 }, (_, index) =>
    failureOf(fetchBlob(`stalled${index}`, stop.signal)),
  )
  const before = performance.now()
  await (await send(host, { target: '/v2/x/manifests/1' })).bytes(5)
  expect(performance.now() - before).toBeLessThan(3000)
  await (await send(host, { target: '/v2/x/blobs/other-user' }, { uid: 2 })).bytes(5)
  expect(performance.now() - before).toBeLessThan(5000)
  await fetchBlob('51st')
  expect(performance.now() - before).toBeLessThan(10_000)
  stop.abort()
  for (const failure of await Promise.all(stalled)) expect(failure.code).toBe('ISB_CANCELLED')
})

test('redirects of GET and HEAD are followed with the method, relative and absolute', async () => {
  const target = await serve(bench, (_seen, response) => response.end('there'))
  const { host, seen } = await serve(bench, ({ url }, response) => {
    const location = url === '/v2/' ? 'next' : `http://${target.host}/blob?signature=1`
    response.writeHead(url === '/v2/' ? 307 : 302, { location }).end()
  })
  const { send } = openHttp(bench)
  for (const method of ['GET', 'HEAD'] as const) {
    const answer = await send(host, { method, headers: { range: 'bytes=1-' } })
    expect(answer.url.href).toBe(`http://${target.host}/blob?signature=1`)
    await answer.discard()
  }
  expect(seen.map(({ method, url }) => `${method} ${url}`)).toEqual([
    'GET /v2/',
    'GET /v2/next',
    'HEAD /v2/',
    'HEAD /v2/next',
  ])
  expect(target.seen.map(({ method, headers }) => `${method} ${headers.range}`)).toEqual([
    'GET bytes=1-',
    'HEAD bytes=1-',
  ])
})

test('a redirect of an upload is not followed', async () => {
  const { host, seen } = await serve(bench, (_seen, response) =>
    response.writeHead(307, { location: '/other' }).end(),
  )
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE'] as const) {
    expect((await failureOf(openHttp(bench).send(host, { method }))).message).toMatch(/answered 307/)
  }
  expect(seen).toHaveLength(4)
})

test('redirects end after ten, and only lead to http and https', async () => {
  const { host, seen } = await serve(bench, ({ url }, response) => {
    const location: Record<string, string> = { '/file': 'file:///etc/passwd', '/none': 'http://[::' }
    response.writeHead(302, { location: location[url] ?? '/loop' }).end()
  })
  const { send } = openHttp(bench)
  expect((await failureOf(send(host, { target: '/loop' }))).message).toMatch(/more than 10 times/)
  expect(seen).toHaveLength(11)
  expect((await failureOf(send(host, { target: '/file' }))).message).toMatch(/redirects to a file URL/)
  expect((await failureOf(send(host, { target: '/none' }))).message).toMatch(/no URL/)
})

test('a public registry cannot send us to addresses that only this machine reaches', async () => {
  const victim = await serve(bench, (_seen, response) => response.end('secret'))
  let location = ''
  const plain = await serveTcp(bench, (socket) => {
    socket.once('data', (head) => {
      if (head[0] === 22) return socket.end('HTTP/1.0 400 no\r\n\r\n')
      return socket.end(`HTTP/1.1 307 x\r\nlocation: ${location}\r\ncontent-length: 0\r\n\r\n`)
    })
  })
  // Through a proxy a name stays a name: the registry counts as public.
  const proxy = await serveProxy(bench, () => plain.port, {
    forward: (_seen, response) => response.writeHead(307, { location }).end(),
  })
  const no_proxy = '10.0.0.0/8,169.254.0.0/16,0.0.0.0,[fe80::1]'
  const environment = { http_proxy: proxy.host, https_proxy: proxy.host, no_proxy }
  const { send } = openHttp(bench, { environment, limits: { connect: 500 } })
  const { send: sendDirect } = openHttp(bench)
  for (const host of [
    `127.0.0.1:${victim.port}`,
    `localhost:${victim.port}`,
    `0x7f.1:${victim.port}`,
    `[::ffff:127.0.0.1]:${victim.port}`,
    '169.254.169.254',
    '10.0.0.1',
    '0.0.0.0',
    '[fe80::1]',
  ]) {
    location = `http://${host}/latest/meta-data`
    for (const target of ['/v2/x/blobs/1', location]) {
      const failure = await failureOf(send('registry.example', { target }, { retries: 0, insecure: true }))
      expect(failure.message).toMatch(/public registry sends us to .* address/)
    }
  }
  location = 'http://169.254.169.254/latest/meta-data'
  expect((await failureOf(sendDirect(plain.host))).message).toMatch(
    /loopback registry sends us to 169\.254\.169\.254/,
  )
  expect(victim.seen).toEqual([])
})

test('an answer from https never leads to http, not even by an absolute target', async () => {
  const { send } = openHttp(bench)
  const failure = await failureOf(
    send('registry.example', { target: 'http://registry.example/v2/' }, { tlsVerify: true }),
  )
  expect(failure.message).toMatch(/from https to plain HTTP/)
})

test('docker.io is asked at registry-1.docker.io', async () => {
  const { domain } = parseReference('busybox')
  const proxy = await serveProxy(bench, () => 1, { refusal: 502 })
  const { send } = openHttp(bench, { environment: { https_proxy: proxy.host } })
  const failure = await failureOf(send(domain, {}, { retries: 0 }))
  expect(proxy.targets).toEqual(['CONNECT registry-1.docker.io:443'])
  expect(failure.message).toMatch(
    /^registry docker\.io: the proxy .* does not connect to registry-1\.docker\.io/,
  )
})

test('close ends what is open', async () => {
  const { host, sockets } = await serve(bench, (_seen, response) => response.writeHead(200).write('x'))
  const { send, http } = openHttp(bench)
  const answer = await send(host)
  const hanging = await serveTcp(bench, (socket) => socket.resume())
  const connecting = failureOf(send(hanging.host))
  await until(() => hanging.sockets.size === 1)
  http.close()
  expect(await connecting).toMatchObject({ code: 'ISB_SHUTTING_DOWN' })
  await until(() => hanging.sockets.size === 0)
  expect(await failureOf(answer.bytes(100))).toMatchObject({ code: 'ISB_REGISTRY_UNAVAILABLE' })
  await until(() => sockets.size === 0)
})
