import { execFileSync } from 'node:child_process'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDaemonBench, type DaemonBench } from '../support/daemon-bench.js'

describe.skipIf(getuid?.() !== 0)('ADD of URLs', () => {
  let bench: DaemonBench
  let server: Server

  beforeAll(async () => {
    bench = await createDaemonBench({ group: 'root' })
    server = createServer((request, response) => {
      if (request.url === '/dated')
        response.setHeader('last-modified', new Date(1_000_000_000_000).toUTCString())
      response.end(`body of ${request.url}`)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  })
  afterAll(async () => {
    server.closeAllConnections()
    server.close()
    await bench[Symbol.asyncDispose]()
  })

  test('takes several in one instruction, each with the name and time that it has', async () => {
    const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const urls = ['/dated', '/plain', '/page/'].map((path) => `${origin}${path}`)
    const context = bench.context(`FROM scratch\nADD ${urls.join(' ')} Dockerfile /d/\n`)
    const archive = join(bench.work, 'image.tar')
    await bench.image('build', '-o', `docker-archive:${archive}:urls:1`, context)

    const read = (...args: readonly string[]) => execFileSync('tar', [...args], { encoding: 'utf8' })
    const [{ Layers: layers }] = JSON.parse(read('-xOf', archive, 'manifest.json'))
    execFileSync('tar', ['-C', bench.work, '-xf', archive, layers[0]])
    const layer = join(bench.work, layers[0])
    const listed = read('--utc', '--full-time', '-tvf', layer)
    expect(listed).toMatch(/-rw------- 0\/0 +14 2001-09-09 01:46:40 d\/dated$/m)
    expect(listed).toMatch(/-rw------- 0\/0 +14 1970-01-01 00:00:00 d\/plain$/m)
    expect(listed).toMatch(/ d\/page$/m)
    expect(listed).toMatch(/ d\/Dockerfile$/m)
    expect(read('-xOf', layer, 'd/page')).toBe('body of /page/')
  })
})
