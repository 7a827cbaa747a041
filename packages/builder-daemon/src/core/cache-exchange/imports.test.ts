import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, digestOf } from '@isula-build/shared/oci/digest.js'
import { beforeEach, expect, test } from 'vitest'
import type { LayerId, LayerRecord, LayerStore } from '../../ports/layer-store.js'
import type { ImportQuery } from '../solve/imported-cache.js'
import { type CacheDocument, encodeCacheDocument } from './document.js'
import { type CachePlace, importCaches, type OpenedCache } from './imports.js'

const diffId = (name: string) => digestOf(name) as DiffId
const id = (name: string) => name as LayerId
const lease = { id: 'lease' }
const shape = 'a'.repeat(64)

/** The image `base` with one layer, and a step over it that makes the layer `made`. */
const document: CacheDocument = {
  layers: [
    { diffId: diffId('base'), contentId: null, blob: null },
    { diffId: diffId('made'), contentId: 'content:made', blob: 0 },
    { diffId: diffId('stage'), contentId: 'content:stage', blob: null },
  ],
  stacks: [
    { below: null, layer: 0 },
    { below: null, layer: 2 },
    { below: 0, layer: 1 },
  ],
  steps: [
    { shape, parent: 0, inputs: [], contentKey: 'c', layer: 1 },
    { shape: 'b'.repeat(64), parent: 2, inputs: [1], contentKey: '', layer: null },
    { shape: 'c'.repeat(64), parent: 0, inputs: undefined, contentKey: 'd', layer: null },
  ],
}

let here: Map<LayerId, { readonly diffId: DiffId | null; readonly contentId: string | null }>
let said: string[]
let unpacked: string[]
let abandoned: number
let stop: AbortController
beforeEach(() => {
  here = new Map([[id('base'), { diffId: diffId('base'), contentId: diffId('base') }]])
  said = []
  unpacked = []
  abandoned = 0
  stop = new AbortController()
})

function record(layer: LayerId): LayerRecord {
  const known = here.get(layer)?.diffId ?? null
  return { id: layer, diffId: known, tarSize: 1, keepsHeaders: true, parentKey: null }
}

const layers = {
  hold: async (ids: readonly LayerId[]) => ids.filter((one) => here.has(one)).map(record),
  contentIds: async (ids: readonly LayerId[]) => ids.map((one) => here.get(one)?.contentId ?? null),
  async findByDiffId(wanted: DiffId) {
    const found = [...here].find(([, known]) => known.diffId === wanted)
    return found === undefined ? undefined : record(found[0])
  },
  stage: async () => ({ id: 's', root: '/s', upper: '/s/upper', work: '/s/work' }),
  async publish(_: unknown, sealed: { readonly diffId: DiffId }) {
    here.set(id('new'), { diffId: sealed.diffId, contentId: sealed.diffId })
    return record(id('new'))
  },
  abandon: async () => void abandoned++,
  directory: (layer: LayerId) => `/layers/${layer}`,
} as unknown as LayerStore

function place(more: Partial<OpenedCache & CachePlace> = {}): CachePlace {
  const blob = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: digestOf('blob'), size: 4 }
  const opened: OpenedCache = {
    ...{ layers: [blob], document: encodeCacheDocument(document) },
    async unpack({ digest }, { lowers = [], expectedDiffId = diffId('') }) {
      unpacked.push(`${digest === blob.digest} ${lowers.join()}`)
      const result = { diffId: expectedDiffId, tarSize: 1, entries: 1, compression: 'gzip' as const }
      return { ...result, repeats: false, usedParents: false }
    },
    ...more,
  }
  return { name: 'place', open: async () => opened, ...more }
}

const open = (...places: readonly CachePlace[]) =>
  importCaches(
    places,
    { layers, lease, onNote: (line) => said.push(line), onWarning: (line) => said.push(`warning: ${line}`) },
    stop.signal,
  )

function query(more: Partial<ImportQuery> = {}): ImportQuery {
  return {
    ...{ shape, origin: { parent: [id('base')], inputs: [] }, readsInputsOnly: false, needsInputs: false },
    ...{ content: async () => 'c', hash: async () => undefined, signal: stop.signal },
    ...more,
  }
}

test('a result over the same layers is fetched once, and what stands on it is found', async () => {
  const cache = open(place())
  expect(await cache.find(query())).toEqual({ layer: 'new', contentKey: 'c' })
  expect(await cache.find(query())).toEqual({ layer: 'new', contentKey: 'c' })
  expect(unpacked).toEqual(['true /layers/base/diff'])
  here.set(id('own stage'), { diffId: diffId('made here'), contentId: 'content:stage' })
  const origin = { parent: [id('base'), id('new')], inputs: [[id('own stage')]] }
  const above = query({ shape: 'b'.repeat(64), origin, readsInputsOnly: true })
  expect(await cache.find(above)).toEqual({ layer: null, contentKey: '' })
})

test('a layer that is here is not fetched', async () => {
  here.set(id('mine'), { diffId: diffId('made'), contentId: 'content:made' })
  expect(await open(place()).find(query())).toEqual({ layer: 'mine', contentKey: 'c' })
  expect(unpacked).toEqual([])
})

test('other layers, other content and other inputs are no match', async () => {
  const cache = open(place())
  here.set(id('other'), { diffId: diffId('other'), contentId: 'content:other' })
  const over = (parent: readonly string[], inputs: readonly LayerId[][] = []) => ({
    origin: { parent: parent.map(id), inputs },
  })
  const content = async (): Promise<string> => {
    throw new Error('not to be read')
  }
  for (const parent of [[], ['other'], ['base', 'other'], ['gone']]) {
    expect(await cache.find(query({ ...over(parent), content }))).toBe(undefined)
  }
  expect(await cache.find(query({ content: async () => 'other' }))).toBe(undefined)
  expect(await cache.find(query({ ...over(['base'], [[id('other')]]), needsInputs: true }))).toBe(undefined)
  // Where the inputs are not known the content has to tell.
  const unknown = { shape: 'c'.repeat(64), ...over(['base'], [[id('other')]]), content: async () => 'd' }
  expect(await cache.find(query({ ...unknown, readsInputsOnly: true }))).toEqual({
    layer: null,
    contentKey: 'd',
  })
  expect(await cache.find(query({ ...unknown, needsInputs: true }))).toBe(undefined)
})

test('layers that were never hashed are, when a record could match', async () => {
  here.set(id('fresh'), { diffId: null, contentId: null })
  const hash = async (): Promise<void> => {
    here.set(id('fresh'), { diffId: diffId('another time'), contentId: diffId('base') })
  }
  const origin = { parent: [id('fresh')], inputs: [] }
  expect(await open(place()).find(query({ origin, hash }))).toBe(undefined)
  here.set(id('fresh'), { diffId: null, contentId: null })
  const equal = async (): Promise<void> =>
    void here.set(id('fresh'), { diffId: diffId('base'), contentId: 'c' })
  expect(await open(place()).find(query({ origin, hash: equal }))).toMatchObject({ contentKey: 'c' })
})

test('a layer that cannot be had is a miss that is told once, and the next cache is asked', async () => {
  const broken = place({
    name: 'broken',
    unpack: () => Promise.reject(new BuilderError('ISB_DIGEST_MISMATCH', 'the blob is another one')),
  })
  const cache = open(broken, place())
  expect(await cache.find(query())).toEqual({ layer: 'new', contentKey: 'c' })
  here.delete(id('new'))
  await cache.find(query())
  expect(said.filter((line) => line.startsWith('warning'))).toEqual([
    'warning: a step is executed again: its result in the cache broken cannot be used: the blob is another one',
  ])
  expect(abandoned).toBe(1)
})

test('a cancelled build is told so', async () => {
  const cache = open(
    place({
      async unpack() {
        stop.abort()
        throw new BuilderError('ISB_CANCELLED', 'cancelled')
      },
    }),
  )
  await expect(cache.find(query())).rejects.toThrow('cancelled')
  expect(abandoned).toBe(1)
})

test('what cannot be read is told, and the build goes on', async () => {
  const denied = new BuilderError('ISB_REGISTRY_DENIED', 'no')
  const cache = open(
    place({ name: 'nowhere', open: async () => undefined }),
    place({ name: 'denied', open: () => Promise.reject(denied) }),
    place({ name: 'damaged', document: Buffer.from('{') }),
    place({ name: 'good' }),
  )
  expect(await cache.find(query())).toMatchObject({ contentKey: 'c' })
  expect(said.toSorted()).toEqual([
    'No build cache is at nowhere yet',
    'Using the build cache good',
    expect.stringMatching(/^warning: the build cache damaged is not used: /),
    'warning: the build cache denied is not used: no',
  ])
})
