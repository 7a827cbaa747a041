import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Bench, bodyOf, failureOf, openBench, openHttp, serve, until } from './loopback.test-support.js'

let bench: Bench
beforeEach(() => {
  bench = openBench()
})
afterEach(() => bench.end())

test.each([
  [429, /^registry HOST limits requests, next attempt in 4 s$/],
  [
    503,
    /^registry HOST: answered 503 service unavailable: BUSY \(manifest 1 of HOST\/x\), next attempt in 4 s$/,
  ],
])('the user hears of a long wait after %i', async (status, line) => {
  const { host } = await serve(bench, (_seen, response) =>
    response.writeHead(status, { 'retry-after': '4' }).end('{"errors":[{"code":"BUSY"}]}'),
  )
  const notices: string[] = []
  const stop = new AbortController()
  const onNotice = (text: string) => {
    notices.push(text)
    stop.abort()
  }
  const failure = await failureOf(openHttp(bench).send(host, {}, { onNotice, signal: stop.signal }))
  expect(failure.code).toBe('ISB_CANCELLED')
  expect(notices).toEqual([expect.stringMatching(new RegExp(line.source.replaceAll('HOST', host)))])
})

test('nobody is told of a short wait', async () => {
  let count = 0
  const { host } = await serve(bench, (_seen, response) =>
    response.writeHead(++count === 1 ? 503 : 200).end(),
  )
  const notices: string[] = []
  const onNotice = (text: string) => void notices.push(text)
  await (await openHttp(bench).send(host, {}, { onNotice })).discard()
  expect(notices).toEqual([])
})

test('a server gets time for the bytes it has to go through, and the wait is named', async () => {
  const { host } = await serve(bench, async ({ url }, response) => {
    if (url !== '/slow') return
    await sleep(600)
    response.writeHead(201).end()
  })
  const { send } = openHttp(bench, { limits: { head: 300 } })
  const put = { method: 'PUT', repeat: 'once', expect: [201] } as const
  const slow = { ...put, target: '/slow', body: bodyOf('') }
  expect((await failureOf(send(host, slow))).message).toContain('no answer for 0.3 s')
  await (await send(host, { ...slow, work: 16 << 20 })).discard()
  const never = await failureOf(send(host, { ...slow, target: '/never', work: 16 << 20 }))
  expect(never.message).toContain('no answer for 1.3 s')
})

test('transfers of all hosts together are limited, users are not', async () => {
  let open = 0
  let most = 0
  const waiting: (() => void)[] = []
  const hosts: string[] = []
  for (let count = 0; count < 3; count++) {
    const { host } = await serve(bench, (_seen, response) => {
      response.on('close', () => open--)
      most = Math.max(most, ++open)
      waiting.push(() => response.end('12345'))
    })
    hosts.push(host)
  }
  const { send } = openHttp(bench, { limits: { connections: 2, transfers: 3, stalled: 5000 } })
  const fetchBlob = async (host: string, uid: number) =>
    (await send(host, { target: '/v2/x/blobs/1' }, { uid })).bytes(5)
  const work = hosts.flatMap((host) => [fetchBlob(host, 1), fetchBlob(host, 1)])
  await until(() => open === 3)
  await sleep(50)
  expect(open).toBe(3)
  work.push(fetchBlob(hosts[0] ?? '', 2))
  await until(() => open === 4)
  most = 0
  let isOver = false
  void Promise.allSettled(work).then(() => {
    isOver = true
  })
  // Not until nothing is open: the next ones may be on their way.
  while (!isOver) {
    waiting.shift()?.()
    await sleep(10)
  }
  expect((await Promise.all(work)).map(String)).toEqual(Array(7).fill('12345'))
  expect(most).toBeLessThanOrEqual(4)
})

/** In a thread of its own, so that both sides are really busy at once. */
const hastyServer = `
const { parentPort } = require('node:worker_threads')
const server = require('node:net').createServer((socket) => {
  socket.on('error', () => {})
  socket.once('data', (head) => {
    if (head[0] === 22) return socket.end('HTTP/1.0 400 no\\r\\n\\r\\n')
    // What was not read makes a reset of the end.
    socket.pause()
    socket.write('HTTP/1.1 413 Too Large\\r\\ncontent-length: 2\\r\\n\\r\\nno', () => socket.destroy())
  })
})
server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port))
`

test('an answer that was sent before the connection was reset is heard', async () => {
  const server = new Worker(hastyServer, { eval: true })
  bench.onEnd(() => void server.terminate())
  const [port] = await once(server, 'message')
  const { send } = openHttp(bench)
  const chunk = Buffer.alloc(64 * 1024)
  const body = {
    size: 128 * chunk.length,
    async *open() {
      for (let sent = 0; sent < 128; sent++) {
        yield chunk
        await new Promise((resolve) => setImmediate(resolve))
      }
    },
  }
  const exchange = { method: 'PUT', target: '/up', body, repeat: 'once', expect: [413] } as const
  for (let count = 0; count < 50; count++) {
    const answer = await send(`127.0.0.1:${port}`, exchange)
    expect((await answer.bytes(10)).toString()).toBe('no')
  }
})
