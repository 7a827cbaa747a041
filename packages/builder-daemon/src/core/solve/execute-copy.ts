import * as posix from 'node:path/posix'
import { redactUrls } from '@isula-build/shared/text/redact.js'
import type { LayerId } from '../../ports/layer-store.js'
import type { CopyParams, CopyResult, ResolvedCopyInput, SeenSources } from '../../ports/layer-worker.js'
import type { CopyVertex, VertexId } from '../plan/plan.js'
import { shapeOf } from './cache-key.js'
import { type CacheQuery, findCached, marksOf, originOf, queryKey, storeResult } from './cached-result.js'
import { type BuildEnvironment, lowerDirectories, type OwnLayer, type Snapshot } from './environment.js'
import { type Executed, executedFrom } from './executed.js'
import {
  childSnapshot,
  holdCached,
  ownLayer,
  parentSnapshot,
  publishLayer,
  withStaging,
} from './layer-result.js'
import { shareStep } from './shared-step.js'

/**
 * COPY and ADD. The shape says what is copied where, the content key what it holds. Content is read
 * beforehand only when some record could match, so a first build reads it once; and not at all where
 * everything comes from layers that a record was made from.
 */
export async function executeCopy(
  environment: BuildEnvironment,
  vertex: CopyVertex,
  results: ReadonlyMap<VertexId, Snapshot>,
  signal: AbortSignal,
): Promise<Executed> {
  const parent = parentSnapshot(vertex.parent, results)
  const shaped = shapeOf(vertex, { fixedTime: environment.fixedTime })
  environment.explainer.begun(vertex, shaped)
  const { shape } = shaped
  const inputs = vertex.inputs.flatMap((input) =>
    input.kind === 'vertex' ? [parentSnapshot(input.vertex, results)] : [],
  )
  const findOrCopy = (inner: AbortSignal): Promise<Executed> =>
    findOrMake(environment, vertex, { parent, results, shape, inputs, signal: inner })
  const identities = await contextIdentities(environment, vertex, signal)
  // What a URL gives is asked for by every build.
  const isRepeatable = !vertex.inputs.some((input) => input.kind === 'url')
  const key = isRepeatable ? [queryKey({ shape, parent, inputs }), ...identities].join(' ') : undefined
  const wish = { vertex, parent, signal, key }
  if (identities.length === 0) {
    return await shareStep(environment, wish, async (execution) => {
      execution.detach()
      return await findOrCopy(execution.signal)
    })
  }
  // The same directory may hold something else for the next one: he looks himself, and finds what is the same.
  return await shareStep(environment, { ...wish, adopt: () => findOrCopy(signal) }, (execution) =>
    findOrCopy(execution.signal),
  )
}

/** Which directories the contexts are that the vertex reads. */
async function contextIdentities(
  { contexts }: BuildEnvironment,
  { inputs }: CopyVertex,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const names = new Set(inputs.flatMap((input) => (input.kind === 'context' ? [input.context] : [])))
  const identities: string[] = []
  for (const name of names) identities.push((await contexts.get(name, signal)).identity)
  return identities
}

interface CopyPlace {
  readonly parent: Snapshot
  readonly results: ReadonlyMap<VertexId, Snapshot>
  readonly shape: string
  readonly inputs: readonly Snapshot[]
  readonly signal: AbortSignal
}

async function findOrMake(
  environment: BuildEnvironment,
  vertex: CopyVertex,
  { parent, results, shape, inputs, signal }: CopyPlace,
): Promise<Executed> {
  const { ports } = environment
  await using scratch = await downloadScratch(environment, vertex)
  const resolve = once(() => resolveInputs(environment, vertex, results, { scratch, signal }))
  let seen: SeenSources | undefined
  const digest = once(async () => {
    const params = copyParams(environment, vertex, parent, await resolve())
    const { contentKey, seen: found } = await ports.workers.run('digestSources', params, signal)
    seen = found
    environment.explainer.noted(vertex, { contentKey })
    return contentKey
  })
  const query: CacheQuery = {
    ...{ vertex, shape, parent, inputs, content: digest },
    readsInputsOnly: vertex.inputs.every(({ kind }) => kind === 'vertex' || kind === 'inline'),
    tainted: vertex.inputs.some((input) => input.kind === 'url' && redactUrls(input.url) !== input.url),
  }
  const answer = await findCached(environment, query, signal)
  if (answer.hit !== undefined) return executedFrom(query, answer, ownLayers(answer.hit.own))
  environment.explainer.noted(vertex, { evicted: answer.evicted })
  return await withStaging(environment, async (staging) => {
    const reuse = await reusable(environment, vertex, answer.similar)
    const params = {
      ...copyParams(environment, vertex, parent, await resolve()),
      ...{
        upper: staging.upper,
        reuse: reuse === undefined ? undefined : ports.layers.directory(reuse),
      },
    }
    const known = seen
    seen = undefined
    const copied = await copyInTurn(environment, { params, seen: known }, signal)
    const isDamaged = copied.reuseDamaged === true
    if (reuse !== undefined && isDamaged) await ports.layers.reportDamage(reuse)
    const id = await publishLayer(environment, staging, copied, isDamaged ? undefined : reuse)
    const { contentKey } = copied
    const record = await storeResult(environment, query, { contentKey, layer: id })
    const own = ownLayer(environment, vertex.id, id, copied)
    return {
      snapshot: childSnapshot(parent, own, marksOf(query)),
      cached: false,
      facts: {
        ...{ shape, contentKey, record, evicted: answer.evicted, sources: ownLayers(own) },
        origin: originOf(query),
      },
    }
  })
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let running: Promise<T> | undefined
  return () => {
    running ??= work()
    return running
  }
}

/** An earlier result that may give files to this one: held, and known to be intact. */
async function reusable(
  environment: BuildEnvironment,
  vertex: CopyVertex,
  layer: LayerId | undefined,
): Promise<LayerId | undefined> {
  if (layer === undefined || vertex.inputs.some(({ kind }) => kind !== 'context')) return undefined
  return (await holdCached(environment, vertex.id, layer))?.id
}

function ownLayers(own: OwnLayer | null): readonly LayerId[] {
  return own === null ? [] : [own.id]
}

interface CopyTurn {
  readonly params: CopyParams
  readonly seen: SeenSources | undefined
}

/**
 * A user's helper may let him wait for ever: who reads through it takes no turn from others. Who waits keeps nothing of
 * what was seen, which is megabytes, and older the longer he waits.
 */
async function copyInTurn(
  environment: BuildEnvironment,
  { params, seen }: CopyTurn,
  signal: AbortSignal,
): Promise<CopyResult> {
  const { ports, executions } = environment
  const usesHelper = params.inputs.some((input) => input.kind === 'tree' && input.root.access === 'helper')
  if (usesHelper) return await ports.workers.run('copy', params, signal)
  using now = executions.slots.tryAcquire(environment)
  if (now !== undefined) return await ports.workers.run('copy', { ...params, seen }, signal)
  return await copyLater(environment, params, signal)
}

async function copyLater(
  environment: BuildEnvironment,
  params: CopyParams,
  signal: AbortSignal,
): Promise<CopyResult> {
  const { ports, executions } = environment
  using _slot = await executions.slots.acquire(environment, signal)
  return await ports.workers.run('copy', params, signal)
}

interface Place {
  readonly scratch: { readonly root: string }
  readonly signal: AbortSignal
}

/** Downloads lie apart from the layer that is being made, and go when the step ends. */
async function downloadScratch(
  environment: BuildEnvironment,
  vertex: CopyVertex,
): Promise<{ root: string } & AsyncDisposable> {
  const { layers } = environment.ports
  if (!vertex.inputs.some((input) => input.kind === 'url')) {
    return { root: '', [Symbol.asyncDispose]: async () => undefined }
  }
  const staging = await layers.stage(environment.lease)
  return { root: staging.root, [Symbol.asyncDispose]: () => layers.abandon(staging) }
}

/** Without the directory it is copied to. */
function copyParams(
  environment: BuildEnvironment,
  vertex: CopyVertex,
  parent: Snapshot,
  inputs: readonly ResolvedCopyInput[],
): CopyParams {
  return {
    upper: '',
    lowers: lowerDirectories(environment.ports, parent.layers),
    instruction: vertex.instruction,
    inputs,
    destination: vertex.destination,
    intoDirectory: vertex.intoDirectory,
    chown: vertex.chown,
    chmod: vertex.chmod,
    link: vertex.link,
    parents: vertex.parents,
    excludes: vertex.excludes,
    fixedTime: environment.fixedTime,
  }
}

async function resolveInputs(
  environment: BuildEnvironment,
  vertex: CopyVertex,
  results: ReadonlyMap<VertexId, Snapshot>,
  place: Place,
): Promise<readonly ResolvedCopyInput[]> {
  const inputs: ResolvedCopyInput[] = []
  for (const [index, input] of vertex.inputs.entries()) {
    inputs.push(await resolveInput(environment, { input, index }, results, place))
  }
  return inputs
}

async function resolveInput(
  environment: BuildEnvironment,
  { input, index }: { readonly input: CopyVertex['inputs'][number]; readonly index: number },
  results: ReadonlyMap<VertexId, Snapshot>,
  place: Place,
): Promise<ResolvedCopyInput> {
  const { ports } = environment
  const { signal } = place
  switch (input.kind) {
    case 'inline':
      return input
    case 'url': {
      const file = posix.join(place.scratch.root, `download-${index}`)
      const { name, mtime } = await ports.downloads.fetch(input.url, {
        file,
        checksum: input.checksum,
        signal,
      })
      return { kind: 'download', file, name, mtime, unpack: input.unpack }
    }
    case 'context': {
      const tree = await environment.contexts.get(input.context, signal)
      return {
        kind: 'tree',
        root: tree.root,
        pattern: input.pattern,
        unpack: input.unpack,
        ignore: tree.ignore,
        ignoreFile: tree.ignoreFile,
        isContext: true,
      }
    }
    case 'vertex': {
      const source = parentSnapshot(input.vertex, results)
      return {
        kind: 'tree',
        root: { access: 'layers', lowers: lowerDirectories(ports, source.layers) },
        pattern: input.pattern,
        unpack: input.unpack,
        ignore: [],
        ignoreFile: undefined,
        isContext: false,
      }
    }
  }
}
