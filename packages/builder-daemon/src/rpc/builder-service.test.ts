import { errorOfDetail } from '@isula-build/shared/errors/wire.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { describe, expect, test } from 'vitest'
import { useRpcClient } from '../../../../test/support/rpc-bench.js'
import { drain, failure } from './test-client.js'

const bench = useRpcClient([
  { id: '1'.repeat(64), names: ['a:1', 'b:1'], createdAt: 5, size: 6, owner: 7 },
  { id: '2'.repeat(64), names: [], createdAt: 4, size: 1, owner: 0 },
])

describe('the image methods', () => {
  test('list images with the names that match', async () => {
    // The second answer is the bytes of the first.
    for (const _ of [1, 2]) {
      expect((await bench.client.unary(builderService.Images, {})).images).toEqual([
        { id: '1'.repeat(64), names: ['a:1', 'b:1'], createdAt: 5, size: 6, owner: 7 },
        { id: '2'.repeat(64), names: [], createdAt: 4, size: 1, owner: 0 },
      ])
    }
    expect((await bench.client.unary(builderService.Images, { filter: 'b' })).images).toMatchObject([
      { names: ['b:1'] },
    ])
    expect((await failure(bench.client.unary(builderService.Images, { filter: 'c' }))).code).toBe(
      'ISB_IMAGE_NOT_FOUND',
    )
  })

  test('remove with typed failures', async () => {
    const events: unknown[] = []
    const run = async (): Promise<void> => {
      for await (const { event } of bench.client.stream(builderService.Remove, {
        images: ['a', 'missing'],
      })) {
        if (event?.case !== 'failed') events.push(event)
        else if (event.value.error !== undefined) {
          events.push([event.value.image, errorOfDetail(event.value.error).code])
        }
      }
    }
    expect((await failure(run())).message).toBe('remove one or more images failed')
    expect(events).toEqual([
      { case: 'untagged', value: 'a:1' },
      { case: 'deletedLayer', value: `sha256:${'b'.repeat(64)}` },
      { case: 'deletedImage', value: 'a' },
      ['missing', 'ISB_IMAGE_NOT_FOUND'],
      ['used', 'ISB_IMAGE_IN_USE'],
    ])
    for (const request of [{}, { all: true, prune: true }, { images: ['a'], all: true }]) {
      const refused = drain(bench.client.stream(builderService.Remove, request))
      expect((await failure(refused)).code).toBe('ISB_ARGUMENT_INVALID')
    }
  })

  test('import and load what the client sends', async () => {
    const source = { source: { case: 'stream', value: {} } } as const
    const stored = { case: 'image', value: { id: 'a'.repeat(64), names: ['a:1'] } }
    const load = bench.client.duplex(builderService.Load)
    load.call.write({ payload: { case: 'options', value: { source: { case: 'archive', value: source } } } })
    const imported = bench.client.duplex(builderService.Import)
    imported.call.write({ payload: { case: 'options', value: { source } } })
    for (const text of ['ab', 'c']) {
      load.call.write({ payload: { case: 'chunk', value: Buffer.from(text) } })
      imported.call.write({ payload: { case: 'chunk', value: Buffer.from(text) } })
    }
    load.call.end()
    imported.call.end()
    expect(await events(load.responses)).toEqual([{ case: 'log', value: 'load abc' }, stored])
    expect(await events(imported.responses)).toEqual([{ case: 'log', value: 'import abc' }, stored])
  })

  test('load from a path and separated', async () => {
    const requests = [
      { source: { case: 'archive', value: { source: { case: 'path', value: '/l.tar' } } } },
      { source: { case: 'separated', value: { app: 'a', directory: '/d', base: '/b', skipCheck: true } } },
    ] as const
    for (const value of requests) {
      const { call, responses } = bench.client.duplex(builderService.Load)
      call.write({ payload: { case: 'options', value } })
      await drain(responses)
    }
    expect(bench.core.calls).toEqual([
      ['load', { kind: 'file', path: '/l.tar' }],
      ['load', { kind: 'separated', app: 'a', directory: '/d', base: '/b', lib: undefined, skipCheck: true }],
    ])
  })

  test('refuse an upload that breaks its form', async () => {
    const early = bench.client.duplex(builderService.Load)
    early.call.write({ payload: { case: 'chunk', value: Buffer.from('x') } })
    expect((await failure(drain(early.responses))).message).toBe('the first frame of a load is its options')
    const nowhere = bench.client.duplex(builderService.Import)
    nowhere.call.write({ payload: { case: 'options', value: {} } })
    expect((await failure(drain(nowhere.responses))).message).toBe('the options hold no source')
    const twice = bench.client.duplex(builderService.Import)
    const source = { source: { case: 'stream', value: {} } } as const
    for (let time = 0; time < 2; time++) twice.call.write({ payload: { case: 'options', value: { source } } })
    expect((await failure(drain(twice.responses))).message).toBe('after the options only chunks follow')
  })

  test('save to the client in order, however large', async () => {
    const sizes: number[] = []
    let next = 0
    const request = { images: ['a'], destination: { case: 'stream', value: {} } } as const
    for await (const { event } of bench.client.stream(builderService.Save, request)) {
      if (event?.case !== 'chunk') continue
      expect(event.value[0]).toBe(next++)
      sizes.push(event.value.length)
    }
    expect(sizes).toEqual(Array.from({ length: 40 }, () => 3 << 18))
  })
})

test('the administrative methods pass their answers on', async () => {
  expect(await bench.client.unary(builderService.Version, {})).toMatchObject({
    version: '1.0',
    platform: 'linux/amd64',
  })
  expect(await bench.client.unary(builderService.Info, {})).toMatchObject({ threads: 6, memory: undefined })
  expect((await bench.client.unary(builderService.Info, { verbose: true })).memory).toMatchObject({
    heapReleased: 6,
  })
  expect((await bench.client.unary(builderService.ListBuilds, {})).builds).toMatchObject([
    { id: 'b1', state: 'QUEUED' },
  ])
  await bench.client.unary(builderService.CancelBuild, { id: 'b1' })
  const prune = { all: true, keepBytes: 9, dryRun: true, unusedFor: 5 }
  const common = { bytes: 2, usedAt: 1000, owners: [0, 7] }
  expect(await events(bench.client.stream(builderService.Prune, prune))).toEqual([
    { case: 'removed', value: { kind: 'LAYER', name: 'l', ...common } },
    { case: 'removed', value: { kind: 'CACHE_MOUNT', name: 'm', ...common } },
    { case: 'summary', value: { freedBytes: 9, records: 3, downloads: 5 } },
  ])
  await bench.client.unary(builderService.Tag, { image: 'a', name: 'b' })
  expect(bench.core.calls).toEqual([
    ['cancel', 'b1'],
    ['prune', prune],
    ['tag', 'a', 'b'],
  ])
})

async function events<T>(responses: AsyncIterable<{ readonly event: T }>): Promise<T[]> {
  const found: T[] = []
  for await (const { event } of responses) found.push(event)
  return found
}
