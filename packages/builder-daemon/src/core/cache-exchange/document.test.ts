import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, digestOf } from '@isula-build/shared/oci/digest.js'
import { expect, test } from 'vitest'
import { type Random, seededRandom } from '../../../../../test/support/random-choices.js'
import { type CacheDocument, cacheLimits, decodeCacheDocument, encodeCacheDocument } from './document.js'
import { cacheConfigType, decodeCacheManifest, encodeCacheManifest } from './manifest.js'

const shape = 'a'.repeat(64)
const diffId = (name: string) => digestOf(name) as DiffId

function randomDocument(random: Random): CacheDocument {
  const layers = Array.from({ length: 1 + random.next(5) }, (_, i) => ({
    diffId: diffId(`layer ${i}`),
    contentId: random.pick([null, `content:${'b'.repeat(64)}`]),
    blob: random.pick([null, 0, 1]),
  }))
  const stacks = Array.from({ length: 1 + random.next(5) }, (_, i) => ({
    below: i === 0 ? null : random.pick([null, random.next(i)]),
    layer: random.next(layers.length),
  }))
  const place = (): number | null => random.pick([null, random.next(stacks.length)])
  const steps = Array.from({ length: random.next(5) }, () => ({
    ...{ shape, parent: place(), inputs: random.pick([undefined, [], [place(), place()]]) },
    contentKey: random.pick(['', 'c'.repeat(64)]),
    layer: random.pick([null, random.next(layers.length)]),
  }))
  return { layers, stacks, steps }
}

const encoded = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value))
const layer = { diffId: diffId('one') }

function failure(value: unknown): string {
  try {
    decodeCacheDocument(encoded(value), 1)
    return 'none'
  } catch (error) {
    return isBuilderError(error) ? `${error.code}: ${error.message}` : String(error)
  }
}

test('what was written is read', () => {
  for (let seed = 0; seed < 200; seed++) {
    const document = randomDocument(seededRandom(seed))
    expect(decodeCacheDocument(encodeCacheDocument(document), 2)).toEqual(document)
  }
})

test('damage of any kind is an error that says so, and what is read has no place outside of it', () => {
  for (let seed = 0; seed < 3000; seed++) {
    const random = seededRandom(seed)
    const bytes = Buffer.from(encodeCacheDocument(randomDocument(random)))
    for (let changes = 1 + random.next(3); changes > 0; changes--) {
      bytes[random.next(bytes.length)] = random.pick([0x22, 0x2d, 0x31, 0x39, 0x5b, 0x7d, random.next(256)])
    }
    let document: CacheDocument
    try {
      document = decodeCacheDocument(bytes, 2)
    } catch (error) {
      expect(isBuilderError(error) && error.code).toMatch(
        /^ISB_(ARCHIVE_INVALID|LIMIT_EXCEEDED|UNSUPPORTED)$/,
      )
      continue
    }
    const { layers, stacks, steps } = document
    for (const { blob } of layers) expect(blob ?? 0).toBeLessThan(2)
    for (const [i, stack] of stacks.entries()) {
      expect(stack.below ?? -1).toBeLessThan(i)
      expect(layers[stack.layer]).toBeDefined()
    }
    for (const step of steps) {
      if (step.layer !== null) expect(layers[step.layer]).toBeDefined()
      for (const place of [step.parent, ...(step.inputs ?? [])]) {
        if (place !== null) expect(stacks[place]).toBeDefined()
      }
    }
  }
})

test.each([
  ['nothing', null, 'ISB_ARCHIVE_INVALID'],
  ['another version', { version: 2 }, 'ISB_UNSUPPORTED'],
  ['a diff ID that is none', { version: 1, layers: [{ diffId: 'sha256:../../etc' }] }, 'ISB_ARCHIVE_INVALID'],
  ['a blob that is not there', { version: 1, layers: [{ ...layer, blob: 1 }] }, 'ISB_ARCHIVE_INVALID'],
  ['a negative place', { version: 1, layers: [{ ...layer, blob: -1 }] }, 'ISB_ARCHIVE_INVALID'],
  [
    'a stack on itself',
    { version: 1, layers: [layer], stacks: [{ below: 0, layer: 0 }] },
    'ISB_ARCHIVE_INVALID',
  ],
  [
    'a stack that nobody can mount',
    {
      ...{ version: 1, layers: [layer] },
      stacks: Array.from({ length: 128 }, (_, i) => ({ ...(i > 0 && { below: i - 1 }), layer: 0 })),
    },
    'ISB_LIMIT_EXCEEDED',
  ],
  ['too many steps', { version: 1, steps: Array(cacheLimits.steps + 1).fill({}) }, 'ISB_LIMIT_EXCEEDED'],
  [
    'too many inputs',
    { version: 1, steps: [{ shape, inputs: Array(cacheLimits.inputs + 1).fill(null) }] },
    'ISB_LIMIT_EXCEEDED',
  ],
  ['a shape that is none', { version: 1, steps: [{ shape: 'A'.repeat(64) }] }, 'ISB_ARCHIVE_INVALID'],
  ['a key that is none', { version: 1, steps: [{ shape, contentKey: '\n' }] }, 'ISB_ARCHIVE_INVALID'],
])('%s is refused', (_, value, code) => {
  expect(failure(value)).toMatch(new RegExp(`^${code}: `))
})

test('a document of any size is refused before it is read', () => {
  expect(() => decodeCacheDocument(Buffer.alloc(cacheLimits.document + 1), 0)).toThrow('more than')
})

test('a manifest names the document and its layers, and an image is none', () => {
  const config = { digest: digestOf('config'), size: 6 }
  const blob = { digest: digestOf('blob'), size: 4, compression: 'zstd' as const }
  const { bytes, descriptor } = encodeCacheManifest(config, [blob])
  expect(descriptor.digest).toBe(digestOf(bytes))
  expect(decodeCacheManifest(bytes, 'x')).toEqual({
    config: { mediaType: cacheConfigType, ...config },
    layers: [
      { mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd', digest: blob.digest, size: blob.size },
    ],
  })
  // Registries want a manifest to have a layer.
  expect(decodeCacheManifest(encodeCacheManifest(config, []).bytes, 'x').layers).toMatchObject([{ size: 2 }])
  const image = JSON.parse(Buffer.from(bytes).toString('utf8'))
  image.config.mediaType = 'application/vnd.oci.image.config.v1+json'
  expect(() => decodeCacheManifest(encoded(image), 'x')).toThrow('x is no build cache')
})
