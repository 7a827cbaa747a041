import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, parseDigest } from '@isula-build/shared/oci/digest.js'
import {
  arrayOf,
  decodeJson,
  type JsonObject,
  member,
  objectOf,
  optional,
  sizeOf,
  stringOf,
} from '@isula-build/shared/oci/json-document.js'
import { imageLimits } from '../images/image-limits.js'

/**
 * Cache records as daemons exchange them. Nothing in it is a path, a user or a name of one machine: layers are named by
 * what they hold. What it says is believed by nobody but the build that names it.
 */
export interface CacheDocument {
  readonly layers: readonly CacheLayer[]
  /** Stacks of layers, each one layer more than another: what it stands on comes before it. */
  readonly stacks: readonly CacheStack[]
  readonly steps: readonly CacheStep[]
}

export interface CacheLayer {
  readonly diffId: DiffId
  /** See `LayerStore.contentIds`; null where that is the diff ID, or nobody knows. */
  readonly contentId: string | null
  /** Which of the manifest's layers it is; null for one that is elsewhere (an image's). */
  readonly blob: number | null
}

export interface CacheStack {
  /** Place in `stacks`; null: nothing. */
  readonly below: number | null
  /** Place in `layers`. */
  readonly layer: number
}

/** As `CacheRecord`, with places in `stacks` and `layers`. */
export interface CacheStep {
  readonly shape: string
  /** null: nothing. */
  readonly parent: number | null
  /** undefined: not known; then the content has to tell. */
  readonly inputs: readonly (number | null)[] | undefined
  readonly contentKey: string
  readonly layer: number | null
}

export const cacheLimits = {
  /** Bytes of the document. */
  document: 16 << 20,
  layers: 20_000,
  stacks: 50_000,
  steps: 20_000,
  /** Stages and images that one step reads. */
  inputs: 256,
} as const

/** Changes with the meaning of any field. */
const version = 1

const shapePattern = /^[0-9a-f]{64}$/
const keyPattern = /^[0-9A-Za-z:+/=_.-]{0,200}$/

export function encodeCacheDocument({ layers, stacks, steps }: CacheDocument): Uint8Array {
  const document = {
    version,
    layers: layers.map(({ diffId, contentId, blob }) => ({
      diffId,
      ...(contentId === null ? {} : { contentId }),
      ...(blob === null ? {} : { blob }),
    })),
    stacks: stacks.map(({ below, layer }) => ({ ...(below === null ? {} : { below }), layer })),
    steps: steps.map(({ shape, parent, inputs, contentKey, layer }) => ({
      shape,
      ...(parent === null ? {} : { parent }),
      ...(inputs === undefined ? {} : { inputs }),
      ...(contentKey === '' ? {} : { contentKey }),
      ...(layer === null ? {} : { layer }),
    })),
  }
  return Buffer.from(JSON.stringify(document), 'utf8')
}

/**
 * Decodes a document that anybody may have written; `blobs` is how many layers its manifest has. Fails with
 * ISB_ARCHIVE_INVALID, ISB_LIMIT_EXCEEDED, and ISB_UNSUPPORTED for another version.
 */
export function decodeCacheDocument(bytes: Uint8Array, blobs: number): CacheDocument {
  if (bytes.length > cacheLimits.document) throw tooMuch(`${cacheLimits.document} bytes`)
  const json = objectOf(decodeJson(bytes, 'the build cache'), 'the build cache')
  const stated = optional(json, 'version', sizeOf)
  if (stated !== version) {
    throw new BuilderError(
      'ISB_UNSUPPORTED',
      `the build cache has version ${stated ?? 'none'}, not ${version}`,
    )
  }
  const layers = listOf(json, 'layers', cacheLimits.layers).map((item) => layerOf(item, blobs))
  const stacks: CacheStack[] = []
  const heights: number[] = []
  for (const item of listOf(json, 'stacks', cacheLimits.stacks)) {
    const stack = objectOf(item, 'a stack of the build cache')
    const below = placeOf(stack, 'below', stacks.length)
    const height = (below === null ? 0 : (heights[below] ?? 0)) + 1
    if (height > imageLimits.layers) throw tooMuch(`${imageLimits.layers} layers over one another`)
    const layer = placeOf(stack, 'layer', layers.length)
    if (layer === null) throw invalid('a stack without a layer')
    heights.push(height)
    stacks.push({ below, layer })
  }
  const steps = listOf(json, 'steps', cacheLimits.steps).map((item) =>
    stepOf(item, stacks.length, layers.length),
  )
  return { layers, stacks, steps }
}

function listOf(json: JsonObject, key: string, limit: number): readonly unknown[] {
  const list = optional(json, key, arrayOf) ?? []
  if (list.length > limit) throw tooMuch(`${limit} ${key}`)
  return list
}

function layerOf(value: unknown, blobs: number): CacheLayer {
  const json = objectOf(value, 'a layer of the build cache')
  const diffId = parseDigest(optional(json, 'diffId', stringOf))
  if (diffId === undefined) throw invalid('a layer without a diff ID')
  return {
    diffId: diffId as DiffId,
    contentId: keyOf(json, 'contentId') ?? null,
    blob: placeOf(json, 'blob', blobs),
  }
}

function stepOf(value: unknown, stacks: number, layers: number): CacheStep {
  const json = objectOf(value, 'a step of the build cache')
  const shape = optional(json, 'shape', stringOf) ?? ''
  if (!shapePattern.test(shape)) throw invalid('a step without a shape')
  const inputs = optional(json, 'inputs', arrayOf)
  if (inputs !== undefined && inputs.length > cacheLimits.inputs)
    throw tooMuch(`${cacheLimits.inputs} inputs`)
  return {
    shape,
    parent: placeOf(json, 'parent', stacks),
    inputs: inputs?.map((input) => (input === null ? null : checkPlace(input, 'an input', stacks))),
    contentKey: keyOf(json, 'contentKey') ?? '',
    layer: placeOf(json, 'layer', layers),
  }
}

function keyOf(json: JsonObject, key: string): string | undefined {
  const text = optional(json, key, stringOf)
  if (text !== undefined && !keyPattern.test(text)) throw invalid(`"${key}" is no key`)
  return text
}

function placeOf(json: JsonObject, key: string, count: number): number | null {
  const value = member(json, key)
  return value === undefined ? null : checkPlace(value, `"${key}"`, count)
}

function checkPlace(value: unknown, what: string, count: number): number {
  const place = sizeOf(value, what)
  if (place >= count) throw invalid(`${what} is ${place}, of ${count} there are`)
  return place
}

function invalid(what: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', `the build cache is damaged: ${what}`)
}

function tooMuch(what: string): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', `the build cache has more than ${what}`)
}
