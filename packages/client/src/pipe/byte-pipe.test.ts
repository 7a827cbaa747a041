import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type BytePipe, type PipeEvents, pipeOverSocket } from './byte-pipe.js'
import { nativeHandles, pipeOverHandle } from './native-pipe.js'

let root: string
let path: string
let server: Server
let serve: (socket: Socket) => void
const open: BytePipe[] = []
const accepted: Socket[] = []

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'byte-pipe-'))
  path = join(root, 'sock')
  server = createServer((socket) => {
    socket.on('error', () => undefined)
    accepted.push(socket)
    serve(socket)
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
})
afterEach(() => {
  for (const pipe of open.splice(0)) pipe.destroy()
  for (const socket of accepted.splice(0)) socket.destroy()
  server.close()
  rmSync(root, { recursive: true, force: true })
})

function connectNative(to: string, events: PipeEvents): BytePipe {
  const handles = nativeHandles()
  if (handles === undefined) throw new Error('this Node.js has other handles')
  return pipeOverHandle(handles, { path: to }, events)
}

const kinds = {
  'over what net is made of': connectNative,
  'over net': (to: string, events: PipeEvents) => pipeOverSocket(createConnection(to), events),
}

interface Heard {
  readonly pipe: BytePipe
  readonly chunks: Buffer[]
  readonly drains: () => number
  /** How often its end was told. */
  readonly ends: () => number
  readonly closed: Promise<NodeJS.ErrnoException | undefined>
}

function connect(kind: keyof typeof kinds, to = path): Heard {
  const chunks: Buffer[] = []
  let drains = 0
  let ends = 0
  let pipe: BytePipe | undefined
  const closed = new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
    pipe = kinds[kind](to, {
      data: (bytes) => chunks.push(Buffer.from(bytes)),
      drained: () => drains++,
      closed(error) {
        ends++
        resolve(error)
      },
    })
  })
  if (pipe === undefined) throw new Error('no pipe')
  open.push(pipe)
  return { pipe, chunks, closed, drains: () => drains, ends: () => ends }
}

async function until(isTrue: () => boolean): Promise<void> {
  for (let tries = 0; !isTrue() && tries < 500; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  expect(isTrue()).toBe(true)
}

describe.each(Object.keys(kinds) as (keyof typeof kinds)[])('a pipe %s', (kind) => {
  test('says what was written before it stood and after, in order, and hears the answer', async () => {
    serve = (socket) => socket.pipe(socket)
    const { pipe, chunks } = connect(kind)
    pipe.write([Buffer.from('one '), Buffer.from('two ')])
    pipe.write([Buffer.from('three ')])
    await until(() => Buffer.concat(chunks).toString() === 'one two three ')
    pipe.write([Buffer.from('four')])
    await until(() => Buffer.concat(chunks).toString() === 'one two three four')
    expect(pipe.waiting).toBe(0)
  })

  test('counts what a peer that does not read leaves behind, and tells when it is gone', async () => {
    serve = (socket) => socket.pause()
    const { pipe, drains } = connect(kind)
    const parts = Array.from({ length: 40 }, (_, at) => Buffer.alloc(100_000, at))
    pipe.write(parts)
    await until(() => accepted.length === 1)
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(pipe.waiting).toBeGreaterThan(1_000_000)
    expect(drains()).toBe(0)
    const got: Buffer[] = []
    accepted[0]?.on('data', (bytes: Buffer) => got.push(bytes)).resume()
    await until(() => drains() > 0)
    expect(pipe.waiting).toBe(0)
    await until(() => Buffer.concat(got).length === 4_000_000)
    expect(Buffer.concat(got).equals(Buffer.concat(parts))).toBe(true)
  })

  test('lets everything leave before it ends, and says nothing of its own end', async () => {
    const got: Buffer[] = []
    let isOver = false
    serve = (socket) => {
      socket.pause()
      setTimeout(() => socket.on('data', (bytes: Buffer) => got.push(bytes)).resume(), 30)
      socket.on('end', () => {
        isOver = true
      })
    }
    const { pipe, closed } = connect(kind)
    pipe.write([Buffer.alloc(3_000_000, 7)])
    pipe.end()
    pipe.end()
    await until(() => isOver)
    expect(Buffer.concat(got).length).toBe(3_000_000)
    const quiet = new Promise((resolve) => setTimeout(resolve, 20, 'quiet'))
    expect(await Promise.race([closed, quiet])).toBe('quiet')
  })

  test('tells that the peer has ended', async () => {
    serve = (socket) => socket.end('bye')
    const { chunks, closed } = connect(kind)
    expect(await closed).toBeUndefined()
    expect(Buffer.concat(chunks).toString()).toBe('bye')
  })

  test('tells why nobody is there, whatever was written', async () => {
    const missing = connect(kind, join(root, 'nothing'))
    missing.pipe.write([Buffer.from('lost')])
    expect((await missing.closed)?.code).toBe('ENOENT')
    const stale = join(root, 'stale')
    const script = `require('node:net').createServer().listen(${JSON.stringify(stale)}, () => process.exit())`
    spawnSync(process.execPath, ['-e', script])
    const refused = connect(kind, stale)
    refused.pipe.write([Buffer.from('lost')])
    expect((await refused.closed)?.code).toBe('ECONNREFUSED')
  })

  test('tells of a peer that is gone when it writes on, once', async () => {
    serve = (socket) => setTimeout(() => socket.destroy(), 10)
    const { pipe, closed, ends } = connect(kind)
    const writing = setInterval(() => pipe.write([Buffer.alloc(300_000)]), 1)
    try {
      const error = await closed
      expect([undefined, 'EPIPE', 'ECONNRESET']).toContain(error?.code)
      await new Promise((resolve) => setTimeout(resolve, 30))
      pipe.destroy()
      await new Promise((resolve) => setTimeout(resolve, 10))
      expect(ends()).toBe(1)
    } finally {
      clearInterval(writing)
    }
  })
})

test('what a deprecation would be told of is not used', () => {
  const before = process.env['NODE_PENDING_DEPRECATION']
  try {
    process.env['NODE_PENDING_DEPRECATION'] = '1'
    expect(nativeHandles()).toBeUndefined()
  } finally {
    if (before === undefined) delete process.env['NODE_PENDING_DEPRECATION']
    else process.env['NODE_PENDING_DEPRECATION'] = before
  }
})
