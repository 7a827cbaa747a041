import { getuid } from 'node:process'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { pullImage } from '../../packages/builder-daemon/src/core/transfer/pull.js'
import type { TransferServices } from '../../packages/builder-daemon/src/core/transfer/transfer.js'
import { rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import type { Caller } from '../../packages/builder-daemon/src/ports/caller.js'
import type { RegistryClient, RemoteManifest } from '../../packages/builder-daemon/src/ports/registry.js'
import type {
  AnnotateListRequest,
  BuilderCore,
  CreateListRequest,
  PushListRequest,
  TransferEvent,
} from '../../packages/builder-daemon/src/rpc/handlers.js'
import { listImages, removeImages } from '../../packages/builder-daemon/src/service/image-operations.js'
import { createListOperations } from '../../packages/builder-daemon/src/service/list-operations.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import type { Descriptor } from '../../packages/shared/src/oci/descriptor.js'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { mediaTypes } from '../../packages/shared/src/oci/media-types.js'
import { anonymous, type MemoryRegistry, memoryRegistry } from '../support/memory-registry.js'
import {
  plainRules,
  type SourceImage,
  type SourceLayer,
  type SourceRegistry,
} from '../support/source-registry.js'
import { configBytes, publishContent } from '../support/temporary-store.js'
import { openTransferBench, type TransferBench } from '../support/transfer-bench.js'

const source = 'r.test/team/app'
const to = 'to.test/other/app:1'
const destination = 'to.test/other/app'
const transfer = { tlsVerify: undefined, retries: undefined, retryDelay: undefined }
const client = { credentials: async () => undefined }
const signal = new AbortController().signal
const [root, alice] = [0, 1000].map(
  (uid): Caller => ({ uid, gid: uid, groups: [], pid: 1 }) as unknown as Caller,
)

let bench: TransferBench
let registry: SourceRegistry
let target: MemoryRegistry
let services: TransferServices
let lists: Pick<
  BuilderCore,
  'push' | 'createList' | 'annotateList' | 'inspectList' | 'pushList' | 'removeList'
>

beforeEach(async () => {
  bench = await openTransferBench()
  target = memoryRegistry()
  registry = bench.registry
  use()
})
afterEach(() => bench[Symbol.asyncDispose]())

function use(rules = plainRules()): void {
  const reads = registry.client
  const both: RegistryClient = {
    ...target.client,
    readBlob: reads.readBlob,
    fetchBlob: reads.fetchBlob,
    async hasBlob(endpoint, digest, call) {
      if (endpoint.host !== 'r.test') return await target.client.hasBlob(endpoint, digest, call)
      const blob = { mediaType: '', digest, size: 0 }
      return await reads.readBlob(endpoint, blob, Number.POSITIVE_INFINITY, call).then(
        () => true,
        () => false,
      )
    },
    async manifest(endpoint, reference, call) {
      const stored = target.manifests.get(`${endpoint.host}/${endpoint.repository}:${reference}`)
      if (stored === undefined) return await reads.manifest(endpoint, reference, call)
      return { ...stored, digest: digestOf(stored.bytes) }
    },
    async manifestHead(endpoint, reference) {
      const stored = target.manifests.get(`${endpoint.host}/${endpoint.repository}:${reference}`)
      if (stored === undefined) return undefined
      return { mediaType: stored.mediaType, digest: digestOf(stored.bytes), size: stored.bytes.length }
    },
  }
  services = { ...bench.services, client: both, rules, lists: bench.store.lists }
  lists = createListOperations({
    ...{ services, lists: bench.store.lists },
    accessFor: ({ uid }) => ({ ...anonymous, uid, explained: (error) => error }),
  })
}

function layer(content: string, rest: Partial<SourceLayer> = {}): SourceLayer {
  return { tar: rawTar({ name: content.slice(0, 20), content }), ...rest }
}
const image = (architecture: string, rest: Partial<SourceImage> = {}): SourceImage => ({
  layers: [layer('common'), layer(architecture)],
  platform: { os: 'linux', architecture },
  ...rest,
})
const add = (tag: string, architecture: string): Descriptor =>
  registry.add(`${source}:${tag}`, image(architecture))

function create(
  images: readonly string[],
  rest: Partial<CreateListRequest> = {},
  caller: Caller | undefined = root,
): Promise<string> {
  const request = {
    name: 'list',
    images,
    format: 'oci',
    all: false,
    amend: false,
    transfer,
    ...rest,
  } as const
  return lists.createList(request, client, caller as Caller, signal)
}
function annotate(
  name: string,
  rest: Partial<AnnotateListRequest>,
  caller: Caller | undefined = root,
): Promise<void> {
  const nothing = { os: undefined, architecture: undefined, variant: undefined, osVersion: undefined }
  const request = {
    list: 'list',
    image: name,
    ...nothing,
    osFeatures: [],
    annotations: {},
    transfer,
    ...rest,
  }
  return lists.annotateList(request, client, caller as Caller, signal)
}
async function push(rest: Partial<PushListRequest> = {}): Promise<readonly TransferEvent[]> {
  const request = {
    list: 'list',
    destination: to,
    format: undefined,
    all: true,
    purge: false,
    transfer,
    ...rest,
  }
  const events: TransferEvent[] = []
  for await (const event of lists.pushList(request, client, root as Caller, signal)) events.push(event)
  return events
}
function manifestAt({ digest }: Descriptor): Promise<RemoteManifest> {
  const endpoint = { host: 'r.test', repository: 'team/app', insecure: false, mirror: false }
  return services.client.manifest(endpoint, digest, { access: anonymous, signal })
}
interface Document {
  readonly mediaType: string
  readonly manifests: readonly (Descriptor & { readonly platform: Readonly<Record<string, unknown>> })[]
}
async function inspect(name = 'list'): Promise<Document> {
  return JSON.parse(Buffer.from(await lists.inspectList(name, root as Caller)).toString('utf8'))
}
async function failureOf(work: Promise<unknown>): Promise<BuilderError> {
  const error = await work.catch((failure: unknown) => failure)
  if (error instanceof BuilderError) return error
  throw new Error('it did not fail as it should', { cause: error })
}
async function localImage(label: string, names: readonly string[], owner = 0): Promise<string> {
  const stored = await publishContent(bench.store, bench.lease, label)
  const put = { configBytes: configBytes([stored], label), layers: [stored.id], names, owner }
  return (await bench.store.images.put(put, bench.lease)).id
}

describe.skipIf(getuid?.() !== 0)('manifest lists (needs root)', () => {
  test('an image at a registry is listed with what its configuration says', async () => {
    const config = { 'os.version': '10.1', variant: 'v7' }
    const { digest, size } = registry.add(`${source}:1`, image('arm', { config }))
    await create([`${source}:1`])
    expect((await inspect()).manifests).toEqual([
      {
        ...{ mediaType: mediaTypes.ociManifest, digest, size },
        platform: { architecture: 'arm', os: 'linux', variant: 'v7', 'os.version': '10.1' },
      },
    ])
  })

  test('of a list all images are taken, also of one inside another, without provenance', async () => {
    const windows = {
      os: 'windows',
      architecture: 'amd64',
      'os.version': '10.0.1',
      'os.features': ['win32k'],
    }
    const inner = registry.addIndex(`${source}:inner`, [add('a', 'arm64')])
    const provenance = { 'vnd.docker.reference.type': 'attestation-manifest' }
    registry.addIndex(`${source}:1`, [
      { ...add('b', 'amd64'), annotations: { a: 'b' } },
      inner,
      { ...add('c', 'amd64'), annotations: provenance, platform: { os: 'unknown', architecture: 'unknown' } },
      { ...registry.add(`${source}:d`, image('amd64', { label: 'w' })), platform: windows },
    ])
    const refused = await failureOf(create([`${source}:1`]))
    expect([refused.code, refused.message]).toEqual([
      'ISB_ARGUMENT_INVALID',
      `${source}:1 is a manifest list`,
    ])
    await create([`${source}:1`], { all: true })
    const { manifests } = await inspect()
    expect(manifests.map(({ platform }) => platform)).toEqual([
      { architecture: 'amd64', os: 'linux' },
      { architecture: 'arm64', os: 'linux' },
      { architecture: 'amd64', os: 'windows', 'os.features': ['win32k'], 'os.version': '10.0.1' },
    ])
    expect(manifests[0]?.annotations).toEqual({ a: 'b' })
  })

  test('indexes without end and without images are refused', async () => {
    let inner = registry.addIndex(`${source}:0`, [add('a', 'arm64')])
    for (let i = 1; i < 6; i++) inner = registry.addIndex(`${source}:${i}`, [inner])
    registry.addIndex(`${source}:none`, [])
    const hostile = Buffer.from('{"schemaVersion":2,"manifests":[{"digest":"sha256:../../etc"}]}')
    registry.addDocument(`${source}:bad`, mediaTypes.ociIndex, hostile)
    const codeOf = async (tag: string) => (await failureOf(create([`${source}:${tag}`], { all: true }))).code
    expect(await codeOf('5')).toBe('ISB_LIMIT_EXCEEDED')
    for (const tag of ['none', 'bad']) expect(await codeOf(tag)).toBe('ISB_MANIFEST_INVALID')
  })

  test('an index that names one index again and again is followed once', async () => {
    let inner = registry.addIndex(`${source}:0`, [add('a', 'arm64')])
    for (let i = 1; i < 4; i++) {
      inner = registry.addIndex(
        `${source}:${i}`,
        Array.from({ length: 2000 }, () => inner),
      )
    }
    registry.requests.length = 0
    await create([`${source}:3`], { all: true })
    expect((await inspect()).manifests).toHaveLength(1)
    expect(registry.requests.filter((request) => request.startsWith('manifest'))).toHaveLength(4)
  })

  test('an image that was pulled is listed as its registry has it, also when that is away', async () => {
    const { digest } = add('1', 'amd64')
    await pullImage(`${source}:1`, { platforms: [], names: 'reference' }, services, bench.call())
    await create([`${source}:1`])
    expect((await inspect()).manifests[0]?.digest).toBe(digest)
    registry.fault = () => {
      throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', 'no route')
    }
    await create([`${source}:1`], { name: 'offline' })
    const [entry] = (await inspect('offline')).manifests
    expect(entry?.digest).not.toBe(digest)
    expect(entry?.platform).toEqual({ architecture: 'amd64', os: 'linux' })
  })

  test('images are copied byte by byte, then the list is pushed', async () => {
    const [a, b] = [add('a', 'amd64'), add('b', 'arm64')]
    await create([`${source}:a`, `${source}:b`])
    const events = await push()
    const pushed = target.manifests.get(`${destination}:1`)
    expect(events.at(-1)).toMatchObject({
      ...{ kind: 'pushed', reference: to },
      digest: digestOf(pushed?.bytes ?? ''),
    })
    const before = await manifestAt(a)
    expect(target.manifests.get(`${destination}:${a.digest}`)?.bytes).toEqual(before.bytes)
    const document = JSON.parse(Buffer.from(pushed?.bytes ?? '').toString('utf8')) as Document
    expect(document.manifests.map(({ digest }) => digest)).toEqual([a.digest, b.digest])
    // The layer that both have went once.
    const uploads = target.requests.filter((request) => request.startsWith('upload'))
    expect(new Set(uploads).size).toBe(uploads.length)
    expect(events.filter((event) => event.kind === 'progress')).not.toEqual([])
  })

  test('what a registry gives is checked, and the error names the image', async () => {
    const { digest } = registry.add(`${source}:1`, image('amd64'))
    registry.addIndex(`${source}:all`, [
      {
        mediaType: mediaTypes.ociManifest,
        digest,
        size: 7,
        platform: { os: 'linux', architecture: 'amd64' },
      },
    ])
    await create([`${source}:all`], { all: true })
    const wrong = await failureOf(push())
    expect([wrong.code, wrong.message]).toEqual([
      'ISB_DIGEST_MISMATCH',
      expect.stringContaining(`linux/amd64 (${digest})`),
    ])
    await create([`${source}:1`], { amend: true })
    registry.content = (_, bytes) => Buffer.concat([bytes, Buffer.from('x')])
    expect((await failureOf(push())).code).toBe('ISB_DIGEST_MISMATCH')
    expect([...target.manifests]).toEqual([])
  })

  test('a layer that nobody has to have is left out where its registry lacks it', async () => {
    const foreign = layer('windows', { mediaType: mediaTypes.ociNondistributableLayerGzip })
    const descriptor = registry.add(`${source}:1`, image('amd64', { layers: [layer('x'), foreign] }))
    await create([`${source}:1`])
    const held = await manifestAt(descriptor)
    const { layers } = JSON.parse(Buffer.from(held.bytes).toString('utf8'))
    registry.removeBlob(layers[1].digest)
    // This registry insists; real ones do not. That all else was sent is what counts here.
    expect((await failureOf(push())).message).toContain('MANIFEST_BLOB_UNKNOWN')
    expect(target.blobs.get(destination)?.size).toBe(2)
    registry.removeBlob(layers[0].digest)
    target.blobs.clear()
    expect((await failureOf(push())).message).toContain('404 BLOB_UNKNOWN')
  })

  test('policy.json decides on every image that is copied', async () => {
    add('1', 'amd64')
    await create([`${source}:1`])
    const admit = async () => {
      throw new BuilderError('ISB_POLICY_REJECTED', 'nothing is admitted')
    }
    use(plainRules({ admit }))
    expect((await failureOf(push())).code).toBe('ISB_POLICY_REJECTED')
    expect(target.requests).toEqual([])
  })

  test('a push that is cancelled stops at once and leaves no list', async () => {
    add('1', 'amd64')
    await create([`${source}:1`])
    const stop = new AbortController()
    registry.fault = (request) => {
      if (request.startsWith('blob')) stop.abort()
    }
    const work = async () => {
      const request = { list: 'list', destination: to, format: undefined, all: true, purge: true, transfer }
      for await (const _ of lists.pushList(request, client, root as Caller, stop.signal));
    }
    expect((await failureOf(work())).code).toBe('ISB_CANCELLED')
    expect([...target.manifests]).toEqual([])
    expect((await inspect()).manifests).toHaveLength(1)
    registry.fault = () => undefined
    await push()
    expect(target.manifests.has(`${destination}:1`)).toBe(true)
  })

  test('without its images a list is only pushed to where they are', async () => {
    add('1', 'amd64')
    await create([`${source}:1`])
    const absent = await failureOf(push({ all: false }))
    expect([absent.code, absent.hint]).toEqual(['ISB_IMAGE_NOT_FOUND', expect.stringContaining('--all')])
    await push()
    target.requests.length = 0
    await push({ all: false, destination: `${destination}:2`, format: 'docker', purge: true })
    expect(target.requests).toEqual([`manifest ${destination} 2`])
    expect(target.manifests.get(`${destination}:2`)?.mediaType).toBe(mediaTypes.dockerIndex)
    expect((await failureOf(lists.inspectList('list', root as Caller))).code).toBe('ISB_IMAGE_NOT_FOUND')
  })

  test('annotations at the same time are all kept', async () => {
    for (const tag of ['a', 'b', 'c', 'd', 'e']) registry.add(`${source}:${tag}`, image(`arch-${tag}`))
    await create([`${source}:a`])
    const others = ['b', 'c', 'd', 'e']
    await Promise.all(others.map((tag) => annotate(`${source}:${tag}`, { annotations: { tag } })))
    const { manifests } = await inspect()
    expect(manifests.map(({ annotations }) => annotations?.['tag']).sort()).toEqual([...others, undefined])
    await annotate(`${source}:b`, { os: 'windows', osFeatures: ['x'] })
    const changed = (await inspect()).manifests.filter(({ platform }) => platform['os'] === 'windows')
    expect(changed).toMatchObject([
      { annotations: { tag: 'b' }, platform: { architecture: 'arch-b', 'os.features': ['x'] } },
    ])
  })

  test('a list belongs to who made it', async () => {
    add('1', 'amd64')
    await create([`${source}:1`])
    await localImage('l', ['own:1'], 1000)
    const own = await bench.store.images.get('own:1')
    const denied = [
      () => annotate(`${source}:1`, { os: 'x' }, alice),
      () => lists.removeList('list', alice as Caller),
      () => create([], { amend: true }, alice),
      () => bench.store.images.tag(own?.id ?? '', 'list:latest', 1000),
    ]
    for (const work of denied) expect((await failureOf(work())).code).toBe('ISB_PERMISSION_DENIED')
    await localImage('r', ['taken:1'])
    expect((await failureOf(create([], { name: 'taken:1', amend: true }, alice))).code).toBe(
      'ISB_PERMISSION_DENIED',
    )
    await create([`${source}:1`], { name: 'hers' }, alice)
    await annotate(`${source}:1`, { list: 'hers', os: 'x' })
    expect((await bench.store.lists.get('hers:latest'))?.owner).toBe(1000)
    await lists.removeList('hers', alice as Caller)
    expect(await bench.store.lists.get('hers:latest')).toBeUndefined()
  })

  test('lists are listed among images and removed before what they hold', async () => {
    await localImage('one', ['one:1'])
    await create(['one:1'], { name: 'both:1' })
    const other = await localImage('two', ['both:1'])
    await create(['one:1'], { name: 'both:1', amend: true })
    await bench.store.images.untag('one:1')
    await bench.store.layers.releaseLease(bench.lease)
    const named = { images: bench.store.images, lists: bench.store.lists }
    const listed = (await listImages(named.images, named.lists)).map(({ names }) => names)
    expect(listed).toEqual([['both:1'], [], []])
    const events = async (kind: 'all' | 'unnamed'): Promise<readonly unknown[]> => {
      const gone: unknown[] = []
      for await (const event of removeImages(named, { kind }, root as Caller, signal)) gone.push(event)
      return gone
    }
    const deleted = { kind: 'image-removed', reference: other }
    expect(await events('unnamed')).toEqual([expect.objectContaining({ kind: 'layer-removed' }), deleted])
    expect(await events('all')).toMatchObject([
      { kind: 'image-removed', reference: 'both:1' },
      { kind: 'layer-removed' },
      { kind: 'image-removed' },
    ])
    expect(await bench.store.check()).toEqual([])
  })
})
