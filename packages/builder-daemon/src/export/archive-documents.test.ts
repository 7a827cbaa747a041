import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { decodeImageConfig } from '@isula-build/shared/oci/image-config-decode.js'
import { expect, test } from 'vitest'
import { processorTime } from '../../../../test/support/processor-time.js'
import { decodeManifestDocument } from '../core/image/manifest-document.js'
import { decodeDockerManifest, decodeRepositories } from './docker-archive.js'
import { decodeRenames, decodeSeparatedEntry } from './separated-manifest.js'

const hex = 'ab'.repeat(32)
const indexType = 'application/vnd.oci.image.index.v1+json'
const manifestType = 'application/vnd.oci.image.manifest.v1+json'
const descriptor = { mediaType: 'x', digest: `sha256:${hex}`, size: 3 }
const config = {
  architecture: 'amd64',
  os: 'linux',
  rootfs: { type: 'layers', diff_ids: [`sha256:${hex}`] },
}

function bytes(value: unknown): Buffer {
  return Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))
}

const decoders: readonly (readonly [string, (input: Uint8Array) => unknown, unknown])[] = [
  ['a docker manifest', decodeDockerManifest, [{ Config: 'c.json', RepoTags: ['a:b'], Layers: ['l.tar'] }]],
  ['repositories', decodeRepositories, { a: { b: hex } }],
  [
    'a manifest',
    (input) => decodeManifestDocument(input, 'it', manifestType),
    { config: descriptor, layers: [descriptor] },
  ],
  ['an index', (input) => decodeManifestDocument(input, 'it', indexType), { manifests: [descriptor] }],
  ['a configuration', decodeImageConfig, config],
  ['a separated manifest', (input) => decodeSeparatedEntry(input, 'a:b'), { 'a:b': { app: 'a', base: 'b' } }],
  ['renames', decodeRenames, [{ name: 'a', rename: 'b' }]],
]

test.each(decoders)('%s is decoded, and refused when it is anything else', (_what, decode, valid) => {
  decode(bytes(valid))
  for (const wrong of [
    '',
    '{',
    'null',
    '1',
    '"a"',
    '[1]',
    '[null]',
    '[[]]',
    '{"manifests":1}',
    '\ufeff[]',
    '[{}]x',
  ]) {
    expect(() => decode(bytes(wrong)), wrong).toThrow(BuilderError)
  }
  expect(() => decode(Buffer.concat([Buffer.from('["'), Buffer.from([0xff]), Buffer.from('"]')]))).toThrow(
    BuilderError,
  )
})

test.each(decoders)('%s nested 100,000 deep is refused', (_what, decode) => {
  expect(() => decode(bytes('['.repeat(100_000)))).toThrow(/deeper/)
  expect(() => decode(bytes('{"a":'.repeat(100_000)))).toThrow(/deeper/)
})

test('special keys pollute nothing and hide nothing', () => {
  decodeRepositories(bytes('{"a":{"__proto__":"x","constructor":"y"}}'.replace('__proto__', 'b')))
  const decoded = decodeImageConfig(
    bytes(
      '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"architecture":"amd64","os":"linux",' +
        '"config":{"Labels":{"__proto__":"x","constructor":"y"},"Volumes":{"__proto__":{}}},' +
        '"rootfs":{"type":"layers","diff_ids":[]}}',
    ),
  )
  expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
  expect(Object.keys(decoded.config.Labels ?? {})).toEqual(['__proto__', 'constructor'])
  expect(Object.keys(decoded.config.Volumes ?? {})).toEqual(['__proto__'])
  expect(() => decodeImageConfig(bytes('{"__proto__":{"architecture":"amd64","os":"linux"}}'))).toThrow(
    BuilderError,
  )
})

test('of equal keys the last one counts', () => {
  const [image] = decodeDockerManifest(bytes('[{"Config":"a","Config":"b","Layers":["x"],"Layers":["y"]}]'))
  expect(image).toMatchObject({ config: 'b', layers: ['y'] })
})

test('null stands for absent, as Go writes it', () => {
  const decoded = decodeImageConfig(
    bytes({ ...config, history: null, config: { Cmd: null, Labels: null, Volumes: null, OnBuild: null } }),
  )
  expect(decoded.config).toEqual({})
  expect(decoded.history).toBeUndefined()
  expect(decodeDockerManifest(bytes([{ Config: 'c', RepoTags: null, Layers: null }]))).toEqual([
    { config: 'c', layers: [], names: [] },
  ])
})

test.each([
  ['sha512', `sha512:${'ab'.repeat(64)}`],
  ['md5', `md5:${'ab'.repeat(16)}`],
  ['a path', 'sha256:../../../../etc/passwd'],
  ['upper case', `sha256:${hex.toUpperCase()}`],
  ['63 digits', `sha256:${hex.slice(1)}`],
  ['a newline', `sha256:${hex}\n`],
  ['nothing', ''],
])('a digest that is %s is refused', (_what, digest) => {
  const bad = { ...descriptor, digest }
  expect(() => decodeManifestDocument(bytes({ manifests: [bad] }), 'it', undefined)).toThrow(/digest/)
  expect(() => decodeManifestDocument(bytes({ config: descriptor, layers: [bad] }), 'it', undefined)).toThrow(
    /digest/,
  )
  expect(() => decodeManifestDocument(bytes({ config: bad, layers: [] }), 'it', undefined)).toThrow(/digest/)
  const badConfig = { ...config, rootfs: { type: 'layers', diff_ids: [digest] } }
  expect(() => decodeImageConfig(bytes(badConfig))).toThrow(/diff ID/)
})

test.each([-1, 1.5, 2 ** 60, '3', null])('a size of %s is refused', (size) => {
  const document = bytes({ manifests: [{ ...descriptor, size }] })
  expect(() => decodeManifestDocument(document, 'it', undefined)).toThrow(BuilderError)
})

test('a document that is both manifest and index is refused', () => {
  const both = { manifests: [descriptor], layers: [descriptor], config: descriptor }
  expect(() => decodeManifestDocument(bytes(both), 'it', manifestType)).toThrow(/ambiguous/)
  const empty = bytes({ manifests: [], config: descriptor, layers: [] })
  expect(() => decodeManifestDocument(empty, 'it', indexType)).toThrow(/ambiguous/)
  expect(() => decodeManifestDocument(bytes({ manifests: null, fsLayers: [] }), 'it', undefined)).toThrow(
    /ambiguous/,
  )
})

test('a document must be what its media type says', () => {
  const manifest = { config: descriptor, layers: [] }
  expect(() => decodeManifestDocument(bytes(manifest), 'it', indexType)).toThrow(/media type/)
  expect(() => decodeManifestDocument(bytes({ manifests: [] }), 'it', manifestType)).toThrow(/media type/)
  expect(() =>
    decodeManifestDocument(bytes({ ...manifest, mediaType: indexType }), 'it', manifestType),
  ).toThrow(/its descriptor says/)
  expect(decodeManifestDocument(bytes({ ...manifest, mediaType: manifestType }), 'it', undefined).kind).toBe(
    'manifest',
  )
})

test.each([`a@sha256:${hex}`, hex, 'UPPER:1', 'a:', 'a b:1', `a:${'x'.repeat(129)}`, '../a:1', ''])(
  'the name %j is refused',
  (name) => {
    expect(() => decodeDockerManifest(bytes([{ Config: 'c', RepoTags: [name], Layers: [] }]))).toThrow(
      BuilderError,
    )
  },
)

test('ten thousand names are decoded at once', () => {
  const RepoTags = Array.from({ length: 10_000 }, (_, i) => `docker.io/library/a:${i}`)
  const [image] = decodeDockerManifest(bytes([{ Config: 'c', RepoTags, Layers: [] }]))
  expect(image?.names[9999]).toBe('a:9999')
})

test.each(['../base.tar.gz', '/etc/passwd', '..', 'a/b', 'x\0', 'n'.repeat(256)])(
  'a separated manifest cannot name the file %j',
  (file) => {
    expect(() => decodeSeparatedEntry(bytes({ 'a:b': { app: file, base: 'b' } }), 'a:b')).toThrow(/file name/)
    expect(() => decodeSeparatedEntry(bytes({ 'a:b': { app: 'a', base: 'b', lib: file } }), 'a:b')).toThrow(
      /file name/,
    )
    expect(() => decodeRenames(bytes([{ name: 'a', rename: file }]))).toThrow(/file name/)
  },
)

// Of processor time; on the clock it may be many times that.
const seconds = Number(process.env['ISULA_FUZZ_SECONDS'] ?? 5)

test(
  'damaged documents give a value or a clear error',
  () => {
    const deadline = processorTime() + seconds * 1000
    let seed = Date.now() % 2 ** 31
    while (processorTime() < deadline) {
      for (const [what, decode, valid] of decoders) {
        const input = mutate(bytes(valid), seed)
        try {
          decode(input)
        } catch (error) {
          if (error instanceof BuilderError) continue
          throw new Error(`${what} failed on seed ${seed}: ${input.toString('latin1')}`, { cause: error })
        }
      }
      seed++
    }
  },
  seconds * 30_000 + 30_000,
)

const snippets = [
  'null',
  '[]',
  '{}',
  '""',
  '-1',
  '1e999',
  '"\\ud800"',
  '"__proto__":{}',
  ',',
  ':',
  'true',
  '\\u0000',
]

function mutate(input: Buffer, seed: number): Buffer {
  let state = seed
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    return (state >>> 8) % below
  }
  let text = input.toString('latin1')
  for (let changes = 1 + random(4); changes > 0; changes--) {
    const at = random(text.length + 1)
    const removed = random(6)
    const added =
      random(2) === 0 ? String.fromCharCode(random(256)) : (snippets[random(snippets.length)] ?? '')
    text = text.slice(0, at) + added + text.slice(at + removed)
  }
  return Buffer.from(text, 'latin1')
}
