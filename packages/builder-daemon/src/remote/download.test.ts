import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createDownloader } from './download.js'

let directory: string
const closing: (() => void)[] = []

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'download-'))
})
afterEach(() => {
  for (const close of closing.splice(0)) close()
  rmSync(directory, { recursive: true })
})

async function serve(listener: RequestListener): Promise<string> {
  const server = createServer(listener)
  closing.push(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const fetch = (url: string, signal = new AbortController().signal, idle = 200) =>
  createDownloader({ size: 1000, idle }).fetch(url, {
    file: join(directory, 'file'),
    checksum: undefined,
    signal,
  })

const failing = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })

test.each([
  ['/name', 'name'],
  ['/', '__unnamed__'],
  ['/page/', 'page'],
  ['/a/b//', 'b'],
  ['/a%20b', 'a b'],
  ['/a%2f..%2f..%2fx', 'x'],
  ['/..%2f..', '__unnamed__'],
  ['/%2f', '__unnamed__'],
  ['/%00', '__unnamed__'],
  ['/%zz', '%zz'],
])('the file at %s is called %s', async (path, name) => {
  const origin = await serve((_request, response) => response.end('x'))
  expect((await fetch(origin + path)).name).toBe(name)
})

test('the time is that of Last-Modified, and the epoch without one', async () => {
  const lastModified = 'Mon, 01 Jan 2024 00:00:00 GMT'
  const dated = await serve((_request, response) =>
    response.writeHead(200, { 'last-modified': lastModified }).end(),
  )
  expect((await fetch(dated)).mtime).toBe(Date.parse(lastModified) / 1000)
  rmSync(join(directory, 'file'))
  const plain = await serve((_request, response) => response.end())
  expect((await fetch(plain)).mtime).toBe(0)
})

test('a body beyond the limit is refused, announced or not', async () => {
  const announced = await serve((_request, response) => response.end('x'.repeat(1001)))
  await expect(fetch(announced)).rejects.toEqual(failing('ISB_LIMIT_EXCEEDED', /larger than 1000 bytes/))
  const silent = await serve((_request, response) => {
    const more = () => {
      if (!response.destroyed) response.write('x'.repeat(500), more)
    }
    more()
  })
  await expect(fetch(silent, undefined, 10_000)).rejects.toEqual(
    failing('ISB_LIMIT_EXCEEDED', /larger than 1000 bytes/),
  )
})

test.each([
  ['before the headers', undefined],
  ['in the body', 'begin'],
])('a server that falls silent %s is given up', async (_when, begin) => {
  const origin = await serve((_request, response) => {
    if (begin !== undefined) response.write(begin)
  })
  const before = performance.now()
  await expect(fetch(origin)).rejects.toEqual(failing('ISB_DOWNLOAD_FAILED', /no answer for 0.2 s|aborted/))
  expect(performance.now() - before).toBeLessThan(5000)
})

test('a redirect to what is no URL fails clearly', async () => {
  const origin = await serve((_request, response) =>
    response.writeHead(302, { location: 'http://[::' }).end(),
  )
  await expect(fetch(origin)).rejects.toEqual(failing('ISB_DOWNLOAD_FAILED', /redirects to what is no URL/))
})

test('a user name that is no percent-encoding is sent as it stands', async () => {
  const seen: (string | undefined)[] = []
  const origin = await serve((request, response) => {
    seen.push(request.headers.authorization)
    response.end('x')
  })
  await fetch(origin.replace('//', '//%zz:p@'))
  expect(seen).toEqual([`Basic ${Buffer.from('%zz:p').toString('base64')}`])
})

test('a cancelled download ends at once', async () => {
  const origin = await serve((_request, response) => response.write('begin'))
  const cancel = new AbortController()
  setTimeout(() => cancel.abort(), 50)
  await expect(fetch(origin, cancel.signal)).rejects.toEqual(failing('ISB_CANCELLED', /cancelled/))
})

test('a checksum that does not fit is refused', async () => {
  const origin = await serve((_request, response) => response.end('x'))
  const wanted = {
    file: join(directory, 'file'),
    checksum: `sha256:${'0'.repeat(64)}`,
    signal: new AbortController().signal,
  }
  const downloader = createDownloader({ size: 1000, idle: 200 })
  await expect(downloader.fetch(origin, wanted as Parameters<typeof downloader.fetch>[1])).rejects.toEqual(
    failing('ISB_DIGEST_MISMATCH', /digest mismatch/),
  )
})

test('the body is stored as it came, whatever encoding the server names', async () => {
  const origin = await serve((_request, response) =>
    response.writeHead(200, { 'content-encoding': 'gzip' }).end('plain'),
  )
  await fetch(origin)
  expect(readFileSync(join(directory, 'file'), 'utf8')).toBe('plain')
  expect(readdirSync(directory)).toEqual(['file'])
})
