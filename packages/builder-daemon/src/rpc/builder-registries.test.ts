import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Logger } from '../ports/logger.js'
import { createBuilderService } from './builder-service.js'
import { createFakeCore, type FakeCore } from './fake-core.js'
import { createRpcServer, type RpcServer } from './server.js'
import { all, connectClient, drain, failure, pause, type TestClient } from './test-client.js'

const imageId = 'a'.repeat(64)
const digest = `sha256:${'d'.repeat(64)}`
const silent: Logger = { debug() {}, info() {}, warn() {}, error() {} }
const unspecified = { tlsVerify: undefined, retries: undefined, retryDelay: undefined }

let directory = ''
let core: FakeCore
let server: RpcServer
let client: TestClient

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'isb-rpc-'))
  core = createFakeCore()
  server = await createRpcServer({
    socketPath: join(directory, 's'),
    group: undefined,
    services: [createBuilderService(core)],
    log: silent,
  })
  client = connectClient(join(directory, 's'))
})

afterEach(async () => {
  client.close()
  await server.close(0)
  rmSync(directory, { recursive: true, force: true })
})

/** A pull whose client knows these logins, by host; gives its events. */
async function pull(reference: string, logins: Readonly<Record<string, string>> = {}) {
  const { call, responses } = client.duplex(builderService.Pull)
  call.write({ payload: { case: 'options', value: { reference } } })
  const events: unknown[] = []
  for await (const { event } of responses) {
    if (event?.case !== 'needCredentials') {
      events.push(event)
      continue
    }
    const { question, host } = event.value
    const password = logins[host]
    const credentials = password === undefined ? undefined : { username: 'u', password }
    call.write({ payload: { case: 'credentials', value: { question, credentials } } })
  }
  return events
}

const log = (value: string) => ({ case: 'log', value })

describe('Pull', () => {
  test('tells how it goes and what is in the store then', async () => {
    expect(await pull('h/a:1')).toEqual([
      log('pull h/a:1'),
      { case: 'progress', value: { digest, done: 1, total: 2 } },
      { case: 'stored', value: { id: imageId, names: ['a:1'], digest } },
    ])
  })

  test('asks its client for logins', async () => {
    const events = await pull('ask-h+ask-other+ask-h', { h: 'secret' })
    expect(events.slice(1, 4)).toEqual([
      log('login {"username":"u","password":"secret","explicit":false}'),
      log('login none'),
      log('login {"username":"u","password":"secret","explicit":false}'),
    ])
  })

  test('takes a client that has ended its side as one without logins', async () => {
    const { call, responses } = client.duplex(builderService.Pull)
    call.write({ payload: { case: 'options', value: { reference: 'ask-h' } } })
    call.end()
    expect((await all(responses)).map(({ event }) => event)).toContainEqual(log('login none'))
  })

  test('passes every option on', async () => {
    const requests = [
      {
        reference: 'a',
        platforms: ['linux/arm64'],
        policy: 'always',
        transfer: { tlsVerify: true, retries: 3, retryDelay: 2000 },
      },
      { reference: 'a', allPlatforms: true },
    ]
    for (const value of requests) {
      const { call, responses } = client.duplex(builderService.Pull)
      call.write({ payload: { case: 'options', value } })
      await drain(responses)
    }
    expect(core.calls).toEqual([
      ['pull', requests[0]],
      ['pull', { reference: 'a', platforms: 'all', policy: 'missing', transfer: unspecified }],
    ])
  })

  test('stops when its client goes', async () => {
    const { call, responses } = client.duplex(builderService.Pull)
    call.write({ payload: { case: 'options', value: { reference: 'wait' } } })
    await responses.next()
    call.cancel()
    expect((await failure(drain(responses))).code).toBe('ISB_CANCELLED')
    await server.close(2000)
  })

  test.each([
    ['an answer to nothing', { question: 7 }, 'nobody asked question 7'],
    [
      'an answer twice',
      { question: 1, credentials: { username: 'u', password: 'p' } },
      'nobody asked question 1',
    ],
  ])('ends with %s', async (_, value, message) => {
    const { call, responses } = client.duplex(builderService.Pull)
    call.write({ payload: { case: 'options', value: { reference: 'ask-h+wait' } } })
    for await (const { event } of { [Symbol.asyncIterator]: () => responses }) {
      if (event?.case !== 'needCredentials') continue
      call.write({ payload: { case: 'credentials', value } })
      if (value.question === 1) {
        await pause(50)
        call.write({ payload: { case: 'credentials', value } })
      }
      const error = await failure(drain(responses))
      expect([error.code, error.message]).toEqual(['ISB_ARGUMENT_INVALID', message])
      return
    }
    throw new Error('it asked nothing')
  })

  test('refuses a login too long to be one', async () => {
    const { call, responses } = client.duplex(builderService.Pull)
    call.write({ payload: { case: 'options', value: { reference: 'ask-h' } } })
    const run = async (): Promise<void> => {
      for await (const { event } of responses) {
        if (event?.case !== 'needCredentials') continue
        const credentials = { username: 'u', password: 'p'.repeat(64 * 1024 + 1) }
        call.write({ payload: { case: 'credentials', value: { question: 1, credentials } } })
      }
    }
    const error = await failure(run())
    expect(error.message).toBe('a user name or password is longer than 65536 characters')
  })

  test.each([
    ['no name', {}, 'no image to pull'],
    [
      'all platforms and one',
      { reference: 'a', allPlatforms: true, platforms: ['linux'] },
      'give platforms or ask for all, not both',
    ],
    ['an unknown policy', { reference: 'a', policy: 'x' }, 'pull policy "x" is not supported'],
    [
      'an endless delay',
      { reference: 'a', transfer: { retryDelay: 3_600_001 } },
      'the delay before a retry is longer than an hour',
    ],
  ])('refuses %s', async (_, value, message) => {
    const { call, responses } = client.duplex(builderService.Pull)
    call.write({ payload: { case: 'options', value } })
    const error = await failure(drain(responses))
    expect([error.code, error.message]).toEqual(['ISB_ARGUMENT_INVALID', message])
    expect(core.calls).toEqual([])
  })

  test('begins with options, which come once', async () => {
    const early = client.duplex(builderService.Pull)
    early.call.write({ payload: { case: 'credentials', value: { question: 1 } } })
    expect((await failure(drain(early.responses))).message).toBe('the first frame of a pull is its options')
    const twice = client.duplex(builderService.Pull)
    for (let time = 0; time < 2; time++) {
      twice.call.write({ payload: { case: 'options', value: { reference: 'wait' } } })
    }
    expect((await failure(drain(twice.responses))).message).toBe(
      'after the options of a pull only answers follow',
    )
  })
})

test('Push passes its options on and tells what was pushed', async () => {
  const { call, responses } = client.duplex(builderService.Push)
  const push = { format: 'oci', compression: 'zstd', level: 7 }
  call.write({ payload: { case: 'options', value: { image: 'a', destination: 'h/a', push } } })
  expect((await all(responses)).at(-1)?.event).toEqual({
    case: 'pushed',
    value: { reference: 'a', digest, size: 3 },
  })
  expect(core.calls).toMatchObject([
    ['push', { image: 'a', destination: 'h/a', push, transfer: unspecified }],
  ])
})

test('Push refuses an unknown compression', async () => {
  const { call, responses } = client.duplex(builderService.Push)
  call.write({ payload: { case: 'options', value: { image: 'a', push: { compression: 'lzma' } } } })
  expect((await failure(drain(responses))).message).toBe('compression "lzma" is not supported')
})

test('Login and Logout pass their requests on', async () => {
  const credentials = { username: 'u', password: 'p' }
  await client.unary(builderService.Login, { server: 'h/n', credentials, transfer: { tlsVerify: false } })
  await client.unary(builderService.Login, { server: 'h' })
  await client.unary(builderService.Logout, { server: 'h' })
  await client.unary(builderService.Logout, { all: true })
  expect(core.calls).toEqual([
    ['login', { server: 'h/n', credentials, transfer: { ...unspecified, tlsVerify: false } }],
    ['login', { server: 'h', credentials: undefined, transfer: unspecified }],
    ['logout', { kind: 'server', server: 'h' }],
    ['logout', { kind: 'all' }],
  ])
  expect((await failure(client.unary(builderService.Login, { server: 'denied' }))).code).toBe(
    'ISB_REGISTRY_DENIED',
  )
  for (const request of [{}, { server: 'h', all: true }]) {
    expect((await failure(client.unary(builderService.Logout, request))).code).toBe('ISB_ARGUMENT_INVALID')
  }
})

test('the manifest list methods pass their requests on', async () => {
  const create = client.duplex(builderService.CreateManifestList)
  const list = { name: 'l', images: ['ask'], format: 'oci', all: true, amend: true }
  create.call.write({ payload: { case: 'options', value: list } })
  const created: unknown[] = []
  for await (const { event } of create.responses) {
    created.push(event)
    if (event?.case !== 'needCredentials') continue
    create.call.write({ payload: { case: 'credentials', value: { question: event.value.question } } })
  }
  expect(created).toEqual([
    { case: 'needCredentials', value: { question: 1, host: 'h', repository: 'r', named: '' } },
    { case: 'id', value: imageId },
  ])

  const annotate = client.duplex(builderService.AnnotateManifestList)
  const entry = { list: 'l', image: 'i', osVersion: '1', annotations: new Map([['k', 'v']]) }
  annotate.call.write({ payload: { case: 'options', value: entry } })
  expect((await all(annotate.responses)).map(({ event }) => event?.case)).toEqual(['done'])

  const { document } = await client.unary(builderService.InspectManifestList, { name: 'l' })
  expect(JSON.parse(Buffer.from(document).toString())).toEqual({ name: 'l' })

  const push = client.duplex(builderService.PushManifestList)
  const to = { list: 'l', destination: 'h/l', all: true, purge: true }
  push.call.write({ payload: { case: 'options', value: to } })
  expect((await all(push.responses)).at(-1)?.event?.case).toBe('pushed')
  await client.unary(builderService.RemoveManifestList, { name: 'l' })

  expect(core.calls).toMatchObject([
    ['createList', { ...list, transfer: unspecified }],
    [
      'annotateList',
      { list: 'l', image: 'i', os: undefined, osVersion: '1', osFeatures: [], annotations: { k: 'v' } },
    ],
    ['pushList', { ...to, format: undefined, transfer: unspecified }],
    ['removeList', 'l'],
  ])
})
