import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { send as sendTo } from '../operations/target.js'
import type { Exchange } from './exchange.js'
import {
  type Bench,
  failureOf,
  makeAuthority,
  openBench,
  openHttp,
  serve,
  serveTcp,
} from './loopback.test-support.js'

let bench: Bench
beforeEach(() => {
  bench = openBench()
})
afterEach(() => bench.end())

/** Speaks plain HTTP only, counts who tries TLS, and resets what asks for `/reset`. */
async function servePlain() {
  const count = { handshakes: 0 }
  const { host } = await serveTcp(bench, (socket) => {
    socket.once('data', (head) => {
      if (head[0] === 22) {
        count.handshakes++
        return socket.end('HTTP/1.0 400 no\r\n\r\n')
      }
      if (head.toString('latin1').startsWith('GET /reset')) return socket.resetAndDestroy()
      return socket.end('HTTP/1.1 200 ok\r\ncontent-length: 0\r\nconnection: close\r\n\r\n')
    })
  })
  return { host, count }
}

test('plain HTTP stays known when a connection breaks after it was made', async () => {
  const { host, count } = await servePlain()
  const { send } = openHttp(bench)
  await (await send(host)).discard()
  expect(count.handshakes).toBe(1)
  await failureOf(send(host, { target: '/reset' }, { retries: 1 }))
  await (await send(host)).discard()
  expect(count.handshakes).toBe(1)
})

test('a storage that is not there says nothing about the registry', async () => {
  const dead = await serve(bench, () => {})
  dead.close()
  const { issue } = makeAuthority(join(bench.directory, 'ca'))
  const registry = await serve(
    bench,
    (_seen, response) => response.writeHead(307, { location: `https://${dead.host}/blob` }).end(),
    issue('registry', 'IP:127.0.0.1'),
  )
  const { send } = openHttp(bench)
  const failure = await failureOf(send(registry.host, {}, { retries: 0 }))
  expect(failure.message).toMatch(/connection refused/)
  expect(failure.message).not.toMatch(/TLS|http:/)
  expect(registry.seen).toHaveLength(1)
  const { host, count } = await servePlain()
  await (await send(host)).discard()
  const elsewhere = new URL(`http://${dead.host}/v2/x/blobs/uploads/1`)
  await failureOf(send(host, { target: elsewhere }, { retries: 0 }))
  await (await send(host)).discard()
  expect(count.handshakes).toBe(1)
})

test('an absolute URL of the registry itself tells the scheme', async () => {
  const { host, count } = await servePlain()
  const { send } = openHttp(bench)
  await (await send(host, { target: new URL(`http://${host}/v2/`) })).discard()
  expect(count.handshakes).toBe(0)
})

test('an absolute URL of the registry itself gets the login', async () => {
  const { host, seen } = await serve(bench, ({ headers }, response) =>
    response
      .writeHead(headers.authorization === undefined ? 401 : 200, { 'www-authenticate': 'Basic' })
      .end(),
  )
  const user = { username: 'me', password: 'geheim' }
  const target = new URL(`http://${host}/v2/x/blobs/uploads/1`)
  await (await openHttp(bench).send(host, { target }, { user })).discard()
  expect(seen).toHaveLength(2)
})

test.each([
  ['reg.example:80', 'http://reg.example/v2/up/1?a=b'],
  ['REG.example', 'http://reg.example/v2/up/1?a=b'],
  ['reg.example:5000', 'http://reg.example:5000/v2/up/1?a=b'],
  ['docker.io', 'http://registry-1.docker.io/v2/up/1?a=b'],
])('%s is the registry that names %s', async (host, location) => {
  const asked: Exchange['target'][] = []
  const http = {
    send: async (_origin: unknown, { target }: Exchange) => {
      asked.push(target)
      throw new Error('enough')
    },
    close() {},
  }
  const endpoint = { host, repository: 'x', insecure: true, mirror: false }
  const access = {
    ...{ uid: 1, credentials: async () => undefined, tlsVerify: undefined },
    ...{ retries: 0, retryDelay: 1 },
  }
  const call = { access, signal: new AbortController().signal }
  const exchange = { method: 'GET', scope: undefined, expect: [200], repeat: 'safe' } as const
  await failureOf(sendTo({ http, endpoint, call }, { ...exchange, target: new URL(location) }, 'x'))
  expect(asked).toEqual(['/v2/up/1?a=b'])
})
