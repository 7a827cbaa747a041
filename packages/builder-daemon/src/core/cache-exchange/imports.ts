import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { parentKey } from '@isula-build/shared/oci/chain-id.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import type { LayerId, LayerStore, Lease } from '../../ports/layer-store.js'
import type { ApplyParams, ApplyResult } from '../../ports/layer-worker.js'
import { imageLimits } from '../images/image-limits.js'
import type { ImportedCache, ImportedResult, ImportQuery } from '../solve/imported-cache.js'
import { type CacheDocument, type CacheLayer, type CacheStep, decodeCacheDocument } from './document.js'

/** A place where a cache may be. */
export interface CachePlace {
  /** As the user named it. */
  readonly name: string
  /** undefined: nothing is there. Fails when it cannot be read. */
  open(signal: AbortSignal): Promise<OpenedCache | undefined>
}

export interface OpenedCache {
  /** Of the manifest, in its order. */
  readonly layers: readonly Descriptor[]
  /** Whole, its digest checked. */
  readonly document: Uint8Array
  /** Unpacks one of the layers; `lowers` are all there. */
  unpack(layer: Descriptor, params: UnpackedLayer, signal: AbortSignal): Promise<ApplyResult | undefined>
}

export type UnpackedLayer = Pick<ApplyParams, 'upper' | 'lowers' | 'headersFile' | 'limit' | 'expectedDiffId'>

export interface ImportServices {
  readonly layers: LayerStore
  readonly lease: Lease
  /** One line for the user. */
  readonly onNote: (line: string) => void
  readonly onWarning: (message: string) => void
}

/** A cache that could be read. */
interface Source {
  readonly name: string
  readonly cache: OpenedCache
  readonly document: CacheDocument
  readonly steps: ReadonlyMap<string, readonly CacheStep[]>
}

/** What tells layers of different daemons to be the same. */
type Identity = Pick<CacheLayer, 'diffId' | 'contentId'>

/** Steps of one shape that are looked at in one document. */
const stepsPerShape = 200

/**
 * Caches of elsewhere, for one build; in the order given. They are read at once, and waited for when the first step asks.
 * What cannot be read is told and left out.
 */
export function importCaches(
  places: readonly CachePlace[],
  services: ImportServices,
  signal: AbortSignal,
): ImportedCache {
  const { layers, lease } = services
  const opening = places.map(async (place) => await readCache(place, services, signal))
  for (const one of opening) one.catch(() => undefined)
  /** Of layers of this build; what a document says of its layers is known here and nowhere else. */
  const identities = new Map<LayerId, Identity>()
  const obtained = new Map<string, Promise<LayerId | undefined>>()

  async function identify(stack: readonly LayerId[], hash: ImportQuery['hash']) {
    const read = async (unknown: readonly LayerId[]): Promise<void> => {
      const records = await layers.hold(unknown, lease)
      const contents = await layers.contentIds(records.map(({ id }) => id))
      for (const [i, { id, diffId }] of records.entries()) {
        const contentId = contents[i] ?? null
        if (diffId !== null && contentId !== null) identities.set(id, { diffId, contentId })
      }
    }
    const missing = () => stack.filter((id) => !identities.has(id))
    if (missing().length > 0) await read(missing())
    if (missing().length > 0) {
      await hash(missing())
      await read(missing())
    }
    const known = stack.flatMap((id) => identities.get(id) ?? [])
    return known.length === stack.length ? known : undefined
  }

  async function isMatch(source: Source, step: CacheStep, query: ImportQuery): Promise<boolean> {
    const holds = async (stack: readonly LayerId[], place: number | null): Promise<boolean> => {
      const theirs = stackOf(source.document, place)
      if (theirs.length !== stack.length) return false
      const ours = await identify(stack, query.hash)
      return ours?.every((layer, i) => isSame(layer, theirs[i])) === true
    }
    if (!(await holds(query.origin.parent, step.parent))) return false
    const isRead = async (): Promise<boolean> => {
      const { inputs } = step
      if (inputs?.length !== query.origin.inputs.length) return false
      for (const [i, place] of inputs.entries()) {
        if (!(await holds(query.origin.inputs[i] ?? [], place))) return false
      }
      return true
    }
    if (query.readsInputsOnly && (await isRead())) return true
    if (step.contentKey !== (await query.content())) return false
    return !query.needsInputs || (await isRead())
  }

  async function store(
    source: Source,
    layer: CacheLayer,
    stack: readonly LayerId[],
    query: ImportQuery,
  ): Promise<LayerId | undefined> {
    const diffIds = (await identify(stack, query.hash))?.map(({ diffId }) => diffId)
    if (diffIds === undefined) return undefined
    const key = parentKey(diffIds)
    const existing = await layers.findByDiffId(layer.diffId, key, lease, 'names')
    if (existing !== undefined) return existing.id
    const blob = layer.blob === null ? undefined : source.cache.layers[layer.blob]
    if (blob === undefined || blob.mediaType === mediaTypes.ociEmpty) {
      throw new BuilderError('ISB_ARCHIVE_INVALID', `it has no layer ${layer.diffId}`)
    }
    const staging = await layers.stage(lease)
    try {
      const lowers = [...new Set(stack.toReversed())].map((id) => `${layers.directory(id)}/diff`)
      const headersFile = `${staging.root}/headers.gz`
      const { upper } = staging
      const expected = { limit: imageLimits.layer, expectedDiffId: layer.diffId }
      const applied = await source.cache.unpack(
        blob,
        { upper, lowers, headersFile, ...expected },
        query.signal,
      )
      if (applied === undefined)
        throw new Error(`layer ${layer.diffId} asks for more than the layers below it`)
      const { diffId, tarSize, usedParents } = applied
      const sealed = { diffId, tarSize, keepsHeaders: true, parentKey: usedParents ? key : null }
      return (await layers.publish(staging, sealed, lease)).id
    } catch (error) {
      await layers.abandon(staging)
      throw error
    }
  }

  /** A layer that cannot be had is asked for once. */
  async function obtain(source: Source, layer: CacheLayer, query: ImportQuery): Promise<LayerId | undefined> {
    const stack = query.origin.parent
    const key = `${source.name} ${layer.diffId} ${stack.join()}`
    const running = obtained.get(key) ?? store(source, layer, stack, query)
    if (!obtained.has(key)) {
      running.catch(() => undefined)
      obtained.set(
        key,
        running.catch(() => undefined),
      )
    }
    try {
      return await running
    } catch (error) {
      if (query.signal.aborted || isBuilderError(error, 'ISB_CANCELLED')) throw error
      services.onWarning(
        `a step is executed again: its result in the cache ${source.name} cannot be used: ${said(error)}`,
      )
      return undefined
    }
  }

  async function findIn(source: Source, query: ImportQuery): Promise<ImportedResult | undefined> {
    for (const step of source.steps.get(query.shape) ?? []) {
      if (!(await isMatch(source, step, query))) continue
      const { contentKey } = step
      const layer = step.layer === null ? undefined : source.document.layers[step.layer]
      if (layer === undefined) return { layer: null, contentKey }
      const id = await obtain(source, layer, query)
      if (id === undefined) continue
      // What it holds apart from times is what the document says: that it is this layer was checked.
      if (layer.contentId !== null) identities.set(id, layer)
      return { layer: id, contentKey }
    }
    return undefined
  }

  return {
    async find(query) {
      for (const one of opening) {
        const source = await one
        const found = source === undefined ? undefined : await findIn(source, query)
        if (found !== undefined) return found
      }
      return undefined
    },
  }
}

async function readCache(
  place: CachePlace,
  { onNote, onWarning }: ImportServices,
  signal: AbortSignal,
): Promise<Source | undefined> {
  const { name } = place
  try {
    const cache = await place.open(signal)
    if (cache === undefined) {
      onNote(`No build cache is at ${name} yet`)
      return undefined
    }
    const document = decodeCacheDocument(cache.document, cache.layers.length)
    const steps = new Map<string, CacheStep[]>()
    for (const step of document.steps) {
      const same = steps.get(step.shape)
      if (same === undefined) steps.set(step.shape, [step])
      else if (same.length < stepsPerShape) same.push(step)
    }
    onNote(`Using the build cache ${name}`)
    return { name, cache, document, steps }
  } catch (error) {
    if (signal.aborted) throw error
    onWarning(`the build cache ${name} is not used: ${said(error)}`)
    return undefined
  }
}

function stackOf({ stacks, layers }: CacheDocument, place: number | null): readonly CacheLayer[] {
  const stack: CacheLayer[] = []
  for (let at = place; at !== null; ) {
    const top = stacks[at]
    const layer = top === undefined ? undefined : layers[top.layer]
    if (top === undefined || layer === undefined) break
    stack.push(layer)
    at = top.below
  }
  return stack.toReversed()
}

function isSame(
  ours: { readonly diffId: DiffId; readonly contentId: string | null },
  theirs: CacheLayer | undefined,
) {
  if (theirs === undefined) return false
  return ours.diffId === theirs.diffId || (ours.contentId !== null && ours.contentId === theirs.contentId)
}

function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
