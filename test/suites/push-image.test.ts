import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { gunzipSync, gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  type PushDestination,
  pushContent,
  pushImage,
} from '../../packages/builder-daemon/src/core/transfer/push.js'
import type {
  PushShape,
  TransferCall,
  TransferServices,
} from '../../packages/builder-daemon/src/core/transfer/transfer.js'
import type { LayerRecord } from '../../packages/builder-daemon/src/ports/layer-store.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { type DiffId, type Digest, digestHex, digestOf } from '../../packages/shared/src/oci/digest.js'
import { anonymous, type MemoryRegistry } from '../support/memory-registry.js'
import { openPushWorkshop, type PushBench, type PushWorkshop } from '../support/push-bench.js'

const asItIs: PushShape = { format: undefined, compression: undefined, level: undefined }
const endpoint = { host: 'r.test:5000', repository: 'a/b', insecure: true, mirror: false }
const tagged: PushDestination = { endpoint, reference: '1' }

let workshop: PushWorkshop
let bench: PushBench
let registry: MemoryRegistry
let services: TransferServices
let lines: string[]

beforeAll(async () => {
  workshop = await openPushWorkshop()
})
afterAll(() => workshop[Symbol.asyncDispose]())

function use(opened: PushBench): void {
  bench = opened
  registry = opened.registry
  services = opened.services
}

beforeEach(async () => {
  use(await workshop.open())
  lines = []
})
afterEach(() => bench.close())

function call(rest: Partial<TransferCall> = {}): TransferCall {
  const { signal } = new AbortController()
  return { access: anonymous, lease: bench.lease, signal, onLog: (line) => lines.push(line), ...rest }
}

const layerWith: PushBench['layerWith'] = (files) => bench.layerWith(files)
const imageOf: PushBench['imageOf'] = (layers) => bench.imageOf(layers)

const threeLayers = async (): Promise<readonly LayerRecord[]> => [
  await layerWith({ 'etc/passwd': 'root:x:0:0::/:/bin/sh\n' }),
  await layerWith({ 'usr/lib/big': Buffer.alloc(3_000_000, 'some text, ') }),
  await layerWith({ 'app/main': 'code' }),
]

interface Document {
  readonly mediaType: string
  readonly config: { readonly mediaType: string; readonly digest: Digest; readonly size: number }
  readonly layers: readonly { readonly mediaType: string; readonly digest: Digest; readonly size: number }[]
}

function pushed(name = 'r.test:5000/a/b', reference = '1'): Document {
  const manifest = registry.manifests.get(`${name}:${reference}`)
  if (manifest === undefined) throw new Error(`nothing at ${name}:${reference}`)
  const document = JSON.parse(Buffer.from(manifest.bytes).toString('utf8')) as Document
  expect(document.mediaType).toBe(manifest.mediaType)
  return document
}

function contentOf(digest: Digest, name = 'r.test:5000/a/b'): Buffer {
  return Buffer.from(registry.blobs.get(name)?.get(digest) ?? [])
}

const uploads = (): readonly string[] => registry.requests.filter((request) => request.startsWith('upload'))

async function failureOf(work: Promise<unknown>): Promise<BuilderError> {
  try {
    await work
  } catch (error) {
    if (error instanceof BuilderError) return error
    throw error
  }
  throw new Error('it did not fail')
}

describe.skipIf(getuid?.() !== 0)('a push (needs root)', () => {
  test('puts layers, config and manifest there, and a second one asks only', async () => {
    const layers = await threeLayers()
    const image = await imageOf(layers)
    const progress = new Map<Digest, number[]>()
    const result = await pushImage(image, tagged, asItIs, services, {
      ...call(),
      onProgress: (digest, done, total) => {
        expect(done).toBeLessThanOrEqual(total)
        progress.set(digest, [...(progress.get(digest) ?? []), done])
      },
    })
    const document = pushed()
    expect(document.mediaType).toBe('application/vnd.docker.distribution.manifest.v2+json')
    expect(document.config).toEqual({
      mediaType: 'application/vnd.docker.container.image.v1+json',
      digest: `sha256:${image.id}`,
      size: image.configBytes.length,
    })
    expect(document.layers.map(({ digest }) => digestOf(gunzipSync(contentOf(digest))))).toEqual(
      layers.map(({ diffId }) => diffId),
    )
    for (const { mediaType, digest, size } of document.layers) {
      expect(mediaType).toBe('application/vnd.docker.image.rootfs.diff.tar.gzip')
      expect(contentOf(digest).length).toBe(size)
      expect(progress.get(digest)?.at(-1)).toBe(size)
    }
    const bytes = registry.manifests.get(`r.test:5000/a/b:${result.digest}`)?.bytes
    expect(result).toEqual({
      ...{ digest: digestOf(bytes ?? ''), size: bytes?.length },
      mediaType: document.mediaType,
    })
    expect(uploads()).toHaveLength(4)
    expect(lines[0]).toBe('Getting image source signatures')
    expect(new Set(lines.slice(1, 4))).toEqual(new Set(layers.map(({ diffId }) => `Copying blob ${diffId}`)))
    expect(lines.slice(4)).toEqual([
      `Copying config sha256:${image.id}`,
      'Writing manifest to image destination',
      'Storing signatures',
    ])
    expect(await bench.store.memory.digestsOf(image.id, 'r.test:5000/a/b')).toEqual([result.digest])

    registry.requests.length = 0
    expect(await pushImage(image, tagged, asItIs, services, call())).toEqual(result)
    expect(registry.requests.filter((request) => !request.startsWith('has'))).toEqual([
      'manifest r.test:5000/a/b 1',
    ])
    expect(registry.requests).toHaveLength(5)
    expect(await bench.files()).toEqual([])
  })

  test('sends a layer that is there twice once', async () => {
    const layer = await layerWith({ f: 'x' })
    const image = await imageOf([layer, layer, layer])
    await pushImage(image, tagged, asItIs, services, call())
    expect(uploads()).toHaveLength(2)
    expect(pushed().layers.map(({ digest }) => digest)).toEqual(Array(3).fill(pushed().layers[0]?.digest))
  })

  test('an image without layers is pushed, too', async () => {
    await pushImage(await imageOf([]), tagged, asItIs, services, call())
    expect(pushed().layers).toEqual([])
  })

  test('mounts what another repository of the host has, for the same user only', async () => {
    const image = await imageOf(await threeLayers())
    await pushImage(image, tagged, asItIs, services, call())
    registry.requests.length = 0
    const second = { ...endpoint, repository: 'c' }
    await pushImage(image, { endpoint: second, reference: '1' }, asItIs, services, call())
    expect(registry.requests.filter((request) => request.startsWith('mount'))).toHaveLength(3)
    expect(uploads()).toEqual([`upload r.test:5000/c sha256:${image.id}`])

    registry.requests.length = 0
    const third = { ...endpoint, repository: 'd' }
    const other = call({ access: { ...anonymous, uid: 1000 } })
    await pushImage(image, { endpoint: third, reference: '1' }, asItIs, services, other)
    expect(registry.requests.filter((request) => request.startsWith('mount'))).toEqual([])
    expect(uploads()).toHaveLength(4)

    registry.requests.length = 0
    const elsewhere = { ...endpoint, host: 'q.test' }
    await pushImage(image, { endpoint: elsewhere, reference: '1' }, asItIs, services, call())
    expect(registry.requests.filter((request) => request.startsWith('mount'))).toEqual([])
  })

  test('sends what may not be mounted, and what is no longer there', async () => {
    const image = await imageOf([await layerWith({ f: 'x' })])
    await pushImage(image, tagged, asItIs, services, call())
    registry.closed.add('r.test:5000/a/b')
    await pushImage(
      image,
      { endpoint: { ...endpoint, repository: 'c' }, reference: '1' },
      asItIs,
      services,
      call(),
    )
    expect(pushed('r.test:5000/c').layers).toHaveLength(1)
    registry.closed.clear()
    for (const blobs of registry.blobs.values()) blobs.clear()
    await pushImage(image, tagged, asItIs, services, call())
    expect(contentOf(pushed().layers[0]?.digest ?? ('' as Digest)).length).toBeGreaterThan(0)
  })

  test('the form in which a layer was fetched is good enough, unless another compression is asked for', async () => {
    const layer = await layerWith({ f: 'x'.repeat(1000) })
    const image = await imageOf([layer])
    const diffId = layer.diffId as DiffId
    const tar = await tarOf(layer)
    const fetched = gzipSync(tar, { level: 9 })
    const digest = digestOf(fetched)
    await bench.store.memory.rememberBlob(diffId, {
      digest,
      size: fetched.length,
      compression: 'gzip',
      recipe: null,
    })
    registry.blobs.set('r.test:5000/a/b', new Map([[digest, fetched]]))
    await pushImage(image, tagged, asItIs, services, call())
    expect(pushed().layers.map((descriptor) => descriptor.digest)).toEqual([digest])
    expect(lines).toContain(`Copying blob ${diffId} skipped: already exists`)

    await pushImage(image, tagged, { ...asItIs, compression: 'gzip' }, services, call())
    expect(pushed().layers.map((descriptor) => descriptor.digest)).toEqual([digest])

    await pushImage(image, tagged, { ...asItIs, compression: 'gzip', level: 5 }, services, call())
    expect(pushed().layers.map((descriptor) => descriptor.digest)).not.toEqual([digest])
    const [made] = await bench.store.memory.blobsOf(diffId)
    expect(made).toMatchObject({
      digest: pushed().layers[0]?.digest,
      recipe: expect.stringMatching(/^gzip:5:/),
    })

    await pushImage(image, tagged, { ...asItIs, level: 5 }, services, call())
    expect(pushed().layers[0]?.digest).toBe(made?.digest)
  })

  test('zstd makes the image OCI, and docker format refuses it', async () => {
    const layer = await layerWith({ f: 'x'.repeat(1000) })
    const image = await imageOf([layer])
    await pushImage(image, tagged, { ...asItIs, compression: 'zstd' }, services, call())
    const document = pushed()
    expect(document.mediaType).toBe('application/vnd.oci.image.manifest.v1+json')
    expect(document.config.mediaType).toBe('application/vnd.oci.image.config.v1+json')
    expect(document.layers[0]?.mediaType).toBe('application/vnd.oci.image.layer.v1.tar+zstd')
    const blob = contentOf(document.layers[0]?.digest ?? ('' as Digest))
    expect(digestOf(execFileSync('zstd', ['-dc'], { input: blob }))).toBe(layer.diffId)

    const docker = { ...asItIs, compression: 'zstd', format: 'docker' } as const
    const refused = await failureOf(pushImage(image, tagged, docker, services, call()))
    expect([refused.code, refused.message]).toEqual([
      'ISB_ARGUMENT_INVALID',
      'images in docker format have no zstd layers',
    ])
    // What was made as zstd for somebody who asked for it does not turn later pushes into OCI images.
    await pushImage(image, { endpoint, reference: '2' }, asItIs, services, call())
    expect(pushed(undefined, '2').layers[0]?.mediaType).toMatch(/docker.*gzip$/)
    const [form] = await bench.store.memory.blobsOf(layer.diffId as DiffId)
    await pushImage(image, tagged, { ...asItIs, compression: 'zstd' }, services, call())
    expect((await bench.store.memory.blobsOf(layer.diffId as DiffId))[0]).not.toEqual(form)
    await pushImage(image, { endpoint, reference: '3' }, { ...asItIs, format: 'oci' }, services, call())
    expect(pushed(undefined, '3').layers[0]?.mediaType).toMatch(/oci.*gzip$/)
  })

  test('an image that came with zstd layers stays one', async () => {
    const layer = await layerWith({ f: 'x'.repeat(1000) })
    const image = await imageOf([layer])
    const fetched = execFileSync('zstd', ['-c'], { input: await tarOf(layer) })
    const digest = digestOf(fetched)
    const blob = { digest, size: fetched.length, compression: 'zstd', recipe: null } as const
    await bench.store.memory.rememberBlob(layer.diffId as DiffId, blob)
    registry.blobs.set('r.test:5000/a/b', new Map([[digest, fetched]]))
    await pushImage(image, tagged, asItIs, services, call())
    expect(pushed().layers).toEqual([
      { mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd', digest, size: fetched.length },
    ])
    await pushImage(image, tagged, { ...asItIs, format: 'docker' }, services, call())
    expect(pushed().layers[0]?.mediaType).toMatch(/docker.*gzip$/)
  })

  test.each([0, 10, 2.5, Number.NaN])('level %s is refused before anything is asked', async (level) => {
    const image = await imageOf([await layerWith({ f: 'x' })])
    const failure = await failureOf(pushImage(image, tagged, { ...asItIs, level }, services, call()))
    expect(failure.code).toBe('ISB_ARGUMENT_INVALID')
    expect(registry.requests).toEqual([])
  })

  test('the first failure stops the others and is the one that is told', async () => {
    const layers = await Promise.all([1, 2, 3, 4, 5, 6].map((i) => layerWith({ f: `${i}` })))
    const image = await imageOf(layers)
    let under = 0
    let stopped = 0
    registry.beforeUpload = async (_blob, signal) => {
      under += 1
      if (under === 3) throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', 'r.test:5000: 503')
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
      stopped += 1
      throw new BuilderError('ISB_CANCELLED', 'cancelled')
    }
    const failure = await failureOf(pushImage(image, tagged, asItIs, services, call()))
    expect(failure.message).toBe('r.test:5000: 503')
    expect(stopped).toBe(under - 1)
    expect(uploads().length).toBeLessThan(6)
    expect(registry.manifests.size).toBe(0)
    expect(await bench.files()).toEqual([])
  })

  test('that may not write says so before anything is compressed', async () => {
    const image = await imageOf([await layerWith({ big: randomBytes(40_000_000) })])
    registry.beforeUpload = async ({ size }) => {
      if (size < 10_000) throw new BuilderError('ISB_REGISTRY_DENIED', 'r.test:5000: 403')
    }
    const jobs: string[] = []
    const workers: TransferServices['workers'] = {
      async run(job, params, signal) {
        const result = await services.workers.run(job, params, signal)
        jobs.push(job)
        return result
      },
    }
    const failure = await failureOf(pushImage(image, tagged, asItIs, { ...services, workers }, call()))
    expect(failure.message).toBe('r.test:5000: 403')
    expect(jobs).not.toContain('compressLayer')
    expect(uploads()).toEqual([expect.stringContaining(image.id)])
    expect(await bench.files()).toEqual([])
  })

  test('an abort ends it, and leaves no file', async () => {
    const image = await imageOf(await threeLayers())
    const controller = new AbortController()
    registry.beforeUpload = async () => controller.abort()
    const failure = await failureOf(
      pushImage(image, tagged, asItIs, services, call({ signal: controller.signal })),
    )
    expect(failure.code).toBe('ISB_CANCELLED')
    expect(registry.manifests.size).toBe(0)
    expect(await bench.files()).toEqual([])
  })

  test('what was sent before a failure is not sent again, also by the next daemon', async () => {
    const layers = await threeLayers()
    const image = await imageOf(layers)
    let taken = 0
    registry.beforeUpload = async () => {
      taken += 1
      if (taken === 3) throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', 'gone')
    }
    await failureOf(pushImage(image, tagged, asItIs, services, call()))
    const there = registry.blobs.get('r.test:5000/a/b')?.size ?? 0
    expect(there).toBeGreaterThan(0)
    use(await bench.reopened())
    registry.beforeUpload = async () => undefined
    registry.requests.length = 0
    await pushImage(image, tagged, asItIs, services, call())
    expect(uploads()).toHaveLength(layers.length + 1 - there)
    expect(pushed().layers).toHaveLength(3)
  })

  test('a layer that is no longer what it was is reported, and nothing of it is sent', async () => {
    const layer = await layerWith({ f: 'as it was' })
    const image = await imageOf([layer])
    writeFileSync(join(bench.store.layers.directory(layer.id), 'diff/f'), 'tampered!')
    const failure = await failureOf(pushImage(image, tagged, asItIs, services, call()))
    expect(failure.code).toBe('ISB_IMAGE_DAMAGED')
    expect(uploads().filter((request) => !request.includes(image.id))).toEqual([])
    const again = await failureOf(pushImage(image, tagged, asItIs, services, call()))
    expect(again.code).toBe('ISB_IMAGE_DAMAGED')
  })

  test('content alone gives the manifest that a list names by its digest', async () => {
    const image = await imageOf([await layerWith({ f: 'x' })])
    const { descriptor } = await pushContent(image, endpoint, { ...asItIs, format: 'oci' }, services, call())
    expect(registry.manifests.size).toBe(0)
    const byDigest = await pushImage(
      image,
      { endpoint, reference: undefined },
      { ...asItIs, format: 'oci' },
      services,
      call(),
    )
    expect(byDigest).toEqual(descriptor)
    expect([...registry.manifests.keys()]).toEqual([`r.test:5000/a/b:${descriptor.digest}`])
  })

  test('a digest that the manifest does not have is no place to push to', async () => {
    const image = await imageOf([await layerWith({ f: 'x' })])
    const to = { endpoint, reference: digestOf('something else') }
    const failure = await failureOf(pushImage(image, to, asItIs, services, call()))
    expect(failure.code).toBe('ISB_DIGEST_MISMATCH')
    expect(registry.manifests.size).toBe(0)
  })
})

async function tarOf(layer: LayerRecord): Promise<Buffer> {
  const file = join(bench.roots.dataRoot, `${digestHex(layer.diffId as DiffId)}.gz`)
  await workshop.workers.run('compressLayer', {
    ...{ layerDirectory: bench.store.layers.directory(layer.id), keepsHeaders: false, file },
    ...{ expectedDiffId: undefined, compression: 'gzip', level: 1 },
  })
  return gunzipSync(readFileSync(file))
}
