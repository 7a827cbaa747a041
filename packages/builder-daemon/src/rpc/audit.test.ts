import { mkdtempSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client, credentials, Metadata, status } from '@grpc/grpc-js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { controlService } from '@isula-build/shared/rpc/control.js'
import type { AnyMethod } from '@isula-build/shared/rpc/service.js'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { AuditEntry } from '../ports/audit.js'
import type { Membership } from '../ports/membership.js'
import { createBuilderService } from './builder-service.js'
import { createControlService } from './control-service.js'
import { createFakeCore, type FakeCore } from './fake-core.js'
import { createRpcServer, type RpcServer, type RpcServerOptions } from './server.js'
import { connectClient, drain, failure, pause, type TestClient } from './test-client.js'

const imageId = 'a'.repeat(64)
const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined }

let directory = ''
let socketPath = ''
let core: FakeCore
let server: RpcServer | undefined
let entries: AuditEntry[] = []
const clients: { close(): void }[] = []

async function serve(options: Partial<RpcServerOptions> = {}): Promise<TestClient> {
  server = await createRpcServer({
    ...{ socketPath, group: undefined, log: quiet, audit: { write: (entry) => entries.push(entry) } },
    services: [createControlService(core), createBuilderService(core)],
    ...options,
  })
  const client = connectClient(socketPath)
  clients.push(client)
  return client
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isb-audit-'))
  socketPath = join(directory, 'builder.sock')
  core = createFakeCore()
  entries = []
})
afterEach(async () => {
  for (const one of clients.splice(0)) one.close()
  await server?.close(0)
  server = undefined
  rmSync(directory, { recursive: true, force: true })
})

const options = (dockerfile: string, more: object = {}) => ({
  payload: {
    case: 'options' as const,
    value: {
      dockerfile: { name: 'D', content: Buffer.from(dockerfile) },
      context: { source: { case: 'directory' as const, value: { path: '/c' } } },
      ...more,
    },
  },
})

async function entered(count: number): Promise<readonly AuditEntry[]> {
  for (let round = 0; entries.length < count; round++) {
    if (round > 300) throw new Error(`only ${entries.length} entries`)
    await pause(10)
  }
  return entries
}

/** Bytes as they are; gives the status. */
function raw(method: AnyMethod, bytes: Buffer, settings: object = {}): Promise<number> {
  const client = new Client(`unix://${socketPath}`, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
    'grpc.max_send_message_length': -1,
    ...settings,
  })
  clients.push(client)
  const same = (value: Buffer): Buffer => value
  return new Promise((resolve) => {
    client.makeUnaryRequest(method.path, same, same, bytes, new Metadata(), (error) =>
      resolve(error?.code ?? 0),
    )
  })
}

test('a call that changes something is recorded with its caller, its program and its end', async () => {
  const client = await serve()
  await client.unary(builderService.Tag, { image: 'a:1', name: 'b:2' })
  await failure(client.unary(controlService.Tag, { image: 'missing', tag: 'x' }))
  const who = {
    ...{ uid: process.getuid?.(), gid: process.getgid?.(), pid: process.pid },
    ...{ exe: readlinkSync('/proc/self/exe'), connection: 1, ms: expect.any(Number) },
  }
  expect(entries).toEqual([
    {
      ...{ ...who, service: 'isula.builder.v1.Builder', method: 'Tag', outcome: 'ok' },
      ...{ images: ['a:1', 'b:2'], results: [] },
    },
    {
      ...{ ...who, service: 'isula.build.v1.Control', method: 'Tag', outcome: 'ISB_IMAGE_NOT_FOUND' },
      ...{ images: ['missing', 'x'], results: [] },
    },
  ])
})

test('looking at what everybody may see is not recorded', async () => {
  const client = await serve()
  await client.unary(controlService.HealthCheck, {})
  await client.unary(controlService.Version, {})
  await client.unary(controlService.Info, {})
  await client.unary(controlService.List, {})
  await client.unary(builderService.Images, {})
  await client.unary(builderService.ListBuilds, {})
  await client.unary(builderService.Version, {})
  expect(entries).toEqual([])
})

test('a build is one entry at its end, without the values of its arguments and secrets', async () => {
  const client = await serve()
  const { call, responses } = client.duplex(builderService.Build)
  call.write(
    options('SAY hello-s3cret', {
      ...{ tags: ['app:1'], capAdd: ['CAP_SYS_ADMIN'], network: 'none', isolation: 'chroot' },
      buildArgs: new Map([['TOKEN', 'argument-s3cret']]),
      env: new Map([['KEY', 'environment-s3cret']]),
      labels: new Map([['l', 'label-s3cret']]),
      secrets: [{ id: 'one', value: Buffer.from('file-s3cret') }],
      outputs: [{ type: 'oci-archive', name: 'out:1', destination: { case: 'stream', value: {} } }],
    }),
  )
  await drain(responses)
  expect(entries).toMatchObject([
    {
      ...{ method: 'Build', outcome: 'ok', build: 'chosen', images: ['app:1', 'out:1'], results: [imageId] },
      ...{ caps: ['CAP_SYS_ADMIN'], network: 'none', isolation: 'chroot' },
    },
  ])
  expect(JSON.stringify(entries)).not.toContain('s3cret')
})

test('a build of the original is recorded by its Build, not by who watches it', async () => {
  const client = await serve()
  const request = {
    ...{ buildType: 'ctr-img', buildID: 'b1', contextDir: '/c', fileContent: 'SAY x', encrypted: false },
    ...{ output: 'docker-archive:/tmp/x.tar:out:1', additionalTag: 'app:1', capAddList: ['CAP_CHOWN'] },
    buildArgs: ['TOKEN=s3cret'],
  }
  const built = client.unary(controlService.Build, request)
  await drain(client.stream(controlService.Status, { buildID: 'b1' }))
  await built
  expect(entries).toMatchObject([
    {
      ...{ service: 'isula.build.v1.Control', method: 'Build', outcome: 'ok', build: 'b1', network: 'host' },
      ...{ images: ['app:1', 'out:1'], caps: ['CAP_CHOWN'], results: [imageId] },
    },
  ])
  expect(JSON.stringify(entries)).not.toContain('s3cret')
})

test('what a call stored or removed is recorded with it', async () => {
  const client = await serve()
  await failure(drain(client.stream(controlService.Remove, { imageID: ['a', 'missing'] })))
  await drain(client.stream(builderService.Remove, { all: true }))
  await drain(client.stream(controlService.Load, { path: '/x.tar' }))
  await drain(client.stream(controlService.Import, { source: '/x.tar', reference: 'n:1' }))
  expect(await entered(4)).toMatchObject([
    { method: 'Remove', outcome: 'ISB_IMAGE_NOT_FOUND', images: ['a', 'missing'], results: ['a:1', 'a'] },
    { method: 'Remove', outcome: 'ok', images: [], results: ['a:1', 'a'] },
    { method: 'Load', outcome: 'ok', results: [imageId] },
    { method: 'Import', outcome: 'ok', images: ['n:1'], results: [imageId] },
  ])
})

test('a login is recorded by its registry, without user and password', async () => {
  const client = await serve()
  const request = { server: 'r.example', username: 'user-s3cret', password: 'word-s3cret' }
  await client.unary(controlService.Login, request).catch(() => undefined)
  await client.unary(controlService.Logout, { all: true }).catch(() => undefined)
  expect(entries).toMatchObject([
    { method: 'Login', registry: 'r.example' },
    { method: 'Logout', registry: '*' },
  ])
  expect(JSON.stringify(entries)).not.toContain('s3cret')
})

test('requests that do not decode are recorded, and answered as before', async () => {
  await serve()
  for (const method of [
    controlService.Tag,
    controlService.Remove,
    builderService.Prune,
    builderService.Build,
  ]) {
    expect(await raw(method, Buffer.from('0a05ff', 'hex'))).toBe(status.INTERNAL)
  }
  expect(await entered(4)).toMatchObject(
    ['Tag', 'Remove', 'Prune', 'Build'].map((method) => ({
      ...{ method, outcome: 'ISB_ARGUMENT_INVALID', uid: process.getuid?.() },
    })),
  )
  expect(await raw(controlService.List, Buffer.from('0a05ff', 'hex'))).toBe(status.INTERNAL)
  expect(entries).toHaveLength(4)
})

test('requests that are too large, or inflate to what is, are recorded', async () => {
  await serve()
  expect(await raw(controlService.Tag, Buffer.alloc(5 << 20))).toBe(status.RESOURCE_EXHAUSTED)
  const inflating = { 'grpc.default_compression_algorithm': 2 }
  expect(await raw(builderService.Build, Buffer.alloc(30 << 20), inflating)).toBe(status.RESOURCE_EXHAUSTED)
  expect(await entered(2)).toMatchObject([
    { method: 'Tag', outcome: 'ISB_LIMIT_EXCEEDED' },
    { method: 'Build', outcome: 'ISB_LIMIT_EXCEEDED' },
  ])
})

test('requests that decode and make no sense are recorded with what they say', async () => {
  const client = await serve()
  await failure(drain(client.stream(builderService.Prune, { keepBytes: -1 })))
  await failure(drain(client.stream(builderService.Prune, { unusedFor: -1 })))
  const { call, responses } = client.duplex(builderService.Build)
  call.write(options('SAY x', { tags: ['t:1'], capAdd: ['everything'] }))
  await failure(drain(responses))
  expect(await entered(3)).toMatchObject([
    { method: 'Prune', outcome: 'ISB_ARGUMENT_INVALID' },
    { method: 'Prune', outcome: 'ISB_ARGUMENT_INVALID' },
    { method: 'Build', outcome: 'ISB_ARGUMENT_INVALID', images: ['t:1'], caps: ['everything'] },
  ])
})

test('calls beyond the limit, cancelled calls and crashes are recorded as what they are', async () => {
  const client = await serve({ limits: { callsPerUid: 1 } })
  const waiting = client.duplex(builderService.Build)
  waiting.call.write(options('WAIT'))
  await waiting.responses.next()
  // At its end, and not before.
  expect(entries).toEqual([])
  await failure(client.unary(builderService.Tag, { image: 'a', name: 'b' }))
  waiting.call.cancel()
  await entered(2)
  const crashing = client.duplex(builderService.Build)
  crashing.call.write(options('CRASH inside'))
  await failure(drain(crashing.responses))
  expect(await entered(3)).toMatchObject([
    { method: 'Tag', outcome: 'ISB_LIMIT_EXCEEDED' },
    { method: 'Build', outcome: 'ISB_CANCELLED' },
    { method: 'Build', outcome: 'ISB_INTERNAL' },
  ])
})

test('connections are told apart', async () => {
  const first = await serve()
  const second = connectClient(socketPath)
  clients.push(second)
  await first.unary(builderService.Tag, { image: 'a', name: 'b' })
  await second.unary(builderService.Tag, { image: 'a', name: 'b' })
  await first.unary(builderService.Tag, { image: 'a', name: 'b' })
  expect(entries.map(({ connection }) => connection)).toEqual([1, 2, 1])
})

test('who is no member any more is refused at his next call, and that is recorded whatever he asked for', async () => {
  let isMember = true
  const asked: unknown[] = []
  const membership: Membership = {
    async admit(caller, group) {
      asked.push(group)
      if (!isMember) throw new BuilderError('ISB_PERMISSION_DENIED', 'no longer a member of g')
      return { ...caller, groups: [77] }
    },
  }
  const client = await serve({ membership, group: process.getgid?.() ?? 0 })
  const { dataRoot } = await client.unary(controlService.Info, {})
  expect(JSON.parse(dataRoot)).toMatchObject({ groups: [77] })
  isMember = false
  for (const call of [
    () => client.unary(controlService.HealthCheck, {}),
    () => client.unary(builderService.Tag, { image: 'a', name: 'b' }),
    () => drain(client.stream(controlService.Remove, { imageID: ['a'] })),
    () => drain(client.duplex(builderService.Load).responses),
  ]) {
    expect(await failure(call())).toMatchObject({
      code: 'ISB_PERMISSION_DENIED',
      message: 'no longer a member of g',
    })
  }
  expect(entries).toMatchObject([
    { method: 'HealthCheck', outcome: 'ISB_PERMISSION_DENIED' },
    { method: 'Tag', outcome: 'ISB_PERMISSION_DENIED', images: ['a', 'b'] },
    { method: 'Remove', outcome: 'ISB_PERMISSION_DENIED', images: ['a'] },
    { method: 'Load', outcome: 'ISB_PERMISSION_DENIED' },
  ])
  expect(core.calls).toEqual([])
  expect(new Set(asked)).toEqual(new Set([process.getgid?.()]))
})
