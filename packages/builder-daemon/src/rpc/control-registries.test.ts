import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { controlService } from '@isula-build/shared/rpc/control.js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Logger } from '../ports/logger.js'
import { createControlService } from './control-service.js'
import { createFakeCore, type FakeCore } from './fake-core.js'
import { createRpcServer, type RpcServer } from './server.js'
import { all, connectClient, failure, type TestClient } from './test-client.js'

const imageId = 'a'.repeat(64)
const silent: Logger = { debug() {}, info() {}, warn() {}, error() {} }
const transfer = { tlsVerify: undefined, retries: undefined, retryDelay: undefined }
const hex = (text: string): string => Buffer.from(text).toString('hex')

let directory = ''
let core: FakeCore
let server: RpcServer
let client: TestClient

async function serve(experimental: boolean): Promise<void> {
  directory = mkdtempSync(join(tmpdir(), 'isb-rpc-'))
  core = createFakeCore([], { experimental })
  server = await createRpcServer({
    socketPath: join(directory, 's'),
    group: undefined,
    services: [createControlService(core)],
    log: silent,
  })
  client = connectClient(join(directory, 's'))
}

beforeEach(() => serve(true))
afterEach(async () => {
  client.close()
  await server.close(0)
  rmSync(directory, { recursive: true, force: true })
})

describe('Login and Logout', () => {
  test('open the password and say what the original says', async () => {
    const request = { server: 'h:5000', username: 'u', password: hex('sécret') }
    expect(await client.unary(controlService.Login, request)).toEqual({ content: 'Login Succeeded' })
    expect(await client.unary(controlService.Login, { server: 'h' })).toEqual({
      content: 'Login Succeed with AuthFile',
    })
    expect(await client.unary(controlService.Logout, { server: 'h' })).toEqual({
      result: 'Removed authentication for h',
    })
    expect(await client.unary(controlService.Logout, { server: 'h', all: true })).toEqual({
      result: 'Removed authentications',
    })
    expect(core.calls).toEqual([
      ['login', { server: 'h:5000', credentials: { username: 'u', password: 'sécret' }, transfer }],
      ['login', { server: 'h', credentials: undefined, transfer }],
      ['logout', { kind: 'server', server: 'h' }],
      ['logout', { kind: 'all' }],
    ])
  })

  test('tell the client of the original when it has to ask for a password', async () => {
    const error = await failure(client.unary(controlService.Login, { server: 'denied' }))
    expect(error.code).toBe('ISB_REGISTRY_DENIED')
    // The words its client looks for.
    expect(error.message).toContain('Failed to authenticate existing credentials')
    expect(error.message).toContain('the registry says no')
    const wrong = { server: 'denied', username: 'u', password: hex('p') }
    expect((await failure(client.unary(controlService.Login, wrong))).message).toBe('the registry says no')
  })

  test.each([
    ['no server', {}, 'empty server address'],
    ['a user alone', { server: 'h', username: 'u' }, 'empty auth info'],
    ['a password alone', { server: 'h', password: hex('p') }, 'empty auth info'],
    ['an empty password', { server: 'h', username: 'u', password: '' }, 'empty auth info'],
    [
      'a long user',
      { server: 'h', username: 'u'.repeat(129), password: hex('p') },
      'length of input exceeded',
    ],
    [
      'a long password',
      { server: 'h', username: 'u', password: hex('p'.repeat(129)) },
      'length of input exceeded',
    ],
  ])('refuse %s', async (_, request, message) => {
    const error = await failure(client.unary(controlService.Login, request))
    expect([error.code, error.message]).toEqual(['ISB_ARGUMENT_INVALID', message])
    expect(core.calls).toEqual([])
  })

  test('refuse to log out of nothing', async () => {
    expect((await failure(client.unary(controlService.Logout, {}))).message).toBe('empty server address')
  })
})

describe('Pull and Push', () => {
  test('send the lines, and only these', async () => {
    expect(await all(client.stream(controlService.Pull, { pullID: 'p', imageName: 'h/a:1' }))).toEqual([
      { response: 'pull h/a:1\n' },
    ])
    expect(
      await all(client.stream(controlService.Push, { pushID: 'p', imageName: 'h/a:1', format: 'oci' })),
    ).toEqual([{ response: 'push h/a:1\n' }])
    expect(core.calls).toMatchObject([
      ['pull', { reference: 'h/a:1', platforms: [], policy: 'newer', transfer }],
      ['push', { image: 'h/a:1', destination: undefined, push: { format: 'oci' }, transfer }],
    ])
  })

  test('cannot ask this client for a login', async () => {
    expect(await all(client.stream(controlService.Pull, { imageName: 'ask-h' }))).toEqual([
      { response: 'pull ask-h\n' },
      { response: 'login none\n' },
    ])
  })

  test('show no control characters of what is quoted', async () => {
    const responses = await all(client.stream(controlService.Pull, { imageName: 'a\u001b]0;x\u0007\nPull' }))
    expect(responses).toEqual([{ response: 'pull a\\x1b]0;x\\x07\\x0aPull\n' }])
  })

  test('fail after what was said before', async () => {
    const lines: string[] = []
    const run = async (): Promise<void> => {
      for await (const { response } of client.stream(controlService.Pull, { imageName: 'denied' })) {
        lines.push(response)
      }
    }
    expect((await failure(run())).message).toBe('the registry says no')
    expect(lines).toEqual(['pull denied\n'])
  })

  test('refuse an unknown format and no name', async () => {
    const calls = [
      client.stream(controlService.Push, { imageName: 'a', format: 'zip' }),
      client.stream(controlService.Push, { format: 'oci' }),
      client.stream(controlService.Pull, {}),
    ]
    for (const call of calls) expect((await failure(all(call))).code).toBe('ISB_ARGUMENT_INVALID')
    expect(core.calls).toEqual([])
  })
})

describe('the manifest methods', () => {
  test('pass on what the original means', async () => {
    const create = { manifestList: 'l', manifests: ['h/a', 'h/b'] }
    expect(await client.unary(controlService.ManifestCreate, create)).toEqual({ imageID: imageId })
    const annotate = { manifestList: 'l', manifest: 'h/a', arch: 'arm64', osFeatures: ['x'] }
    await client.unary(controlService.ManifestAnnotate, annotate)
    const { data } = await client.unary(controlService.ManifestInspect, { manifestList: 'l' })
    expect(JSON.parse(Buffer.from(data).toString())).toEqual({ name: 'l' })
    const push = { manifestList: 'l', dest: 'h/l:1' }
    expect(await all(client.stream(controlService.ManifestPush, push))).toEqual([{ result: 'pushList l\n' }])
    expect(core.calls).toMatchObject([
      ['createList', { name: 'l', images: ['h/a', 'h/b'], format: 'docker', all: false, amend: false }],
      [
        'annotateList',
        { list: 'l', image: 'h/a', architecture: 'arm64', os: undefined, osFeatures: ['x'], annotations: {} },
      ],
      ['pushList', { list: 'l', destination: 'h/l:1', format: 'docker', all: true, purge: false }],
    ])
  })

  const calls = (): readonly Promise<unknown>[] => [
    client.unary(controlService.ManifestCreate, {}),
    client.unary(controlService.ManifestAnnotate, { manifestList: 'l' }),
    client.unary(controlService.ManifestInspect, {}),
    all(client.stream(controlService.ManifestPush, { manifestList: 'l' })),
  ]

  test('refuse what names nothing', async () => {
    const errors = await Promise.all(calls().map(failure))
    expect(errors.map(({ message }) => message)).toEqual([
      'please specify a name to manifest list',
      'please specify the manifest list and the image name',
      'please specify the manifest list name',
      'please specify the manifest list name and destination repository',
    ])
  })

  test('want the experimental mode of the daemon', async () => {
    client.close()
    await server.close(0)
    rmSync(directory, { recursive: true, force: true })
    await serve(false)
    for (const { code, message } of await Promise.all(calls().map(failure))) {
      expect([code, message]).toEqual([
        'ISB_UNSUPPORTED',
        'please enable experimental to use manifest feature',
      ])
    }
    expect(core.calls).toEqual([])
  })
})
