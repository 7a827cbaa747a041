import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Http2Server, type ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { CallError } from './call-status.js'
import { type GrpcCall, startCall } from './grpc-call.js'
import { type Http2Session, openSession } from './http2-session.js'

let root: string
let server: Http2Server
let session: Http2Session
/** The raw connections of the server. */
let sockets: Socket[]
let serve: (stream: ServerHttp2Stream) => void

async function restart(options: Parameters<typeof createServer>[0] = {}): Promise<void> {
  session?.close()
  server?.close()
  const path = join(mkdtempSync(join(root, 's-')), 'sock')
  server = createServer(options as object)
  sockets = []
  server.on('connection', (socket: Socket) => sockets.push(socket))
  server.on('stream', (stream) => {
    stream.on('error', () => undefined)
    serve(stream)
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  session = await openSession(path, 5000)
}

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'client-rpc-'))
  await restart()
})
afterEach(() => {
  session.close()
  server.close()
  rmSync(root, { recursive: true, force: true })
})

function message(bytes: Buffer): Buffer {
  const prefix = Buffer.alloc(5)
  prefix.writeUInt32BE(bytes.length, 1)
  return Buffer.concat([prefix, bytes])
}

function answer(stream: ServerHttp2Stream, body: Buffer, trailers: Record<string, string | string[]>): void {
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
  stream.on('wantTrailers', () => stream.sendTrailers(trailers))
  stream.end(body)
}

async function received(call: GrpcCall): Promise<readonly Buffer[]> {
  const found: Buffer[] = []
  for await (const one of call.messages) found.push(Buffer.from(one))
  return found
}

async function failure(call: GrpcCall): Promise<CallError> {
  const error = await received(call).catch((thrown: unknown) => thrown)
  if (error instanceof CallError) return error
  throw new Error(`no CallError: ${error}`)
}

const ok = { 'grpc-status': '0' }

test('messages come whole and in order, however they are cut', async () => {
  const sent = [0, 1, 5, 16_379, 16_384, 100_000, 3 << 20, 7].map((size, at) => Buffer.alloc(size, at + 1))
  serve = (stream) => answer(stream, Buffer.concat(sent.map(message)), ok)
  const call = startCall(session, '/a/b')
  call.end()
  const got = await received(call)
  expect(got.map(({ length }) => length)).toEqual(sent.map(({ length }) => length))
  expect(Buffer.concat(got).equals(Buffer.concat(sent))).toBe(true)
})

test('the server gets what was written, and the headers that gRPC asks for', async () => {
  const sent = [0, 3, 4096, 4097, 1 << 20, 12].map((size, at) => message(Buffer.alloc(size, at + 1)))
  let headers: Record<string, unknown> = {}
  const body = new Promise<Buffer>((resolve) => {
    serve = (stream) => {
      const parts: Buffer[] = []
      stream.on('data', (part: Buffer) => parts.push(part))
      stream.on('end', () => {
        answer(stream, Buffer.alloc(0), ok)
        resolve(Buffer.concat(parts))
      })
    }
  })
  server.on('stream', (_, given) => {
    headers = given
  })
  const call = startCall(session, '/isula.Service/Method')
  for (const one of sent) expect(await call.write(one.subarray(5))).toBe(true)
  call.end()
  await received(call)
  expect((await body).equals(Buffer.concat(sent))).toBe(true)
  expect(headers).toMatchObject({
    ':method': 'POST',
    ':path': '/isula.Service/Method',
    'content-type': 'application/grpc',
    te: 'trailers',
  })
})

test('a status comes with its message, and with bytes under binary names', async () => {
  const bytes = Buffer.from([0, 255, 128, 7])
  serve = (stream) =>
    answer(stream, Buffer.alloc(0), {
      'grpc-status': '5',
      'grpc-message': 'no %22image%22%0a%E2%82%AC',
      'x-bin': `${bytes.toString('base64').replace(/=+$/, '')}`,
    })
  const error = await failure(startCall(session, '/a/b'))
  expect([error.code, error.details]).toEqual([5, 'no "image"\n€'])
  expect(error.metadata?.get('x-bin')).toEqual([bytes])
  expect(error.metadata?.get('x-none-bin')).toEqual([])
})

test('every byte of a header value comes as it was sent', async () => {
  const printable = Array.from({ length: 95 }, (_, at) => String.fromCharCode(0x20 + at)).join('')
  const high = Array.from({ length: 128 }, (_, at) => String.fromCharCode(0x80 + at)).join('')
  const values = [...printable].map((one) => `eeeeeeeeeeeeeeee${one}e`)
  serve = (stream) => {
    const trailers: Record<string, string> = { 'grpc-status': '2', 'x-all': `-${printable}-` }
    for (const [at, value] of values.entries()) trailers[`x-${at}`] = value
    for (const [at, one] of [...high].entries()) trailers[`y-${at}`] = `${'e'.repeat(40)}${one}e`
    answer(stream, Buffer.alloc(0), trailers)
  }
  const { metadata } = await failure(startCall(session, '/a/b'))
  expect(metadata?.get('x-all')).toEqual([`-${printable}-`])
  for (const [at, value] of values.entries()) expect(metadata?.get(`x-${at}`)).toEqual([value])
  // Node.js writes what is not ASCII as it is in latin1.
  for (const [at, one] of [...high].entries()) {
    expect(metadata?.get(`y-${at}`)).toEqual([`${'e'.repeat(40)}${one}e`])
  }
})

test('trailers of many frames come whole', async () => {
  const long = 'z'.repeat(40_000)
  serve = (stream) => answer(stream, Buffer.alloc(0), { 'grpc-status': '13', 'x-long': long })
  expect((await failure(startCall(session, '/a/b'))).metadata?.get('x-long')).toEqual([long])
})

test('a status without an answer before it is taken', async () => {
  serve = (stream) => {
    stream.respond({ ':status': 200, 'grpc-status': '12', 'grpc-message': 'unknown' }, { endStream: true })
  }
  const error = await failure(startCall(session, '/a/b'))
  expect([error.code, error.details]).toEqual([12, 'unknown'])
})

test.each([
  [404, 12],
  [503, 14],
  [418, 2],
])('HTTP status %d without one of gRPC is %d', async (http, code) => {
  serve = (stream) => stream.respond({ ':status': http }, { endStream: true })
  expect((await failure(startCall(session, '/a/b'))).code).toBe(code)
})

test.each([
  [7, 14],
  [8, 1],
  [11, 8],
  [2, 13],
])('a reset with code %d is status %d', async (reset, code) => {
  serve = (stream) => stream.close(reset)
  expect((await failure(startCall(session, '/a/b'))).code).toBe(code)
})

test('a connection that breaks fails every call, and those begun later', async () => {
  let begun = 0
  const both = new Promise<void>((resolve) => {
    serve = () => {
      if (++begun === 2) resolve()
    }
  })
  const calls = [startCall(session, '/a/b'), startCall(session, '/a/c')]
  const failures = calls.map(failure)
  await both
  for (const socket of sockets) socket.destroy()
  expect((await Promise.all(failures)).map(({ code }) => code)).toEqual([14, 14])
  expect(await calls[0]?.write(Buffer.alloc(1))).toBe(false)
  expect((await failure(startCall(session, '/a/d'))).code).toBe(14)
})

test('calls under way outlive a GOAWAY, later ones do not begin', async () => {
  const streams: ServerHttp2Stream[] = []
  const begun = new Promise<void>((resolve) => {
    serve = (stream) => {
      streams.push(stream)
      resolve()
    }
  })
  const call = startCall(session, '/a/b')
  await begun
  const [stream] = streams
  stream?.session?.goaway(0)
  stream?.respond({ ':status': 200 }, { waitForTrailers: true })
  stream?.on('wantTrailers', () => stream.sendTrailers(ok))
  stream?.write(message(Buffer.from('late')))
  const { value } = await call.messages.next()
  expect(String(value)).toBe('late')
  expect((await failure(startCall(session, '/a/c'))).code).toBe(14)
  stream?.end()
  expect((await call.messages.next()).done).toBe(true)
})

describe('windows', () => {
  test('a writer waits for a server that does not read, and goes on when it does', async () => {
    let resume: () => void = () => undefined
    serve = (stream) => {
      stream.pause()
      resume = () => {
        stream.resume()
        stream.on('end', () => answer(stream, Buffer.alloc(0), ok))
      }
    }
    const call = startCall(session, '/a/b')
    const chunk = Buffer.alloc(1 << 20, 1)
    let written = 0
    const writing = (async () => {
      for (; written < 24; written++) await call.write(chunk)
      call.end()
    })()
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(written).toBeLessThan(2)
    resume()
    await writing
    expect(await received(call)).toEqual([])
  })

  test('a server waits for a client that does not read', async () => {
    let written = 0
    serve = (stream) => {
      stream.respond({ ':status': 200 }, { waitForTrailers: true })
      stream.on('wantTrailers', () => stream.sendTrailers(ok))
      const one = message(Buffer.alloc(100_000, 2))
      const more = (): void => {
        for (;;) {
          if (written === 100) return void stream.end()
          written++
          if (!stream.write(one)) return void stream.once('drain', more)
        }
      }
      more()
    }
    const call = startCall(session, '/a/b')
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(written).toBeLessThan(40)
    expect((await received(call)).length).toBe(100)
  })

  test('a server may change how much it takes at once', async () => {
    await restart({ settings: { initialWindowSize: 10, maxFrameSize: 1 << 20 } })
    const total = new Promise<number>((resolve) => {
      serve = (stream) => {
        let size = 0
        stream.on('data', (part: Buffer) => {
          size += part.length
        })
        stream.on('end', () => {
          answer(stream, Buffer.alloc(0), ok)
          resolve(size)
        })
      }
    })
    const call = startCall(session, '/a/b')
    expect(await call.write(Buffer.alloc(50_000), true)).toBe(true)
    expect(await received(call)).toEqual([])
    expect(await total).toBe(50_005)
  })

  test('more than the window of the connection is received', async () => {
    const one = message(Buffer.alloc(1 << 20))
    serve = (stream) => {
      stream.respond({ ':status': 200 }, { waitForTrailers: true })
      stream.on('wantTrailers', () => stream.sendTrailers(ok))
      let left = 100
      const more = (): void => {
        while (left-- > 0) if (!stream.write(one)) return void stream.once('drain', more)
        stream.end()
      }
      more()
    }
    const call = startCall(session, '/a/b')
    let count = 0
    for await (const { length } of call.messages) count += length
    expect(count).toBe(100 * (1 << 20))
  })
})

test('cancelling tells the server and ends the reader', async () => {
  const aborted = new Promise<number | undefined>((resolve) => {
    serve = (stream) => stream.on('close', () => resolve(stream.rstCode))
  })
  const call = startCall(session, '/a/b')
  const failed = failure(call)
  expect(await call.write(Buffer.from('x'))).toBe(true)
  call.cancel()
  expect((await failed).code).toBe(1)
  expect(await aborted).toBe(8)
  expect(await call.write(Buffer.from('x'))).toBe(false)
})

test('leaving the loop cancels', async () => {
  const aborted = new Promise<number | undefined>((resolve) => {
    serve = (stream) => {
      stream.respond({ ':status': 200 })
      stream.write(message(Buffer.from('one')))
      stream.on('close', () => resolve(stream.rstCode))
    }
  })
  for await (const one of startCall(session, '/a/b').messages) {
    expect(String(one)).toBe('one')
    break
  }
  expect(await aborted).toBe(8)
})

test('a writer is told when the server has ended the call', async () => {
  serve = (stream) => answer(stream, Buffer.alloc(0), { 'grpc-status': '8' })
  const call = startCall(session, '/a/b')
  const failed = failure(call)
  const chunk = Buffer.alloc(1 << 20)
  while (await call.write(chunk)) await new Promise((resolve) => setImmediate(resolve))
  expect((await failed).code).toBe(8)
})

test('a ping is answered', async () => {
  const answered = new Promise<Error | null>((resolve) => {
    serve = (stream) => stream.session?.ping((error) => resolve(error))
  })
  startCall(session, '/a/b')
  expect(await answered).toBe(null)
})

test('many calls at once do not mix', async () => {
  serve = (stream) => {
    const parts: Buffer[] = []
    stream.on('data', (part: Buffer) => parts.push(part))
    stream.on('end', () => answer(stream, Buffer.concat(parts), ok))
  }
  const sizes = Array.from({ length: 50 }, (_, at) => at * 3001)
  const got = await Promise.all(
    sizes.map(async (size, at) => {
      const call = startCall(session, '/a/b')
      await call.write(Buffer.alloc(size, at), true)
      return await received(call)
    }),
  )
  for (const [at, size] of sizes.entries()) {
    expect(got[at]?.map((bytes) => bytes.equals(Buffer.alloc(size, at)))).toEqual([true])
  }
})

test('a message that claims to be compressed fails the call', async () => {
  serve = (stream) => answer(stream, Buffer.from([1, 0, 0, 0, 0]), ok)
  expect((await failure(startCall(session, '/a/b'))).code).toBe(13)
})

test('half a message fails the call', async () => {
  serve = (stream) => answer(stream, message(Buffer.from('whole')).subarray(0, 7), ok)
  expect((await failure(startCall(session, '/a/b'))).code).toBe(13)
})
