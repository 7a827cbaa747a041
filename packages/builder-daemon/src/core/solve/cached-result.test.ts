import { beforeEach, expect, test } from 'vitest'
import { cacheRecord, layerId } from '../../../../../test/support/cache-record.js'
import { silentLogger } from '../../../../../test/support/silent-logger.js'
import type { CacheRecord, StoredRecord } from '../../ports/cache-index.js'
import type { LayerId } from '../../ports/layer-store.js'
import type { VertexId } from '../plan/plan.js'
import { type CacheQuery, findCached, queryKey, storeResult } from './cached-result.js'
import { type BuildEnvironment, imageSnapshot, type Snapshot } from './environment.js'
import { createLayerStates } from './states.js'

const [base, other, made, stage, gone] = ['1', '2', '3', '4', '5'].map(layerId) as [
  LayerId,
  LayerId,
  LayerId,
  LayerId,
  LayerId,
]

let asked: string[] = []
let known: StoredRecord[] = []
let stored: CacheRecord[] = []
/** What hashing layers finds out, and what is known of them before. */
let contents = new Map<LayerId, string>()
let recorded = new Set<LayerId>()

beforeEach(() => {
  asked = []
  known = []
  stored = []
  contents = new Map([
    [base, 'content:base'],
    [other, 'content:base'],
    [stage, 'content:stage'],
  ])
  recorded = new Set()
})

function environment(more: Partial<BuildEnvironment> = {}): BuildEnvironment {
  const layers = {
    async hold(ids: readonly LayerId[]) {
      if (ids.includes(gone)) throw new Error('gone')
      return ids.map((id) => ({ id, diffId: 'sha256:1', tarSize: 1 }))
    },
    contentIds: async (ids: readonly LayerId[]) =>
      ids.map((id) => (recorded.has(id) ? (contents.get(id) ?? null) : null)),
  }
  const lease = { id: 'lease' }
  const states = createLayerStates({
    ...{ layers: layers as never, lease, log: silentLogger },
    async hash(id) {
      asked.push(`hash ${id.slice(0, 1)}`)
      return { diffId: 'sha256:1', tarSize: 1, entries: 0, contentId: contents.get(id) ?? null } as never
    },
  })
  const cache = {
    lookup: async () => known,
    async store(_: number, record: CacheRecord) {
      stored.push(record)
      return 100
    },
    learn: async (facts: readonly object[]) => void asked.push(`learn ${JSON.stringify(facts)}`),
  }
  return {
    ...{ ports: { layers, cache, log: silentLogger }, lease, states, uid: 7 },
    ...{ noCache: false, noCacheStages: new Set(), sealed: new Set() },
    ...more,
  } as unknown as BuildEnvironment
}

function query(more: Partial<CacheQuery> = {}): CacheQuery {
  return {
    ...{ vertex: { id: 'v' as VertexId, stageIndex: 2 }, shape: 's', parent: imageSnapshot([base]) },
    ...{ inputs: [], readsInputsOnly: false, tainted: false },
    async content() {
      asked.push('content')
      return 'c'
    },
    ...more,
  }
}

const find = (where: BuildEnvironment, what: CacheQuery) =>
  findCached(where, what, new AbortController().signal)

function record(parent: LayerId, more: Partial<StoredRecord> = {}): StoredRecord {
  return {
    ...cacheRecord('s', made, { contentKey: 'c' }),
    ...{ id: 1, foreign: false, usable: true, evictedAt: undefined, ...more },
    origin: more.origin ?? { parent: [parent], inputs: [] },
  }
}

test('with nothing known nothing is read and nothing waited for', async () => {
  expect(await find(environment(), query())).toEqual({ hit: undefined, known: false, evicted: [] })
  expect(asked).toEqual([])
})

test('over the same layers the same content is found, and nothing is hashed', async () => {
  known = [record(base, { contentKey: 'old' }), record(base, { id: 2 }), record(other, { id: 3 })]
  const { hit } = await find(environment(), query())
  expect(hit).toMatchObject({ own: { id: made }, record: 2, contentKey: 'c' })
  expect([asked.filter((line) => line !== 'content'), stored]).toEqual([[], []])
})

test('over other layers that hold the same it is found, and stored for these', async () => {
  known = [record(other, { state: undefined })]
  const { hit } = await find(environment(), query())
  expect(hit).toMatchObject({ own: { id: made }, record: 100 })
  expect(asked[0]).toBe('hash 1')
  expect(asked[1]).toBe('hash 2')
  expect(asked[2]).toMatch(/^learn \[\{"id":1,"state":"[0-9a-f]{64}"\}\]$/)
  expect(stored).toMatchObject([{ layer: made, contentKey: 'c', origin: { parent: [base], inputs: [] } }])
  expect(stored[0]?.state).toMatch(/^[0-9a-f]{64}$/)
})

test('layers that hold something else, or are gone, give nothing, and the content is not read for them', async () => {
  contents.set(other, 'content:other')
  known = [record(other), record(gone, { id: 2 })]
  expect((await find(environment(), query())).hit).toBe(undefined)
  expect(asked).not.toContain('content')
  expect(stored).toEqual([])
})

test('stacks that cannot hold the same are told apart without hashing', async () => {
  recorded = new Set([base, other])
  contents.set(other, 'content:other')
  known = [record(other), record(base, { id: 2, origin: { parent: [base, stage], inputs: [] } })]
  expect((await find(environment(), query())).hit).toBe(undefined)
  expect(asked).toEqual([])
})

test('what was removed, or cannot be had, is passed over, and told', async () => {
  known = [
    record(base, { usable: false, layer: null, evictedAt: 5 }),
    record(other, { usable: false, layer: null, evictedAt: 6 }),
    record(base, { id: 2, layer: gone }),
  ]
  expect(await find(environment(), query())).toEqual({
    ...{ hit: undefined, known: true, evicted: [{ contentKey: 'c', at: 5 }], similar: gone },
  })
})

test('that nothing changed is a result, too', async () => {
  known = [record(base, { layer: null })]
  expect((await find(environment(), query())).hit).toMatchObject({ own: null, record: 1 })
})

test('without the cache nobody is asked', async () => {
  known = [record(base)]
  for (const more of [{ noCache: true }, { noCacheStages: new Set([2]) }]) {
    expect((await find(environment(more), query())).known).toBe(false)
  }
  expect((await find(environment({ noCacheStages: new Set([1]) }), query())).known).toBe(true)
})

test("another user's record becomes the user's own", async () => {
  known = [record(base, { foreign: true })]
  expect((await find(environment(), query())).hit?.record).toBe(100)
  expect(stored).toHaveLength(1)
})

test('a copy from a stage is found by the stage, else by what it copies', async () => {
  const from = (id: LayerId): Partial<CacheQuery> => ({
    inputs: [imageSnapshot([id])],
    readsInputsOnly: true,
  })
  known = [record(base, { origin: { parent: [base], inputs: [[stage]] } })]
  expect((await find(environment(), query(from(stage)))).hit?.record).toBe(1)
  expect(asked).toEqual([])
  expect((await find(environment(), query(from(other)))).hit?.record).toBe(100)
  expect(asked).toEqual(['content'])
})

test('binds of stages are found by the stages, else by what they show', async () => {
  const inputsKey = async (stacks: readonly (readonly LayerId[])[]): Promise<string> => {
    asked.push(`inputs ${stacks.join().slice(0, 1)}`)
    return stacks[0]?.[0] === made ? 'something else' : 'shown'
  }
  const bound = (id: LayerId): CacheQuery => query({ inputs: [imageSnapshot([id])], inputsKey })
  known = [record(base, { origin: { parent: [base], inputs: [[stage]] } })]
  expect((await find(environment(), bound(stage))).hit?.record).toBe(1)
  expect(asked).toEqual(['content'])
  expect((await find(environment(), bound(other))).hit?.record).toBe(100)
  expect(asked.slice(2)).toEqual(['inputs 4', 'learn [{"id":1,"inputsKey":"shown"}]', 'inputs 2'])
  expect((await find(environment(), bound(made))).hit).toBe(undefined)
})

test('taint goes from a state, an input or the step itself into the record', async () => {
  const tainted: Snapshot = { ...imageSnapshot([base]), tainted: true }
  const result = { contentKey: 'c', layer: made }
  for (const more of [{}, { tainted: true }, { parent: tainted }, { inputs: [tainted] }]) {
    await storeResult(environment(), query(more), result)
  }
  expect(stored.map((one) => one.tainted)).toEqual([false, true, true, true])
})

test('the state is stored as far as it is known without hashing', async () => {
  const result = { contentKey: '', layer: null }
  await storeResult(environment(), query(), result)
  recorded.add(base)
  await storeResult(environment(), query(), result)
  expect(stored.map(({ state }) => typeof state)).toEqual(['undefined', 'string'])
  expect(asked).toEqual([])
})

test('the key of a wish says shape, parent and inputs', () => {
  const keys = [
    query(),
    query({ shape: 't' }),
    query({ parent: imageSnapshot([other]) }),
    query({ inputs: [imageSnapshot([other])] }),
    query({ inputs: [imageSnapshot([])] }),
  ].map(queryKey)
  expect(new Set(keys).size).toBe(keys.length)
})
