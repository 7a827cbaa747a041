import { getuid } from 'node:process'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Caller } from '../../packages/builder-daemon/src/ports/caller.js'
import type { PushRequest, TransferEvent } from '../../packages/builder-daemon/src/rpc/handlers.js'
import {
  type PushDeps,
  progressTo,
  pushLocalImage,
  pushOutput,
} from '../../packages/builder-daemon/src/service/push-operations.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { anonymous } from '../support/memory-registry.js'
import { openPushWorkshop, type PushBench, type PushWorkshop } from '../support/push-bench.js'

const transfer = { tlsVerify: undefined, retries: undefined, retryDelay: undefined }
const asItIs = { format: undefined, compression: undefined, level: undefined }
const client = { credentials: async () => undefined }
const caller: Caller = { uid: 1000, gid: 1000, groups: [], pid: 1, sameMountNamespace: true }

let workshop: PushWorkshop
let bench: PushBench
let deps: PushDeps

beforeAll(async () => {
  workshop = await openPushWorkshop()
})
afterAll(() => workshop[Symbol.asyncDispose]())
beforeEach(async () => {
  bench = await workshop.open({
    destination({ domain, path }) {
      if (domain === 'blocked.test') throw new BuilderError('ISB_REGISTRY_DENIED', 'blocked.test is blocked')
      return { host: domain, repository: path, insecure: false, mirror: false }
    },
  })
  deps = {
    services: bench.services,
    accessFor: ({ uid }) => ({ ...anonymous, uid, explained: (error) => error }),
  }
})
afterEach(() => bench.close())

async function push(request: Partial<PushRequest>): Promise<readonly TransferEvent[]> {
  const { signal } = new AbortController()
  const whole: PushRequest = { image: '', destination: undefined, push: asItIs, transfer, ...request }
  const events: TransferEvent[] = []
  for await (const event of pushLocalImage(deps, whole, client, caller, signal)) events.push(event)
  return events
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
  } catch (error) {
    if (error instanceof BuilderError) return error.code
    throw error
  }
  return ''
}

async function makeImage(name: string) {
  return await bench.imageOf([await bench.layerWith({ f: name })], name)
}

describe.skipIf(getuid?.() !== 0)('push (needs root)', () => {
  test('sends an image where its name says, and tells the digest at last', async () => {
    await makeImage('r.test:5000/a:1')
    const events = await push({ image: 'r.test:5000/a:1' })
    const manifest = bench.registry.manifests.get('r.test:5000/a:1')
    expect(events.at(-1)).toEqual({
      kind: 'pushed',
      reference: 'r.test:5000/a:1',
      digest: digestOf(manifest?.bytes ?? ''),
      size: manifest?.bytes.length,
    })
    expect(events[0]).toEqual({ kind: 'log', line: 'Getting image source signatures' })
    expect(events.some((event) => event.kind === 'progress' && event.done === event.total)).toBe(true)
  })

  test('a name without registry or tag means docker.io and latest', async () => {
    const image = await makeImage('busybox:latest')
    const events = await push({ image: 'busybox' })
    expect([...bench.registry.manifests.keys()]).toContain('docker.io/library/busybox:latest')
    expect(events.at(-1)).toMatchObject({ reference: 'busybox:latest' })
    const [digest] = await bench.store.memory.digestsOf(image.id, 'docker.io/library/busybox')
    expect(events.at(-1)).toMatchObject({ digest })
  })

  test('a destination may be anything, for a name or an ID', async () => {
    const image = await makeImage('r.test/a:1')
    for (const text of ['r.test/a:1', image.id, image.id.slice(0, 12)]) {
      const events = await push({ image: text, destination: 'docker://q.test/x/y' })
      expect(events.at(-1)).toMatchObject({ kind: 'pushed', reference: 'q.test/x/y:latest' })
    }
    expect([...bench.registry.manifests.keys()]).toContain('q.test/x/y:latest')
    expect([...bench.registry.manifests.keys()]).not.toContain('r.test/a:1')
  })

  test('an ID alone says nothing of where to', async () => {
    const image = await makeImage('localhost/a:1')
    expect(await codeOf(push({ image: image.id }))).toBe('ISB_ARGUMENT_INVALID')
    expect(await codeOf(push({ image: image.id.slice(0, 6) }))).toBe('ISB_ARGUMENT_INVALID')
    // It is found as localhost/a, which is not what was written.
    expect(await codeOf(push({ image: 'a:1' }))).toBe('ISB_ARGUMENT_INVALID')
    expect(bench.registry.requests).toEqual([])
  })

  test.each([
    [{ image: 'nothing:1' }, 'ISB_IMAGE_NOT_FOUND'],
    [{ image: 'r.test/a:1', destination: 'Not A Name' }, 'ISB_REFERENCE_INVALID'],
    [{ image: 'r.test/a:1', destination: '' }, 'ISB_REFERENCE_INVALID'],
    [{ image: 'r.test/a:1', destination: `q.test/a@${digestOf('x')}` }, 'ISB_REFERENCE_INVALID'],
    [{ image: 'r.test/a:1', destination: 'blocked.test/a' }, 'ISB_REGISTRY_DENIED'],
    [{ image: 'r.test/a:1', push: { ...asItIs, level: 99 } }, 'ISB_ARGUMENT_INVALID'],
  ])('%j fails with %s before anything is sent', async (request, code) => {
    await makeImage('r.test/a:1')
    expect(await codeOf(push(request))).toBe(code)
    expect(bench.registry.requests).toEqual([])
  })

  test('a reader who leaves ends it', async () => {
    await makeImage('r.test/a:1')
    const { signal } = new AbortController()
    const request = { image: 'r.test/a:1', destination: undefined, push: asItIs, transfer }
    for await (const _ of pushLocalImage(deps, request, client, caller, signal)) break
    expect(bench.registry.manifests.size).toBe(0)
    expect(await bench.files()).toEqual([])
  })

  test('what a build made goes out the same way', async () => {
    const image = await makeImage('r.test/a:1')
    const lines: string[] = []
    const output = { reference: 'r.test/b:2', push: { ...asItIs, format: 'oci' as const } }
    const { signal } = new AbortController()
    const onLog = (line: string) => lines.push(line)
    const pushed = await pushOutput(deps, image, output, { caller, client, transfer, signal, onLog })
    expect(pushed).toMatchObject({
      reference: 'r.test/b:2',
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
    })
    expect(bench.registry.manifests.has(`r.test/b:${pushed.digest}`)).toBe(true)
    expect(lines.at(-1)).toBe('Storing signatures')
  })
})

describe('reports of progress', () => {
  const digest = digestOf('a')

  test('come now and then, and the last one always', () => {
    let now = 0
    const events: number[] = []
    const report = progressTo(
      async (event) => {
        if (event.kind === 'progress') events.push(event.done)
      },
      { now: () => now },
    )
    report(digest, 1, 100)
    report(digest, 2, 100)
    report(digest, 100, 100)
    expect(events).toEqual([1, 100])
    now = 10
    report(digestOf('b'), 5, 6)
    expect(events).toEqual([1, 100, 5])
  })

  test('wait for a slow reader', async () => {
    let now = 0
    const taken: (() => void)[] = []
    const report = progressTo(() => new Promise((resolve) => taken.push(resolve)), { now: () => now })
    for (now = 0; now < 10_000; now += 1000) report(digest, now, 100_000)
    expect(taken).toHaveLength(1)
    taken[0]?.()
    await Promise.resolve()
    await Promise.resolve()
    report(digest, 20_000, 100_000)
    expect(taken).toHaveLength(2)
  })
})
