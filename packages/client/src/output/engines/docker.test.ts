import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { checkDocker, dockerSink, dockerSocket } from './docker.js'

let directory: string
let socket: string
let server: Server
let requests: string[]
let received: number
let answers: Map<string, (request: IncomingMessage, response: ServerResponse) => void>

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dkr-sink-'))
  socket = join(directory, 's')
  requests = []
  received = 0
  answers = new Map()
  server = createServer((request, response) => {
    const asked = `${request.method} ${request.url}`
    requests.push(asked)
    const answer = answers.get(asked)
    if (answer !== undefined) return answer(request, response)
    request.on('data', (chunk: Buffer) => {
      received += chunk.length
    })
    request.on('end', () =>
      response.end(asked.startsWith('POST /images/load') ? '{"stream":"Loaded"}\n' : '{}'),
    )
  })
  await new Promise<void>((resolve) => server.listen(socket, resolve))
})

afterEach(async () => {
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
  rmSync(directory, { recursive: true, force: true })
})

const load = 'POST /images/load?quiet=1'
const chunk = Buffer.alloc(100_000)

async function send(names: readonly string[], chunks = 3): Promise<void> {
  const sink = dockerSink(socket, names)
  try {
    for (let i = 0; i < chunks; i++) await sink.write(chunk)
    await sink.finish()
  } finally {
    sink.abort()
  }
}

test('an archive is loaded, named and looked for', async () => {
  await send(['a/b:1', 'localhost:5000/c:2'])
  expect(requests).toEqual([
    load,
    'POST /images/a/b%3A1/tag?repo=localhost%3A5000%2Fc&tag=2',
    'GET /images/a/b%3A1/json',
    'GET /images/localhost%3A5000/c%3A2/json',
  ])
  expect(received).toBe(3 * chunk.length)
})

test.each([
  ['{"stream":"x"}\n{"errorDetail":{"message":"no space"},"error":"no space"}\n', 'no space'],
  ['{"errorDetail":{"message":"bad\\u001b[2J tar"}}', 'bad [2J tar'],
])('an error among the answers %# is one, whatever the status', async (body, message) => {
  answers.set(load, (request, response) => {
    request.resume()
    request.on('end', () => response.end(body))
  })
  await expect(send(['a:1'])).rejects.toMatchObject({
    code: 'ISB_ENGINE_FAILED',
    message: `dockerd at ${socket} did not load the image: ${message}`,
  })
})

test('an answer that refuses ends the sending', async () => {
  answers.set(load, (_, response) => {
    response.writeHead(500, { 'Content-Type': 'application/json' }).end('{"message":"go away"}')
  })
  await expect(send(['a:1'], 1000)).rejects.toMatchObject({
    code: 'ISB_ENGINE_FAILED',
    message: `dockerd at ${socket} answers 500: go away`,
  })
})

test('a name that is not there afterwards is an error', async () => {
  answers.set('GET /images/a%3A1/json', (_, response) => {
    response.writeHead(404).end('{"message":"No such image: a:1"}')
  })
  await expect(send(['a:1'])).rejects.toThrow('answers 404: No such image: a:1')
})

test('a connection that breaks is an error, not a wait', async () => {
  answers.set(load, (request) => void request.once('data', () => request.destroy()))
  await expect(send(['a:1'], 1000)).rejects.toMatchObject({ code: 'ISB_ENGINE_FAILED' })
})

test('an abort ends a dockerd that says nothing', async () => {
  answers.set(load, (request) => void request.resume())
  const sink = dockerSink(socket, ['a:1'])
  await sink.write(chunk)
  const finished = sink.finish()
  sink.abort()
  await expect(finished).rejects.toMatchObject({ code: 'ISB_ENGINE_FAILED' })
})

test('no dockerd at all is told', async () => {
  socket = join(directory, 'none')
  await expect(send(['a:1'])).rejects.toThrow(`dockerd at ${socket} is not running (ENOENT)`)
  expect(() => checkDocker(socket)).toThrow(`dockerd at ${socket} is not running`)
})

test('DOCKER_HOST says where it is', () => {
  expect(dockerSocket({})).toBe('/var/run/docker.sock')
  expect(dockerSocket({ DOCKER_HOST: '' })).toBe('/var/run/docker.sock')
  expect(dockerSocket({ DOCKER_HOST: 'unix:///a/b' })).toBe('/a/b')
  expect(() => dockerSocket({ DOCKER_HOST: 'ssh://me@there' })).toThrow('not a unix socket')
})
