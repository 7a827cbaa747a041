import { execFileSync } from 'node:child_process'
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { gzipSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type PullOptions, pullImage } from '../../packages/builder-daemon/src/core/transfer/pull.js'
import type { PullResult, TransferCall } from '../../packages/builder-daemon/src/core/transfer/transfer.js'
import { rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import { ownedImages } from '../../packages/builder-daemon/src/service/owned-images.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { type Digest, digestHex, digestOf } from '../../packages/shared/src/oci/digest.js'
import { mediaTypes } from '../../packages/shared/src/oci/media-types.js'
import { anonymous } from '../support/memory-registry.js'
import { plainRules, type SourceImage, type SourceLayer } from '../support/source-registry.js'
import { configBytes } from '../support/temporary-store.js'
import { openTransferBench, type TransferBench } from '../support/transfer-bench.js'

const own: PullOptions = { platforms: [], names: 'reference' }
const name = 'r.test/a/b:1'
const arm = { os: 'linux', architecture: 'arm64' }

let bench: TransferBench

beforeEach(async () => {
  bench = await openTransferBench()
})
afterEach(() => bench[Symbol.asyncDispose]())

function layer(content: string, rest: Partial<SourceLayer> = {}): SourceLayer {
  return { tar: rawTar({ name: `file-${content.slice(0, 20)}`, content }), ...rest }
}

const three: SourceImage = { layers: [layer('one'), layer('two'), layer('three')] }

function pull(
  text = name,
  options: PullOptions = own,
  rest: Partial<TransferCall> = {},
): Promise<PullResult> {
  return pullImage(text, options, bench.services, bench.call(rest))
}

const asked = (kind: string): readonly string[] =>
  bench.registry.requests.filter((request) => request.startsWith(kind))

async function failureOf(work: Promise<unknown>): Promise<BuilderError> {
  try {
    await work
  } catch (error) {
    if (error instanceof BuilderError) return error
    throw error
  }
  throw new Error('it did not fail')
}

function downloads(): readonly string[] {
  return readdirSync(join(bench.roots.dataRoot, 'downloads'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => entry.name)
}

/** Nothing is named, staged or half there. */
async function expectNothingStored(): Promise<void> {
  expect(await bench.store.images.list()).toEqual([])
  expect(readdirSync(join(bench.roots.dataRoot, 'staging'))).toEqual([])
  await bench.store.settle()
  expect(await bench.store.check()).toEqual([])
}

describe.skipIf(getuid?.() !== 0)('a pull (needs root)', () => {
  test('stores layers, configuration and name, says what the original says, and fetches nothing twice', async () => {
    const manifest = bench.registry.add(name, three)
    const progress: string[] = []
    const result = await pull(name, own, {
      onProgress: (digest, done, total) => progress.push(`${digest} ${done}/${total}`),
    })
    expect(result).toMatchObject({ digest: manifest.digest, reference: { domain: 'r.test', path: 'a/b' } })
    const record = await bench.store.images.get('r.test/a/b:1')
    expect(record).toMatchObject({ id: result.images[0]?.record.id, names: ['r.test/a/b:1'], damaged: false })
    expect(record?.layers.map(({ diffId }) => diffId)).toEqual(three.layers.map(({ tar }) => digestOf(tar)))
    const blobs = asked('blob').map((request) => request.split(' ')[2] ?? '')
    expect(bench.lines[0]).toBe('Getting image source signatures')
    expect(bench.lines.slice(1, 4).sort()).toEqual(blobs.map((digest) => `Copying blob ${digest}`).sort())
    expect(bench.lines.slice(4)).toEqual([
      `Copying config sha256:${record?.id}`,
      'Writing manifest to image destination',
      'Storing signatures',
    ])
    expect(progress).toHaveLength(6)
    expect(downloads()).toEqual([])
    bench.registry.requests.length = 0
    bench.lines.length = 0
    await pull()
    expect(bench.registry.requests).toEqual(['manifest r.test/a/b 1'])
    expect(bench.lines.filter((line) => line.endsWith('skipped: already exists'))).toHaveLength(3)
  })

  test('remembers forms of layers, places of blobs and digests', async () => {
    const manifest = bench.registry.add(name, three)
    const { images } = await pull()
    const { memory } = bench.store
    const [first] = three.layers
    if (first === undefined) throw new Error('no layer')
    const [form] = await memory.blobsOf(digestOf(first.tar) as Digest & { readonly __diff: 'DiffId' })
    expect(form).toMatchObject({ compression: 'gzip', recipe: null })
    expect(await memory.placesOf(0, 'r.test', form?.digest as Digest)).toEqual(['a/b'])
    expect(await memory.imagesOf('r.test/a/b', manifest.digest)).toEqual([images[0]?.record.id])
  })

  test('does not learn the form of a layer that it did not unpack', async () => {
    bench.registry.add(name, { layers: [layer('known')] })
    await pull()
    // Another image claims that quite another blob is that layer.
    const liar = layer('evil', {})
    bench.registry.add('r.test/liar:1', {
      layers: [liar],
      config: { rootfs: { type: 'layers', diff_ids: [digestOf(layer('known').tar)] } },
    })
    await pull('r.test/liar:1')
    const forms = await bench.store.memory.blobsOf(digestOf(layer('known').tar) as never)
    expect(forms).toHaveLength(1)
  })

  test('takes plain and zstd layers, empty ones, and the same one twice', async () => {
    const plain = layer('plain')
    const packed = layer('zstd')
    const empty = { tar: Buffer.alloc(1024) }
    const twice = layer('twice')
    bench.registry.add(name, {
      layers: [
        { ...plain, blob: plain.tar, mediaType: mediaTypes.ociLayer },
        twice,
        { ...packed, blob: compressed(packed.tar), mediaType: mediaTypes.ociLayerZstd },
        empty,
        twice,
        empty,
      ],
    })
    const { images } = await pull()
    expect(images[0]?.record.layers).toHaveLength(6)
    expect(new Set(asked('blob')).size).toBe(asked('blob').length)
    expect(asked('blob')).toHaveLength(4)
    const forms = await Promise.all(
      [plain, packed].map(({ tar }) => bench.store.memory.blobsOf(digestOf(tar) as never)),
    )
    expect(forms.flat().map(({ compression }) => compression)).toEqual(['none', 'zstd'])
    expect(downloads()).toEqual([])
  })

  test('an image without layers is one too', async () => {
    bench.registry.add(name, { layers: [] })
    expect((await pull()).images[0]?.record.layers).toEqual([])
  })

  test('by digest gives no name; a tag beside it means nothing', async () => {
    const { digest } = bench.registry.add(name, three)
    bench.registry.add('r.test/a/b:moved', { layers: [] })
    const result = await pull(`r.test/a/b:moved@${digest}`)
    expect(result.digest).toBe(digest)
    expect(result.images[0]?.record.names).toEqual([])
    expect(asked('manifest')).toEqual([`manifest r.test/a/b ${digest}`])
  })

  test('docker:// is where it looks anyway', async () => {
    bench.registry.add(name, three)
    expect((await pull(`docker://${name}`)).images[0]?.record.names).toEqual(['r.test/a/b:1'])
  })

  test('a name of another user is left to him when it does not matter, else it is an error', async () => {
    bench.registry.add(name, three)
    await pull()
    bench.registry.add(name, { ...three, label: 'newer' })
    const access = { ...bench.call().access, uid: 1234 }
    const services = {
      ...bench.services,
      images: { ...bench.store.images, put: (image: never, lease: never) => put(image, lease) },
    }
    const put = (image: object, lease: never) =>
      bench.store.images.put({ ...(image as never as { names: [] }), owner: 1234 } as never, lease)
    const error = await failureOf(pullImage(name, own, services, bench.call({ access })))
    expect(error.code).toBe('ISB_PERMISSION_DENIED')
    expect(asked('blob')).toHaveLength(3)
    const polite: PullOptions = { ...own, names: 'if-allowed' }
    const { images } = await pullImage(name, polite, services, bench.call({ access }))
    expect(images[0]?.record.names).toEqual([])
    expect(bench.lines.some((line) => line.startsWith('[Warning] The image is stored without'))).toBe(true)
  })
})

test.skipIf(getuid?.() !== 0)(
  'a name that the user may not give is refused before any blob is fetched',
  async () => {
    const theirs = await bench.store.images.put(
      { configBytes: configBytes([], 'theirs'), layers: [], names: [name], owner: 7 },
      bench.lease,
    )
    bench.registry.add(name, three)
    const caller = { uid: 1234, gid: 1234, groups: [], pid: 1, sameMountNamespace: true }
    const services = { ...bench.services, images: ownedImages(bench.store.images, caller) }
    const access = { ...bench.call().access, uid: 1234 }
    const error = await failureOf(pullImage(name, own, services, bench.call({ access })))
    expect(error).toMatchObject({
      code: 'ISB_PERMISSION_DENIED',
      message: 'uid 1234 may not take the name "r.test/a/b:1": it belongs to uid 7',
    })
    expect(asked('blob')).toEqual([])
    expect((await bench.store.images.get(name))?.id).toBe(theirs.id)
  },
)

describe.skipIf(getuid?.() !== 0)('where a pull looks (needs root)', () => {
  test('candidates in order, localhost without patience; the error names all with their reasons', async () => {
    bench.registry.add('q.test/tool:latest', three)
    const services = { ...bench.services, rules: plainRules({ search: ['docker.io', 'q.test'] }) }
    const result = await pullImage('tool', own, services, bench.call())
    expect(result.images[0]?.record.names).toEqual(['q.test/tool:latest'])
    expect(asked('manifest')).toEqual([
      'manifest localhost/tool latest',
      'manifest docker.io/library/tool latest',
      'manifest q.test/tool latest',
    ])
    expect(bench.registry.retries.slice(0, 3)).toEqual([0, undefined, undefined])
    expect(bench.lines.slice(0, 2)).toEqual([
      'localhost/tool:latest is passed over: localhost/tool: 404 no manifest latest',
      'docker.io/library/tool:latest is passed over: docker.io/library/tool: 404 no manifest latest',
    ])
    const error = await failureOf(pullImage('tool:9', own, services, bench.call()))
    expect(error).toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
      message:
        'failed to get the image in [localhost/tool:9 docker.io/library/tool:9 q.test/tool:9]: ' +
        'localhost/tool: 404 no manifest 9; docker.io/library/tool: 404 no manifest 9; ' +
        'q.test/tool: 404 no manifest 9',
    })
  })

  test('a short name that is not here has nowhere to be without search registries', async () => {
    const services = { ...bench.services, rules: plainRules({ search: [] }) }
    bench.registry.fault = (request) => {
      throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', `${request}: refused`)
    }
    expect(await failureOf(pullImage('tool', own, services, bench.call()))).toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
      message: 'image "tool" not found in local store',
      hint: expect.stringContaining('search registries'),
    })
    expect(bench.registry.retries).toEqual([0])
    expect(await failureOf(pullImage('localhost/tool', own, services, bench.call()))).toMatchObject({
      code: 'ISB_REGISTRY_UNAVAILABLE',
    })
  })

  test.each(['ISB_REGISTRY_UNAVAILABLE', 'ISB_DIGEST_MISMATCH', 'ISB_MANIFEST_INVALID'] as const)(
    'nobody else is asked for what one may have: %s; only localhost is a guess',
    async (code) => {
      bench.registry.add('q.test/tool:latest', three)
      const services = { ...bench.services, rules: plainRules({ search: ['own.test', 'q.test'] }) }
      bench.registry.fault = (request) => {
        if (/ (own\.test|localhost)\//.test(request)) throw new BuilderError(code, `${request}: reason`)
      }
      const error = await failureOf(pullImage('tool', own, services, bench.call()))
      expect(error).toMatchObject({
        code,
        message:
          'failed to get the image in [localhost/tool:latest own.test/tool:latest]: ' +
          'manifest localhost/tool latest: reason; manifest own.test/tool latest: reason',
      })
      expect(error.hint).toContain('write the one you mean')
      expect(asked('manifest q.test')).toEqual([])
      await expectNothingStored()
    },
  )

  test('one that denies the image is asked no further, and the next one is', async () => {
    bench.registry.add('q.test/tool:latest', three)
    const services = { ...bench.services, rules: plainRules({ search: ['own.test', 'q.test'] }) }
    bench.registry.fault = (request) => {
      if (request.includes(' own.test/')) throw new BuilderError('ISB_REGISTRY_DENIED', 'own.test: 401')
    }
    const { images } = await pullImage('tool', own, services, bench.call())
    expect(images[0]?.record.names).toEqual(['q.test/tool:latest'])
  })

  test('nobody waits for a mirror while there is another place, nor asks it twice', async () => {
    bench.registry.add(name, three)
    bench.registry.fault = (request) => {
      if (request.includes(' m.test/')) throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', 'm.test: dead')
    }
    const services = { ...bench.services, rules: plainRules({ mirrors: ['m.test'] }) }
    await pullImage(name, own, services, bench.call())
    expect(bench.registry.requests.filter((request) => request.includes('m.test'))).toHaveLength(1)
    expect(bench.registry.retries).toEqual([0, ...Array.from({ length: 5 }, () => undefined)])
  })

  test.each([
    ['fails', 'ISB_REGISTRY_UNAVAILABLE'],
    ['lies', 'ISB_DIGEST_MISMATCH'],
    ['lacks it', 'ISB_IMAGE_NOT_FOUND'],
  ] as const)('a mirror that %s is passed over with a line', async (_, code) => {
    bench.registry.add(name, three)
    bench.registry.fault = (request) => {
      if (request.includes(' m.test/')) throw new BuilderError(code, 'm.test: reason')
    }
    const services = { ...bench.services, rules: plainRules({ mirrors: ['m.test'] }) }
    await pullImage(name, own, services, bench.call())
    expect(bench.lines[0]).toBe('[Warning] m.test/a/b is passed over: m.test: reason')
    expect(asked('blob r.test')).toHaveLength(3)
  })

  test('what the mirror with the manifest lacks comes from the others', async () => {
    bench.registry.add(name, three)
    bench.registry.add('m.test/a/b:1', three)
    bench.registry.fault = (request) => {
      if (/^(blob|config) m\.test/.test(request)) throw new BuilderError('ISB_REGISTRY_DENIED', 'no')
    }
    const services = { ...bench.services, rules: plainRules({ mirrors: ['m.test'] }) }
    const { images } = await pullImage(name, own, services, bench.call())
    expect(images[0]?.record.names).toEqual(['r.test/a/b:1'])
    expect([asked('manifest').length, asked('blob r.test').length]).toEqual([1, 3])
  })

  test('the policy is asked before anything else is fetched', async () => {
    const image = bench.registry.add('r.test/a/b:amd64', three)
    bench.registry.addIndex(name, [image])
    const seen: unknown[] = []
    const rules = plainRules({
      admit: async ({ manifest, index, reference }) => {
        seen.push([manifest.digest, index?.mediaType, reference.tag])
        throw new BuilderError('ISB_POLICY_REJECTED', 'rejected')
      },
    })
    const error = await failureOf(pullImage(name, own, { ...bench.services, rules }, bench.call()))
    expect(error.code).toBe('ISB_POLICY_REJECTED')
    expect(seen).toEqual([[image.digest, mediaTypes.ociIndex, '1']])
    expect([...asked('blob'), ...asked('config')]).toEqual([])
    await expectNothingStored()
  })
})

describe.skipIf(getuid?.() !== 0)('of a list (needs root)', () => {
  function list() {
    const amd = bench.registry.add('r.test/a/b:x', { ...three, label: 'amd' })
    const arm64 = bench.registry.add('r.test/a/b:y', { ...three, label: 'arm', platform: arm })
    const attestation = bench.registry.add('r.test/a/b:z', { layers: [], label: 'attest' })
    return {
      amd,
      arm64,
      attestation: {
        ...attestation,
        platform: { os: 'unknown', architecture: 'unknown' },
        annotations: { 'vnd.docker.reference.type': 'attestation-manifest' },
      },
    }
  }

  test('a pull takes the image for the platform, all of them, or says what there is', async () => {
    const { amd, arm64, attestation } = list()
    const top = bench.registry.addIndex(name, [attestation, arm64, amd])
    const result = await pull()
    expect([result.digest, result.images.map(({ digest }) => digest)]).toEqual([top.digest, [amd.digest]])
    const all = await pull(name, { platforms: 'all', names: 'reference' })
    expect(all.images.map(({ digest }) => digest)).toEqual([arm64.digest, amd.digest])
    expect(all.images.map(({ record }) => record.names)).toEqual([[], ['r.test/a/b:1']])
    expect(bench.lines).toContain(`Copying image ${arm64.digest} (1/2)`)
    expect(new Set(await bench.store.memory.imagesOf('r.test/a/b', top.digest)).size).toBe(2)
    const wanted = { os: 'linux', architecture: 's390x' }
    const error = await failureOf(pull(name, { platforms: [wanted], names: 'none' }))
    expect(error).toMatchObject({
      code: 'ISB_PLATFORM_UNSUPPORTED',
      message: expect.stringMatching(/no image for linux\/s390x, only for linux\/arm64, linux\/amd64$/),
    })
  })

  test('with a single image for another platform it is no image for this one', async () => {
    bench.registry.addIndex(name, [list().arm64])
    expect((await failureOf(pull())).message).toMatch(/no image for linux\/amd64, only for linux\/arm64/)
  })

  test('lists inside lists are followed, not for ever', async () => {
    const { amd } = list()
    let top = amd
    for (let depth = 1; depth <= 4; depth++) {
      const { platform: _, ...plain } = top
      top = bench.registry.addIndex(depth === 1 ? name : `r.test/a/b:d${depth}`, [depth === 1 ? top : plain])
    }
    expect((await pull('r.test/a/b:d4')).images[0]?.digest).toBe(amd.digest)
    bench.registry.addIndex('r.test/a/b:deep', [top])
    expect((await failureOf(pull('r.test/a/b:deep'))).code).toBe('ISB_LIMIT_EXCEEDED')
  })

  test('that names one list again and again is followed once', async () => {
    const { amd, arm64 } = list()
    let { platform: _, ...top } = bench.registry.addIndex('r.test/a/b:d1', [amd, arm64]) as typeof amd
    for (const depth of [2, 3, 4]) {
      const copies = Array.from({ length: 2000 }, () => top)
      top = bench.registry.addIndex(`r.test/a/b:d${depth}`, copies)
    }
    bench.registry.requests.length = 0
    const all = await pull('r.test/a/b:d4', { platforms: 'all', names: 'none' })
    expect(all.images).toHaveLength(2)
    expect(asked('manifest')).toHaveLength(6)
  })

  test.each([
    ['documents', 600, 0, '512 documents'],
    ['bytes', 40, 1 << 20, '32 MiB of documents'],
  ] as const)('that leads to too many %s is given up', async (_, count, padding, limit) => {
    const lists = Array.from({ length: count }, (_, i) =>
      bench.registry.addDocument(`r.test/a/b:e${i}`, mediaTypes.ociIndex, {
        ...{ schemaVersion: 2, manifests: [] },
        annotations: { i: `${i}`, padding: 'x'.repeat(padding) },
      }),
    )
    bench.registry.addIndex(name, lists)
    const error = await failureOf(pull(name, { platforms: 'all', names: 'none' }))
    expect(error.code).toBe('ISB_LIMIT_EXCEEDED')
    expect(error.message).toBe(`r.test/a/b leads to more than ${limit}`)
  })

  test('an entry of another size than the list says is refused', async () => {
    const { amd } = list()
    bench.registry.addIndex(name, [{ ...amd, size: amd.size + 1 }])
    expect((await failureOf(pull())).code).toBe('ISB_DIGEST_MISMATCH')
  })

  test('an image alone is taken as it is with a word, unless a platform was asked for', async () => {
    bench.registry.add(name, { ...three, platform: arm })
    const asked = await failureOf(
      pull(name, { platforms: [{ os: 'linux', architecture: 'amd64' }], names: 'none' }),
    )
    expect(asked).toMatchObject({ code: 'ISB_PLATFORM_UNSUPPORTED' })
    await pull()
    expect(bench.lines).toContain('[Warning] r.test/a/b:1 is for linux/arm64, this machine is linux/amd64')
  })
})

describe.skipIf(getuid?.() !== 0)('what is no image is refused (needs root)', () => {
  const many = Array.from({ length: 128 }, () => ({ tar: Buffer.alloc(1024) }))
  const cases: readonly [string, SourceImage, string, RegExp][] = [
    [
      'another number of diff IDs',
      { layers: three.layers, config: { rootfs: { type: 'layers', diff_ids: [] } } },
      'ISB_MANIFEST_INVALID',
      /has 3 layers, its configuration has 0 diff IDs/,
    ],
    [
      'an artifact',
      {
        layers: [],
        manifest: {
          config: { mediaType: 'application/vnd.cncf.helm.config.v1+json', digest: digestOf('{}'), size: 2 },
        },
      },
      'ISB_MANIFEST_INVALID',
      /is no container image/,
    ],
    [
      'a layer that is none',
      { layers: [layer('x', { mediaType: 'text/plain' })] },
      'ISB_MANIFEST_INVALID',
      /layer 1 .* is no layer but "text\/plain"/,
    ],
    [
      'an encrypted layer',
      { layers: [layer('x', { mediaType: `${mediaTypes.ociLayerGzip}+encrypted` })] },
      'ISB_UNSUPPORTED',
      /is encrypted/,
    ],
    ['more layers than can be mounted', { layers: many }, 'ISB_LIMIT_EXCEEDED', /128 layers, 127 can/],
    [
      'a configuration without a platform',
      { layers: [], config: { architecture: '' } },
      'ISB_MANIFEST_INVALID',
      /configuration sha256:.* of r\.test\/a\/b: .*names no architecture/,
    ],
    [
      'a huge configuration',
      {
        layers: [],
        manifest: { config: { mediaType: mediaTypes.ociConfig, digest: digestOf('x'), size: 5e6 } },
      },
      'ISB_LIMIT_EXCEEDED',
      /the configuration of .* has 5000000 bytes/,
    ],
    [
      'a manifest that is a list too',
      { layers: [], manifest: { manifests: [] } },
      'ISB_MANIFEST_INVALID',
      /ambiguous/,
    ],
  ]
  test.each(cases)('%s', async (_, image, code, message) => {
    bench.registry.add(name, image)
    expect(await failureOf(pull())).toMatchObject({ code, message: expect.stringMatching(message) })
    expect(asked('blob')).toEqual([])
    await expectNothingStored()
  })

  test('127 layers are taken', async () => {
    bench.registry.add(name, { layers: many.slice(1) })
    expect((await pull()).images[0]?.record.layers).toHaveLength(127)
  })

  test('a foreign layer is taken when the registry has it, and never from elsewhere', async () => {
    const foreign = layer('foreign', { mediaType: mediaTypes.dockerForeignLayerGzip })
    bench.registry.add(name, { layers: [foreign] })
    bench.registry.add('r.test/without:1', {
      layers: [layer('missing', { mediaType: mediaTypes.dockerForeignLayerGzip })],
    })
    await pull()
    bench.registry.fault = (request) => {
      if (request.startsWith('blob')) throw new BuilderError('ISB_REGISTRY_DENIED', '404 BLOB_UNKNOWN')
    }
    expect((await failureOf(pull('r.test/without:1'))).message).toMatch(/marked as not to be distributed/)
  })

  test('a layer that is not what the configuration says is never stored', async () => {
    const ids = [digestOf(layer('one').tar), digestOf('other'), digestOf(layer('three').tar)]
    bench.registry.add(name, { ...three, config: { rootfs: { type: 'layers', diff_ids: ids } } })
    const error = await failureOf(pull())
    expect(error.code).toBe('ISB_DIGEST_MISMATCH')
    expect(error.message).toMatch(/^layer sha256:[0-9a-f]{64} of r\.test\/a\/b: the layer has diff ID/)
    await expectNothingStored()
  })

  test('a registry whose blobs lie leaves nothing behind', async () => {
    bench.registry.add(name, three)
    bench.registry.content = (digest, bytes) =>
      digest === digestOf(bytes) && bytes[0] === 0x1f ? Buffer.from('lie') : bytes
    expect((await failureOf(pull())).code).toBe('ISB_DIGEST_MISMATCH')
    await expectNothingStored()
  })
})

describe.skipIf(getuid?.() !== 0)('pulls that meet (needs root)', () => {
  test('fetch and unpack everything once', async () => {
    bench.registry.add(name, three)
    bench.registry.fault = () => new Promise((resolve) => setTimeout(resolve, 5))
    const results = await Promise.all(
      Array.from({ length: 30 }, async (_, i) => {
        // Some come when others are nearly done.
        await new Promise((resolve) => setTimeout(resolve, i * 3))
        return await pull()
      }),
    )
    expect(new Set(results.map(({ images }) => images[0]?.record.id)).size).toBe(1)
    expect(asked('blob')).toHaveLength(3)
    expect(bench.jobs.filter((job) => job === 'applyFile')).toHaveLength(3)
    expect(downloads()).toEqual([])
  })

  test('of several users fetch for themselves, and unpack what all of them have once', async () => {
    bench.registry.add(name, three)
    bench.registry.fault = () => new Promise((resolve) => setTimeout(resolve, 5))
    const results = await Promise.all(
      [1001, 1002, 1003].map(async (uid) => {
        const lease = await bench.store.layers.acquireLease({ uid, purpose: 'pull u' })
        return await pull(name, { ...own, names: 'none' }, { access: { ...anonymous, uid }, lease })
      }),
    )
    expect(new Set(results.map(({ images }) => images[0]?.record.id)).size).toBe(1)
    expect(asked('blob')).toHaveLength(9)
    expect(bench.jobs.filter((job) => job === 'applyFile')).toHaveLength(3)
  })

  test('go on when the one that was fetching is cancelled', async () => {
    bench.registry.add(name, three)
    let blobs = 0
    bench.registry.fault = (request, signal) => {
      if (!request.startsWith('blob')) return
      blobs += 1
      if (blobs > 3) return
      return new Promise((_, reject) => {
        signal.addEventListener('abort', () => reject(new BuilderError('ISB_CANCELLED', 'cancelled')))
      })
    }
    const leader = new AbortController()
    const first = pull(name, own, { signal: leader.signal })
    first.catch(() => undefined)
    await until(() => blobs === 3)
    const others = Array.from({ length: 5 }, () => pull())
    setTimeout(() => leader.abort(), 30)
    expect((await failureOf(first)).code).toBe('ISB_CANCELLED')
    await Promise.all(others)
    expect(blobs).toBe(6)
  })
})

describe.skipIf(getuid?.() !== 0)('a pull that is cut short (needs root)', () => {
  test('by its caller ends at once, leaves only what goes on, and goes on', async () => {
    bench.registry.add(name, three)
    const stop = new AbortController()
    bench.registry.fault = (request, signal) => {
      if (
        !request.startsWith('blob') ||
        bench.registry.requests.filter((one) => one.startsWith('blob')).length < 3
      )
        return
      return new Promise((_, reject) => {
        signal.addEventListener('abort', () => reject(new BuilderError('ISB_CANCELLED', 'cancelled')))
        setTimeout(() => stop.abort(), 20)
      })
    }
    expect((await failureOf(pull(name, own, { signal: stop.signal }))).code).toBe('ISB_CANCELLED')
    await expectNothingStored()
    bench.registry.fault = () => undefined
    bench.registry.requests.length = 0
    await pull()
    expect(asked('blob').length).toBeLessThan(3)
    expect(downloads()).toEqual([])
  })

  test('by the end of the daemon takes whole blobs after hashing them, and goes on with others', async () => {
    const [first, second, third] = three.layers
    if (first === undefined || second === undefined || third === undefined) throw new Error('three')
    bench.registry.add(name, three)
    const whole = asBlob(second)
    const half = asBlob(third)
    const directory = join(bench.roots.dataRoot, 'downloads/0')
    await bench.store.close()
    execFileSync('mkdir', ['-p', directory])
    writeFileSync(join(directory, digestHex(digestOf(whole))), whole)
    writeFileSync(join(directory, `${digestHex(digestOf(half))}.part`), half.subarray(0, 10))
    writeFileSync(join(directory, digestHex(digestOf(asBlob(first)))), 'damaged')
    await bench.reopen()
    await pull()
    expect(
      asked('blob')
        .map((request) => request.replace(/^blob r\.test\/a\/b /, ''))
        .sort(),
    ).toEqual([`${digestOf(asBlob(first))}`, `${digestOf(half)} from 10`].sort())
    expect(downloads()).toEqual([])
  })

  test.each(['ISB_NO_SPACE', 'ISB_REGISTRY_UNAVAILABLE'] as const)('by %s fails with it', async (code) => {
    bench.registry.add(name, three)
    const [, second] = three.layers
    const blob = digestOf(asBlob(second as SourceLayer))
    bench.registry.fault = (request) => {
      if (request.startsWith(`blob r.test/a/b ${blob}`)) throw new BuilderError(code, 'that is why')
    }
    expect(await failureOf(pull())).toMatchObject({ code, message: 'that is why' })
    await expectNothingStored()
    // On a full disk, what was fetched would only be in the way.
    if (code === 'ISB_NO_SPACE') expect(downloads()).toEqual([])
    else expect(downloads()).toContain(`${digestHex(blob)}.part`)
  })
})

function asBlob({ tar }: SourceLayer): Buffer {
  return gzipSync(tar)
}

function compressed(tar: Buffer): Buffer {
  return execFileSync('zstd', ['-qc'], { input: tar })
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2))
}
