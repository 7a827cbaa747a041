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
const images = [
  {
    id: `1${'0'.repeat(63)}`,
    names: ['old:1'],
    createdAt: Date.UTC(2020, 0, 2, 3, 4, 5),
    size: 2_134_000,
    owner: 0,
  },
  { id: `2${'0'.repeat(63)}`, names: [], createdAt: Date.UTC(2022, 0, 1), size: 999, owner: 0 },
  {
    id: `3${'0'.repeat(63)}`,
    names: ['localhost:5000/x/y:v1', 'old:2'],
    createdAt: Date.UTC(2021, 0, 1),
    size: 210_000_000,
    owner: 0,
  },
]

let directory = ''
let core: FakeCore
let server: RpcServer
let client: TestClient

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'isb-rpc-'))
  const socketPath = join(directory, 's')
  core = createFakeCore(images)
  server = await createRpcServer({
    socketPath,
    group: undefined,
    services: [createControlService(core)],
    log: silent,
  })
  client = connectClient(socketPath)
})

afterEach(async () => {
  client.close()
  await server.close(0)
  rmSync(directory, { recursive: true, force: true })
})

describe('the image methods', () => {
  test('list as the original prints', async () => {
    const { images: rows } = await client.unary(controlService.List, {})
    expect(rows).toEqual([
      {
        repository: '<none>',
        tag: '<none>',
        id: images[1]?.id,
        created: '2022-01-01 00:00:00',
        size: '999 B',
      },
      {
        repository: 'localhost:5000/x/y',
        tag: 'v1',
        id: images[2]?.id,
        created: '2021-01-01 00:00:00',
        size: '210 MB',
      },
      { repository: 'old', tag: '2', id: images[2]?.id, created: '2021-01-01 00:00:00', size: '210 MB' },
      { repository: 'old', tag: '1', id: images[0]?.id, created: '2020-01-02 03:04:05', size: '2.13 MB' },
    ])
  })

  test.each([
    ['old', ['2', '1']],
    ['docker.io/library/old', ['2', '1']],
    ['old:1', ['1']],
    ['localhost:5000/x/y', ['v1']],
    ['30', ['v1', '2']],
  ])('filter by %s', async (imageName, tags) => {
    const { images: rows } = await client.unary(controlService.List, { imageName })
    expect(rows.map((row) => row.tag)).toEqual(tags)
  })

  test.each([
    ['x:1', 'find local image "x:1" failed: image "x:1" not found in local store'],
    ['x', 'failed to list images with repository "x" in local storage'],
    ['Not A Name', 'failed to list images with repository "Not A Name" in local storage'],
  ])('say what the original says when %s matches nothing', async (imageName, message) => {
    expect(await failure(client.unary(controlService.List, { imageName }))).toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
      message,
    })
  })

  test('remove line by line and fail at the end', async () => {
    const lines: string[] = []
    const run = async (): Promise<void> => {
      const stream = client.stream(controlService.Remove, { imageID: ['a', 'missing', 'used'] })
      for await (const { layerMessage } of stream) lines.push(layerMessage)
    }
    expect(await failure(run())).toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
      message: 'remove one or more images failed',
    })
    expect(lines).toEqual([
      'Untagged image: a:1',
      `Deleted layer: sha256:${'b'.repeat(64)}`,
      'Deleted image: a',
      'Find local image "missing" failed: no image "missing"',
      'Remove image "used" failed: a build uses it',
    ])
  })

  test('pass on tags, loads, imports and saves', async () => {
    await client.unary(controlService.Tag, { image: 'a', tag: 'b' })
    expect(await all(client.stream(controlService.Remove, { all: true }))).toHaveLength(3)
    expect(await all(client.stream(controlService.Remove, { prune: true }))).toHaveLength(3)
    expect(await all(client.stream(controlService.Import, { source: '/r.tar', reference: 'a:1' }))).toEqual([
      { log: 'import {"kind":"file","path":"/r.tar"}\n' },
      { log: `Import success with image id: "${imageId}"\n` },
    ])
    expect((await all(client.stream(controlService.Load, { path: '/l.tar' }))).at(-1)).toEqual({
      log: `Loaded image as ${imageId}\n`,
    })
    const sep = { app: 'a:1', dir: '/d', lib: '/l', skipCheck: true, enabled: true }
    await all(client.stream(controlService.Load, { sep }))
    expect(
      await all(client.stream(controlService.Save, { images: ['a'], path: '/s.tar', format: 'oci' })),
    ).toEqual([{ log: 'saving\n' }])
    await all(
      client.stream(controlService.Save, { images: ['a'], sep: { base: 'b', dest: '/d', enabled: true } }),
    )
    expect(core.calls).toEqual([
      ['tag', 'a', 'b'],
      ['remove', { kind: 'all' }],
      ['remove', { kind: 'unnamed' }],
      ['import', { kind: 'file', path: '/r.tar' }],
      ['load', { kind: 'file', path: '/l.tar' }],
      [
        'load',
        { kind: 'separated', app: 'a:1', directory: '/d', base: undefined, lib: '/l', skipCheck: true },
      ],
      [
        'save',
        { images: ['a'], format: 'oci', destination: { kind: 'file', path: '/s.tar', parent: undefined } },
      ],
      [
        'save',
        {
          images: ['a'],
          format: 'docker',
          destination: { kind: 'separated', base: 'b', lib: undefined, rename: undefined, directory: '/d' },
        },
      ],
    ])
  })

  test('refuse paths that are not absolute, and nothing to do', async () => {
    const calls: AsyncIterable<unknown>[] = [
      client.stream(controlService.Import, { source: 'r.tar' }),
      client.stream(controlService.Load, { path: '' }),
      client.stream(controlService.Save, { images: ['a'], path: 'x' }),
      client.stream(controlService.Save, { images: [], path: '/x' }),
      client.stream(controlService.Remove, {}),
    ]
    for (const call of calls) expect((await failure(all(call))).code).toBe('ISB_ARGUMENT_INVALID')
  })
})

test('Info holds memory statistics only when asked', async () => {
  const short = await client.unary(controlService.Info, {})
  expect(short).toMatchObject({
    memInfo: { memTotal: 1, swapFree: 4 },
    OCIRuntime: 'runc',
    builderNum: 5,
    memStat: undefined,
  })
  const long = await client.unary(controlService.Info, { verbose: true })
  expect(long.memStat).toEqual({
    memSys: 1,
    heapSys: 2,
    heapAlloc: 3,
    heapInUse: 4,
    heapIdle: 5,
    heapReleased: 6,
  })
})

test('Version has the build time as C prints it', async () => {
  expect(await client.unary(controlService.Version, {})).toEqual({
    version: '1.0',
    goVersion: 'node v20',
    gitCommit: 'abc',
    buildTime: 'Wed Mar  3 04:05:06 2021',
    osArch: 'linux/amd64',
  })
})
