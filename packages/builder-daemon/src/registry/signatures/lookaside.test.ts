import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Bench, makeAuthority, openBench, serve, trustFor } from '../http/loopback.test-support.js'
import { createTrustStore } from '../http/trust.js'
import { readLookaside } from './lookaside.js'

let bench: Bench
const never = new AbortController().signal
beforeEach(() => {
  bench = openBench()
})
afterEach(() => bench.end())

describe('signatures in files', () => {
  const place = (): string => {
    const path = join(bench.directory, 'a@sha256=1')
    mkdirSync(path)
    return path
  }

  test('are read up to the first that is missing', async () => {
    const path = place()
    for (const [name, text] of [
      ['1', 'one'],
      ['2', 'two'],
      ['4', 'four'],
    ] as const) {
      writeFileSync(join(path, `signature-${name}`), text)
    }
    const found = await readLookaside(pathToFileURL(path), never)
    expect(found.map(String)).toEqual(['one', 'two'])
    expect(await readLookaside(pathToFileURL(`${path}/none`), never)).toEqual([])
    expect(await readLookaside(pathToFileURL(`${path}/signature-1/x`), never)).toEqual([])
  })

  test('may be a reasonable number of reasonable size', async () => {
    const path = place()
    for (let index = 1; index <= 129; index += 1) writeFileSync(join(path, `signature-${index}`), 'x')
    await expect(readLookaside(pathToFileURL(path), never)).rejects.toThrow('more than 128 signatures')
    writeFileSync(join(path, 'signature-1'), Buffer.alloc(4 * 1024 * 1024 + 1))
    await expect(readLookaside(pathToFileURL(path), never)).rejects.toThrow('larger than 4194304 bytes')
  })

  test('are regular files', async () => {
    const path = place()
    symlinkSync('/dev/zero', join(path, 'signature-1'))
    await expect(readLookaside(pathToFileURL(path), never)).rejects.toThrow('is not a regular file')
  })
})

describe('signatures on a server', () => {
  test('are read up to the first 404, over TLS with the authorities of certs.d', async () => {
    const authority = makeAuthority(join(bench.directory, 'ca'))
    const server = await serve(
      bench,
      ({ url }, response) => {
        response.statusCode = url.endsWith('/signature-1') ? 200 : 404
        response.end('one')
      },
      authority.issue('127.0.0.1', 'IP:127.0.0.1'),
    )
    const url = new URL(`https://${server.host}/sig/a@sha256=1`)
    await expect(readLookaside(url, never)).rejects.toThrow(/certificate|issuer/)
    trustFor(bench, server.host, { 'ca.crt': authority.pem })
    const trust = createTrustStore([join(bench.directory, 'certs.d')], {})
    const found = await readLookaside(url, never, { trust: (host) => trust.of(host).context(true) })
    expect(found.map(String)).toEqual(['one'])
    expect(server.seen.map((seen) => seen.url)).toEqual([
      ...['/sig/a@sha256=1/signature-1', '/sig/a@sha256=1/signature-2'],
    ])
  })

  test.each<[string, (response: import('node:http').ServerResponse) => void, string]>([
    ['a failure', (response) => void response.writeHead(500).end(), 'answers with status 500'],
    ['a denial', (response) => void response.writeHead(403).end(), 'answers with status 403'],
    ['an endless body', (response) => void response.write(Buffer.alloc(5 << 20)), 'is larger than'],
    [
      'an early end',
      (response) => {
        response.writeHead(200, { 'content-length': 9 })
        response.write('x', () => response.destroy())
      },
      'aborted',
    ],
    [
      'a redirect to a file',
      (response) => void response.writeHead(302, { location: 'file:///etc/passwd' }).end(),
      'is not followed',
    ],
    [
      'a redirect to itself',
      (response) => void response.writeHead(302, { location: '/' }).end(),
      'status 302',
    ],
  ])('%s is no absence', async (_name, answer, reason) => {
    const server = await serve(bench, (_seen, response) => answer(response))
    await expect(readLookaside(new URL(`http://${server.host}/x`), never)).rejects.toThrow(reason)
    expect(server.seen.length).toBeLessThan(10)
  })

  test('a server that says nothing is left when the call is', async () => {
    const server = await serve(bench, () => undefined)
    const asked = readLookaside(new URL(`http://${server.host}/x`), AbortSignal.timeout(100))
    await expect(asked).rejects.toThrow()
  })
})
