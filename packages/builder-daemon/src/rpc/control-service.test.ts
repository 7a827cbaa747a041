import { controlService } from '@isula-build/shared/rpc/control.js'
import { describe, expect, test } from 'vitest'
import { storedImages as images, useRpcClient } from '../../../../test/support/rpc-bench.js'
import { all, failure } from './test-client.js'

const imageId = 'a'.repeat(64)
const bench = useRpcClient(images)

describe('the image methods', () => {
  test('list as the original prints', async () => {
    const { images: rows } = await bench.client.unary(controlService.List, {})
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
    const { images: rows } = await bench.client.unary(controlService.List, { imageName })
    expect(rows.map((row) => row.tag)).toEqual(tags)
  })

  test.each([
    ['x:1', 'find local image "x:1" failed: image "x:1" not found in local store'],
    ['x', 'failed to list images with repository "x" in local storage'],
    ['Not A Name', 'failed to list images with repository "Not A Name" in local storage'],
  ])('say what the original says when %s matches nothing', async (imageName, message) => {
    expect(await failure(bench.client.unary(controlService.List, { imageName }))).toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
      message,
    })
  })

  test('remove line by line and fail at the end', async () => {
    const lines: string[] = []
    const run = async (): Promise<void> => {
      const stream = bench.client.stream(controlService.Remove, { imageID: ['a', 'missing', 'used'] })
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
    await bench.client.unary(controlService.Tag, { image: 'a', tag: 'b' })
    expect(await all(bench.client.stream(controlService.Remove, { all: true }))).toHaveLength(3)
    expect(await all(bench.client.stream(controlService.Remove, { prune: true }))).toHaveLength(3)
    expect(
      await all(bench.client.stream(controlService.Import, { source: '/r.tar', reference: 'a:1' })),
    ).toEqual([
      { log: 'import {"kind":"file","path":"/r.tar"}\n' },
      { log: `Import success with image id: "${imageId}"\n` },
    ])
    expect((await all(bench.client.stream(controlService.Load, { path: '/l.tar' }))).at(-1)).toEqual({
      log: `Loaded image as ${imageId}\n`,
    })
    const sep = { app: 'a:1', dir: '/d', lib: '/l', skipCheck: true, enabled: true }
    await all(bench.client.stream(controlService.Load, { sep }))
    expect(
      await all(bench.client.stream(controlService.Save, { images: ['a'], path: '/s.tar', format: 'oci' })),
    ).toEqual([{ log: 'saving\n' }])
    await all(
      bench.client.stream(controlService.Save, {
        images: ['a'],
        sep: { base: 'b', dest: '/d', enabled: true },
      }),
    )
    expect(bench.core.calls).toEqual([
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
      bench.client.stream(controlService.Import, { source: 'r.tar' }),
      bench.client.stream(controlService.Load, { path: '' }),
      bench.client.stream(controlService.Save, { images: ['a'], path: 'x' }),
      bench.client.stream(controlService.Save, { images: [], path: '/x' }),
      bench.client.stream(controlService.Remove, {}),
    ]
    for (const call of calls) expect((await failure(all(call))).code).toBe('ISB_ARGUMENT_INVALID')
  })
})

test('Info holds memory statistics only when asked', async () => {
  const short = await bench.client.unary(controlService.Info, {})
  expect(short).toMatchObject({
    memInfo: { memTotal: 1, swapFree: 4 },
    OCIRuntime: 'runc',
    builderNum: 5,
    memStat: undefined,
  })
  const long = await bench.client.unary(controlService.Info, { verbose: true })
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
  expect(await bench.client.unary(controlService.Version, {})).toEqual({
    version: '1.0',
    goVersion: 'node v20',
    gitCommit: 'abc',
    buildTime: 'Wed Mar  3 04:05:06 2021',
    osArch: 'linux/amd64',
  })
})
