import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { createRequire } from 'node:module'
import { connect } from 'node:net'
import { promisify } from 'node:util'
import { credentials, Client as GrpcClient, Metadata, status } from '@grpc/grpc-js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { controlService } from '@isula-build/shared/rpc/control.js'
import { describe, expect, test } from 'vitest'
import { useRpcServer } from '../../../../test/support/rpc-bench.js'
import { drain, failure } from './test-client.js'

const isRoot = process.getuid?.() === 0

const bench = useRpcServer()
const { client, serve } = bench

describe('the caller', () => {
  test('is who connected, in this mount namespace', async () => {
    await serve()
    const { dataRoot } = await client().unary(controlService.Info, {})
    expect(JSON.parse(dataRoot)).toMatchObject({
      uid: process.getuid?.(),
      gid: process.getgid?.(),
      pid: process.pid,
      sameMountNamespace: true,
    })
  })

  test.skipIf(!isRoot)('is another user with his groups when another user calls', async () => {
    await serve({ group: 54_321 })
    const { dataRoot, pid } = await callAs(['--reuid=12345', '--regid=12346', '--groups=54321,54322'])
    expect(JSON.parse(dataRoot)).toEqual({
      uid: 12_345,
      gid: 12_346,
      pid,
      groups: [54_321, 54_322],
      sameMountNamespace: true,
    })
  })

  test.skipIf(!isRoot)('from another mount namespace is seen to be there', async () => {
    await serve()
    const { dataRoot } = await callAs([], ['unshare', '--mount'])
    expect(JSON.parse(dataRoot)).toMatchObject({ uid: 0, sameMountNamespace: false })
  })

  test.skipIf(!isRoot)('outside the group cannot connect', async () => {
    await serve({ group: 54_321 })
    await expect(callAs(['--reuid=12345', '--regid=12345', '--clear-groups'])).rejects.toThrow(/EACCES/)
  })

  /** Runs a client of its own as somebody else. */
  async function callAs(
    identity: string[],
    before: string[] = [],
  ): Promise<{ dataRoot: string; pid: number }> {
    const grpc = createRequire(import.meta.url).resolve('@grpc/grpc-js')
    const script = `
      const { Client, credentials } = require(${JSON.stringify(grpc)})
      const client = new Client('unix://' + process.argv[1], credentials.createInsecure())
      const same = (bytes) => bytes
      client.makeUnaryRequest('/isula.build.v1.Control/Info', same, same, Buffer.alloc(0), (error, value) => {
        if (error) { console.error(error.details); process.exit(1) }
        console.log(JSON.stringify({ pid: process.pid, hex: value.toString('hex') }))
        client.close()
      })`
    const argv = [...before, 'setpriv', ...identity, process.execPath, '-e', script, bench.socketPath]
    const { stdout } = await promisify(execFile)(argv[0] ?? '', argv.slice(1), { cwd: '/' })
    const { pid, hex } = JSON.parse(stdout)
    return { pid, dataRoot: controlService.Info.responseDeserialize(Buffer.from(hex, 'hex')).dataRoot }
  }
})

describe('errors', () => {
  test('of the core reach the client whole', async () => {
    await serve()
    const { call, responses } = client().duplex(builderService.Build)
    call.write({
      payload: {
        case: 'options',
        value: {
          dockerfile: { name: 'D', content: Buffer.from('FAIL it broke') },
          context: { source: { case: 'directory', value: { path: '/c' } } },
        },
      },
    })
    const error = await failure(drain(responses))
    expect(error).toMatchObject({ code: 'ISB_STEP_FAILED', message: 'it broke' })
    expect(error.details).toMatchObject({ exitCode: 3, logTail: ['last words'] })
  })

  test('nobody foresaw reach only the log', async () => {
    await serve()
    const { call, responses } = client().duplex(builderService.Build)
    call.write({
      payload: {
        case: 'options',
        value: {
          dockerfile: { name: 'D', content: Buffer.from('CRASH secret place') },
          context: { source: { case: 'directory', value: { path: '/c' } } },
        },
      },
    })
    const error = await failure(drain(responses))
    expect(error.code).toBe('ISB_INTERNAL')
    const id = /^internal error ([0-9a-f]{8})$/.exec(error.message)?.[1]
    const entry = bench.logged.find(({ event, fields }) => event === 'rpc.internal' && fields?.['id'] === id)
    expect(entry).toMatchObject({
      level: 'error',
      fields: { error: expect.stringContaining('secret place') },
    })
    expect(await client().unary(controlService.HealthCheck, {})).toEqual({ status: 'SERVING' })
  })

  test('carry a gRPC status that any client understands', async () => {
    await serve()
    const raw = new GrpcClient(`unix://${bench.socketPath}`, credentials.createInsecure())
    const same = (bytes: Buffer): Buffer => bytes
    const request = controlService.Tag.requestSerialize({ image: 'missing', tag: 'x' })
    const got = await new Promise<{ code: number; details: string } | null>((resolve) => {
      raw.makeUnaryRequest(controlService.Tag.path, same, same, request, new Metadata(), (error) =>
        resolve(error),
      )
    })
    raw.close()
    expect(got).toMatchObject({ code: status.NOT_FOUND, details: 'no image "missing"' })
  })
})

describe('hostile peers', () => {
  test('sending too large a message are refused, others are served', async () => {
    await serve()
    const error = await failure(client().unary(controlService.Tag, { image: 'x'.repeat(5 << 20) }))
    expect(error.code).toBe('ISB_LIMIT_EXCEEDED')
    expect(await client().unary(controlService.HealthCheck, {})).toEqual({ status: 'SERVING' })
  })

  test('sending garbage in place of a message or of HTTP/2 harm nobody', async () => {
    await serve()
    const raw = new GrpcClient(`unix://${bench.socketPath}`, credentials.createInsecure())
    const same = (bytes: Buffer): Buffer => bytes
    for (const method of [controlService.Build, controlService.Tag, builderService.Prune]) {
      const code = await new Promise<number | undefined>((resolve) => {
        raw.makeUnaryRequest(method.path, same, same, Buffer.from('0a05ff', 'hex'), (error) =>
          resolve(error?.code),
        )
      })
      expect(code).toBe(status.INTERNAL)
    }
    raw.close()
    for (const bytes of [
      'GET / HTTP/1.1\r\n\r\n',
      '\0'.repeat(1000),
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff',
    ]) {
      const socket = connect(bench.socketPath)
      socket.on('error', () => undefined)
      socket.resume()
      socket.write(bytes, 'latin1')
      socket.end()
      await once(socket, 'close')
    }
    expect(await client().unary(controlService.HealthCheck, {})).toEqual({ status: 'SERVING' })
  })

  test('get only so many connections', async () => {
    await serve({ limits: { connectionsPerUid: 3 } })
    const sockets = Array.from({ length: 5 }, () => connect(bench.socketPath))
    const closed = sockets.map((socket) => {
      socket.on('error', () => undefined)
      socket.resume()
      return new Promise<boolean>((resolve) => {
        socket.once('close', () => resolve(true))
        setTimeout(() => resolve(false), 300)
      })
    })
    expect((await Promise.all(closed)).filter(Boolean)).toHaveLength(2)
    expect(bench.logged.filter(({ event }) => event === 'rpc.too-many-connections')).toHaveLength(2)
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(await client().unary(controlService.HealthCheck, {})).toEqual({ status: 'SERVING' })
  })

  test('get only so many calls', async () => {
    await serve({ limits: { callsPerUid: 2 } })
    const one = client()
    const watching = ['a', 'b'].map((buildID) => one.stream(controlService.Status, { buildID }))
    const waiting = watching.map((stream) => stream.next())
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect((await failure(one.unary(controlService.HealthCheck, {}))).code).toBe('ISB_LIMIT_EXCEEDED')
    one.close()
    await Promise.allSettled(waiting)
  })

  test('that do not read hold only their own call back', async () => {
    await serve()
    const one = client()
    const save = one.stream(builderService.Save, {
      images: ['a'],
      destination: { case: 'stream', value: {} },
    })
    expect((await save.next()).value).toEqual({ event: { case: 'log', value: 'saving' } })
    let before = -1
    while (bench.core.savedChunks() !== before) {
      before = bench.core.savedChunks()
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    expect(before).toBeLessThan(40)
    expect(await one.unary(controlService.HealthCheck, {})).toEqual({ status: 'SERVING' })
    await drain(save)
    expect(bench.core.savedChunks()).toBe(40)
  })

  test('sending a small message that inflates to a large one are refused', async () => {
    await serve()
    const raw = new GrpcClient(`unix://${bench.socketPath}`, credentials.createInsecure(), {
      'grpc.default_compression_algorithm': 2,
      'grpc.max_send_message_length': -1,
    })
    const same = (bytes: Buffer): Buffer => bytes
    const code = await new Promise<number | undefined>((resolve) => {
      raw.makeUnaryRequest(controlService.Tag.path, same, same, Buffer.alloc(30 << 20), (error) =>
        resolve(error?.code),
      )
    })
    raw.close()
    expect(code).toBe(status.RESOURCE_EXHAUSTED)
    expect(await client().unary(controlService.HealthCheck, {})).toEqual({ status: 'SERVING' })
  })

  test('opening and resetting streams as fast as they can are cut off, others are served', async () => {
    await serve()
    const session = connectHttp2('http://localhost', { createConnection: () => connect(bench.socketPath) })
    session.on('error', () => undefined)
    for (let round = 0; round < 50 && !session.destroyed; round++) {
      for (let index = 0; index < 100 && !session.destroyed && !session.closed; index++) {
        const stream = session.request({
          ':method': 'POST',
          ':path': controlService.Status.path,
          'content-type': 'application/grpc',
        })
        stream.on('error', () => undefined)
        stream.close(8)
      }
      await new Promise((resolve) => setImmediate(resolve))
    }
    const began = performance.now()
    expect(await client().unary(controlService.HealthCheck, {})).toEqual({ status: 'SERVING' })
    expect(performance.now() - began).toBeLessThan(1_000)
    session.destroy()
  })
})

describe('closing', () => {
  test('lets calls under way finish and takes no new ones', async () => {
    const running = await serve()
    const one = client()
    const { call, responses } = one.duplex(builderService.Load)
    call.write({
      payload: {
        case: 'options',
        value: { source: { case: 'archive', value: { source: { case: 'stream', value: {} } } } },
      },
    })
    const first = responses.next()
    while (bench.core.calls.length === 0) await new Promise((resolve) => setTimeout(resolve, 10))
    const closed = running.close(10_000)
    expect((await failure(one.unary(controlService.HealthCheck, {}))).code).toBe('ISB_SHUTTING_DOWN')
    call.write({ payload: { case: 'chunk', value: Buffer.from('abc') } })
    call.end()
    expect((await first).value).toEqual({ event: { case: 'log', value: 'load abc' } })
    expect((await responses.next()).value).toMatchObject({ event: { case: 'image' } })
    expect((await responses.next()).done).toBe(true)
    const began = performance.now()
    await closed
    expect(performance.now() - began).toBeLessThan(2_000)
  })

  test('aborts what outlasts its grace, and tells the client why', async () => {
    const running = await serve()
    const { call, responses } = client().duplex(builderService.Build)
    call.write({
      payload: {
        case: 'options',
        value: {
          dockerfile: { name: 'D', content: Buffer.from('WAIT') },
          context: { source: { case: 'directory', value: { path: '/c' } } },
        },
      },
    })
    await responses.next()
    const began = performance.now()
    const ended = failure(drain(responses))
    await running.close(50)
    expect((await ended).code).toBe('ISB_SHUTTING_DOWN')
    expect(performance.now() - began).toBeLessThan(4_000)
    expect(bench.core.started[0]?.signal.aborted).toBe(true)
  })
})

test('a client that vanishes aborts its calls', async () => {
  await serve()
  const one = client()
  const { call, responses } = one.duplex(builderService.Build)
  call.write({
    payload: {
      case: 'options',
      value: {
        dockerfile: { name: 'D', content: Buffer.from('WAIT') },
        context: { source: { case: 'directory', value: { path: '/c' } } },
      },
    },
  })
  await responses.next()
  const signal = bench.core.started[0]?.signal
  expect(signal?.aborted).toBe(false)
  const aborted = new Promise((resolve) => signal?.addEventListener('abort', resolve))
  call.cancel()
  await aborted
  expect(signal?.reason).toMatchObject({ code: 'ISB_CANCELLED' })
  await failure(drain(responses))
})
