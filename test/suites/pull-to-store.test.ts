import { getuid } from 'node:process'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import type { Caller } from '../../packages/builder-daemon/src/ports/caller.js'
import type { PullRequest, TransferEvent } from '../../packages/builder-daemon/src/rpc/handlers.js'
import { pullToStore } from '../../packages/builder-daemon/src/service/pull-operations.js'
import { createAccessFor } from '../../packages/builder-daemon/src/service/registry-access.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { readStore } from '../support/store-inspection.js'
import { openTransferBench, type TransferBench } from '../support/transfer-bench.js'

const name = 'r.test/base:1'
const caller: Caller = { uid: 1001, gid: 1001, groups: [], pid: 1, sameMountNamespace: true }
const transfer = { tlsVerify: undefined, retries: undefined, retryDelay: undefined }

let bench: TransferBench
beforeEach(async () => {
  bench = await openTransferBench()
})
afterEach(() => bench[Symbol.asyncDispose]())

async function pull(
  rest: Partial<PullRequest> = {},
  signal = new AbortController().signal,
): Promise<readonly TransferEvent[]> {
  const accessFor = createAccessFor({ get: async () => undefined })
  const request = { reference: name, platforms: [], policy: 'always', transfer, ...rest } as const
  const client = { credentials: async () => undefined }
  const events: TransferEvent[] = []
  for await (const event of pullToStore(
    { services: bench.services, accessFor },
    request,
    client,
    caller,
    signal,
  )) {
    events.push(event)
  }
  return events
}

function add(label: string, platform = { os: 'linux', architecture: 'amd64' }, at = name) {
  return bench.registry.add(at, { layers: [{ tar: rawTar({ name: 'f', content: label }) }], label, platform })
}

const requests = (): readonly string[] => bench.registry.requests.splice(0)

describe.skipIf(getuid?.() !== 0)('the pull command (needs root)', () => {
  test('tells what it does and what came of it; the image is the caller s', async () => {
    const { digest } = add('one')
    const events = await pull()
    expect(events.filter(({ kind }) => kind === 'log')[0]).toEqual({
      kind: 'log',
      line: 'Getting image source signatures',
    })
    expect(events.some(({ kind }) => kind === 'progress')).toBe(true)
    const record = await bench.store.images.get(name)
    expect(record?.owner).toBe(1001)
    expect(events.at(-1)).toEqual({ kind: 'stored', imageId: record?.id, names: [name], digest })
  })

  test('missing and never are content with a local image, whatever an ID looks like', async () => {
    add('one')
    await pull()
    requests()
    const local = await pull({ policy: 'missing' })
    expect([local.map(({ kind }) => kind), requests()]).toEqual([['stored'], []])
    expect(await pull({ policy: 'never' })).toEqual(local)
    await expect(pull({ policy: 'never', reference: 'r.test/none' })).rejects.toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
    })
    // A name that begins an ID is a name all the same.
    const [image] = await bench.store.images.list()
    const prefix = image?.id.slice(0, 3) ?? ''
    await expect(pull({ policy: 'missing', reference: prefix })).rejects.toThrow(/failed to get the image in/)
  })

  test('newer asks once and pulls what changed', async () => {
    add('one')
    await pull({ policy: 'newer' })
    requests()
    await pull({ policy: 'newer' })
    expect(requests()).toEqual(['head r.test/base 1'])
    add('two')
    await pull({ policy: 'newer' })
    expect((await bench.store.images.get(name))?.config.config?.Labels?.['label']).toBe('two')
  })

  test('several platforms are several images, and here when all of them are', async () => {
    const both = ['amd64', 'arm64'].map((architecture) =>
      add(architecture, { os: 'linux', architecture }, `r.test/base:${architecture}`),
    )
    bench.registry.addIndex(name, both)
    const platforms = ['linux/arm64', 'x86_64']
    const first = (await pull({ platforms })).filter(({ kind }) => kind === 'stored')
    expect(first).toHaveLength(2)
    requests()
    const again = (await pull({ platforms, policy: 'missing' })).filter(({ kind }) => kind === 'stored')
    expect([again.length, requests()]).toEqual([2, []])
    expect((await pull({ platforms: 'all' })).filter(({ kind }) => kind === 'stored')).toHaveLength(2)
    await expect(pull({ platforms: ['beos'] })).rejects.toMatchObject({ code: 'ISB_PLATFORM_UNSUPPORTED' })
  })

  test('who leaves stops it, and no lease stays', async () => {
    add('one')
    const stop = new AbortController()
    bench.registry.fault = (request, signal) => {
      if (!request.startsWith('blob')) return
      setTimeout(() => stop.abort(), 5)
      return new Promise((_, reject) => {
        signal.addEventListener('abort', () => reject(new BuilderError('ISB_CANCELLED', 'cancelled')))
      })
    }
    await expect(pull({}, stop.signal)).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    expect(await bench.store.images.list()).toEqual([])
    expect(readStore(bench.roots.dataRoot, "SELECT id FROM leases WHERE purpose = 'pull'")).toEqual([])
  })
})
