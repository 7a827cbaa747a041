import type { CacheOrigin, StoredRecord } from '../../ports/cache-index.js'
import type { LayerId } from '../../ports/layer-store.js'
import type { VertexId } from '../plan/plan.js'
import { digestKeys } from './cache-key.js'
import type { BuildEnvironment, OwnLayer, Snapshot } from './environment.js'
import type { ImportedCache } from './imported-cache.js'
import { holdCached, type SnapshotMarks } from './layer-result.js'

/** A vertex as the cache sees it. */
export interface CacheQuery {
  readonly vertex: { readonly id: VertexId; readonly stageIndex: number }
  readonly shape: string
  readonly parent: Snapshot
  /** Other states that are read. */
  readonly inputs: readonly Snapshot[]
  /** Content that is read; asked for only when a record could match. */
  readonly content: () => Promise<string>
  /** The inputs are all that is read, so over equal stacks the content needs no look. */
  readonly readsInputsOnly: boolean
  /** What is read of such stacks, where `content` does not cover it. */
  readonly inputsKey?: ((stacks: CacheOrigin['inputs']) => Promise<string>) | undefined
  /** It itself uses secrets, an ssh agent or credentials. */
  readonly tainted: boolean
}

export interface CacheAnswer {
  readonly hit: CachedResult | undefined
  /** Something like it was made before. */
  readonly known: boolean
  /** Results over the same layers that were removed since. */
  readonly evicted: readonly EvictedResult[]
  /** The layer of another result of this shape and user, the likeliest to be much the same; undefined for none. */
  readonly similar: LayerId | undefined
}

export interface CachedResult {
  readonly own: OwnLayer | null
  /** A record of elsewhere gave it. */
  readonly imported: boolean
  readonly record: number | undefined
  readonly contentKey: string
}

export interface EvictedResult {
  readonly contentKey: string
  /** Milliseconds since the epoch. */
  readonly at: number
}

const nothing: CacheAnswer = { hit: undefined, known: false, evicted: [], similar: undefined }

/** States of other stacks that one look-up hashes layers for. */
const hashedStates = 8

/**
 * Looks for a result of the vertex. Over the very layers it stands on one is found at once. Else what was
 * made over other layers counts when they hold the same: only then is anything waited for or hashed. What
 * is found so is stored for these layers, too, so that it is found at once the next time. Imported records
 * come last.
 */
export async function findCached(
  environment: BuildEnvironment,
  query: CacheQuery,
  signal: AbortSignal,
): Promise<CacheAnswer> {
  if (isUncached(environment, query.vertex.stageIndex)) return nothing
  const answer = await findOwn(environment, query)
  if (answer.hit !== undefined || environment.imports === undefined) return answer
  return { ...answer, hit: await findImported(environment, query, environment.imports, signal) }
}

async function findOwn(environment: BuildEnvironment, query: CacheQuery): Promise<CacheAnswer> {
  const { ports, uid } = environment
  const records = await ports.cache.lookup(uid, query.shape, query.parent.layers)
  if (records.length === 0) return nothing
  const evicted = records.flatMap(({ usable, evictedAt, contentKey, origin }) =>
    !usable && evictedAt !== undefined && isOver(query, origin) ? [{ contentKey, at: evictedAt }] : [],
  )
  const usable = records.filter((record) => record.usable)
  const [here, elsewhere] = split(usable, ({ origin }) => isSame(origin.parent, query.parent.layers))
  const hit =
    (await firstMatch(environment, query, here)) ??
    (await firstMatch(environment, query, await sameState(environment, query, elsewhere)))
  const similar = usable.find(({ foreign, layer }) => !foreign && layer !== null)?.layer ?? undefined
  return { hit, known: true, evicted, similar }
}

async function findImported(
  environment: BuildEnvironment,
  query: CacheQuery,
  imports: ImportedCache,
  signal: AbortSignal,
): Promise<CachedResult | undefined> {
  const { shape, content, readsInputsOnly, inputsKey } = query
  const found = await imports.find({
    ...{ shape, content, readsInputsOnly, signal, origin: originOf(query) },
    needsInputs: inputsKey !== undefined,
    hash: environment.states.of,
  })
  if (found === undefined) return undefined
  const own = found.layer === null ? null : await holdCached(environment, query.vertex.id, found.layer)
  if (own === undefined) return undefined
  return { own, imported: true, record: undefined, contentKey: found.contentKey }
}

/** Says all that decides what the vertex does, as far as it is known before contexts are read. */
export function queryKey({ shape, parent, inputs }: Pick<CacheQuery, 'shape' | 'parent' | 'inputs'>): string {
  return digestKeys([shape, parent.key, ...inputs.map(({ key }) => key)])
}

/** Nothing of this stage is to be taken from the cache. */
export function isUncached(environment: BuildEnvironment, stageIndex: number): boolean {
  return environment.noCache || environment.noCacheStages.has(stageIndex)
}

/** Stores what executing the vertex gave; its number, for telling later what became of it. */
export async function storeResult(
  environment: BuildEnvironment,
  query: CacheQuery,
  made: { readonly contentKey: string; readonly layer: LayerId | null },
): Promise<number | undefined> {
  const { ports, uid, states } = environment
  const { shape, parent } = query
  const { tainted, imported } = marksOf(query)
  if (imported) return undefined
  return await ports.cache.store(uid, {
    ...{ shape, origin: originOf(query), ...made },
    state: await states.known(parent.layers),
    inputsKey: undefined,
    tainted,
  })
}

/** What its result is marked with. */
export function marksOf({ tainted, parent, inputs }: CacheQuery): SnapshotMarks {
  const read = [parent, ...inputs]
  return {
    tainted: tainted || read.some((one) => one.tainted),
    imported: read.some((one) => one.imported),
  }
}

export function originOf({ parent, inputs }: Pick<CacheQuery, 'parent' | 'inputs'>): CacheOrigin {
  return { parent: parent.layers, inputs: inputs.map(({ layers }) => layers) }
}

async function firstMatch(
  environment: BuildEnvironment,
  query: CacheQuery,
  records: readonly StoredRecord[],
): Promise<CachedResult | undefined> {
  for (const record of records) {
    if (!(await isMatch(environment, query, record))) continue
    const own = record.layer === null ? null : await holdCached(environment, query.vertex.id, record.layer)
    if (own === undefined) continue
    const { contentKey } = record
    const isOwn = !record.foreign && isOver(query, record.origin)
    const id = isOwn ? record.id : await storeAlias(environment, query, record)
    return { own, imported: false, record: id, contentKey }
  }
  return undefined
}

async function isMatch(
  environment: BuildEnvironment,
  query: CacheQuery,
  record: StoredRecord,
): Promise<boolean> {
  const sameInputs = areSame(
    record.origin.inputs,
    query.inputs.map(({ layers }) => layers),
  )
  if (query.readsInputsOnly && sameInputs) return true
  if (record.contentKey !== (await query.content())) return false
  const { inputsKey } = query
  if (sameInputs || inputsKey === undefined) return true
  const theirs = record.inputsKey ?? (await keyOfInputs(environment, inputsKey, record))
  if (theirs === undefined) return false
  return theirs === (await inputsKey(query.inputs.map(({ layers }) => layers)))
}

async function keyOfInputs(
  environment: BuildEnvironment,
  inputsKey: NonNullable<CacheQuery['inputsKey']>,
  { id, origin: { inputs } }: StoredRecord,
): Promise<string | undefined> {
  const { ports, lease } = environment
  try {
    const held = new Set((await ports.layers.hold(inputs.flat(), lease)).map((layer) => layer.id))
    if (!inputs.flat().every((layer) => held.has(layer))) return undefined
    const key = await inputsKey(inputs)
    await ports.cache.learn([{ id, inputsKey: key }])
    return key
  } catch (error) {
    ports.log.debug('cache.inputs-unknown', { record: id, error: String(error) })
    return undefined
  }
}

/** Of records over other layers those whose layers hold the same. */
async function sameState(
  environment: BuildEnvironment,
  query: CacheQuery,
  others: readonly StoredRecord[],
): Promise<readonly StoredRecord[]> {
  const { states, ports } = environment
  // Common shapes are known over many stacks; most cannot be meant, and nothing is hashed for those.
  const different = await Promise.all(
    others.map(({ origin }) => states.differ(origin.parent, query.parent.layers)),
  )
  const records = others.filter((_, i) => different[i] === false)
  if (records.length === 0) return []
  const own = await states.of(query.parent.layers)
  if (own === undefined) return []
  const hashed = new Map<string, Promise<string | undefined>>()
  const same: StoredRecord[] = []
  for (const record of records) {
    let state = record.state
    if (state === undefined) {
      const stack = record.origin.parent.join()
      if (!hashed.has(stack) && hashed.size >= hashedStates) continue
      const hashing = hashed.get(stack) ?? states.of(record.origin.parent)
      hashed.set(stack, hashing)
      state = await hashing
      if (state !== undefined) await ports.cache.learn([{ id: record.id, state }])
    }
    if (state === own) same.push(record)
  }
  return same
}

async function storeAlias(
  environment: BuildEnvironment,
  query: CacheQuery,
  record: StoredRecord,
): Promise<number | undefined> {
  const { ports, uid, states } = environment
  const { shape, contentKey, layer, inputsKey } = record
  const { tainted, imported } = marksOf(query)
  if (imported) return undefined
  return await ports.cache.store(uid, {
    ...{ shape, contentKey, layer, inputsKey, origin: originOf(query) },
    state: await states.known(query.parent.layers),
    tainted: record.tainted || tainted,
  })
}

function isOver(query: CacheQuery, origin: CacheOrigin): boolean {
  const own = originOf(query)
  return isSame(origin.parent, own.parent) && areSame(origin.inputs, own.inputs)
}

function isSame(a: readonly LayerId[], b: readonly LayerId[]): boolean {
  return a.length === b.length && a.every((id, i) => id === b[i])
}

function areSame(a: CacheOrigin['inputs'], b: CacheOrigin['inputs']): boolean {
  return a.length === b.length && a.every((stack, i) => isSame(stack, b[i] ?? []))
}

function split<T>(items: readonly T[], first: (item: T) => boolean): readonly [T[], T[]] {
  return [items.filter(first), items.filter((item) => !first(item))]
}
