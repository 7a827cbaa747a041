import type { CacheRecord } from '../../ports/cache-index.js'
import type { StagingLayer } from '../../ports/layer-store.js'
import type { CopyParams, ResolvedCopyInput } from '../../ports/layer-worker.js'
import type { CopyVertex, VertexId } from '../plan/plan.js'
import { staticKey } from './cache-key.js'
import { type BuildEnvironment, lowerDirectories, type Snapshot } from './environment.js'
import type { Executed } from './execute.js'
import {
  childSnapshot,
  holdCached,
  ownLayer,
  parentSnapshot,
  publishLayer,
  withStaging,
} from './layer-result.js'

/**
 * COPY and ADD. The static key says what is copied where; the content key what it holds. Content is
 * read beforehand only when some record with this static key could match, so a first build reads it once.
 */
export async function executeCopy(
  environment: BuildEnvironment,
  vertex: CopyVertex,
  results: ReadonlyMap<VertexId, Snapshot>,
  signal: AbortSignal,
): Promise<Executed> {
  const { ports, uid } = environment
  const parent = parentSnapshot(vertex.parent, results)
  const inputKeys = vertex.inputs.map((input) =>
    input.kind === 'vertex' ? parentSnapshot(input.vertex, results).key : '',
  )
  const { key, parts } = staticKey(vertex, {
    parent: parent.key,
    inputs: inputKeys,
    fixedTime: environment.fixedTime,
  })
  await using scratch = await downloadScratch(environment, vertex)
  return await withStaging(environment, async (staging) => {
    const params = await copyParams(environment, vertex, parent, results, { staging, scratch, signal })
    const records = environment.noCache ? [] : await ports.cache.lookup(uid, key)
    if (records.length > 0) {
      const { contentKey } = await ports.workers.run('digestSources', params, signal)
      const hit = await matching(environment, vertex, records, contentKey)
      if (hit !== undefined) {
        await ports.layers.abandon(staging)
        return { snapshot: childSnapshot(parent, stateKey(key, contentKey), hit), cached: true }
      }
    }
    const copied = await ports.workers.run('copy', params, signal)
    const id = await publishLayer(environment, staging, copied)
    await ports.cache.store(uid, { staticKey: key, contentKey: copied.contentKey, layer: id }, parts)
    const own = ownLayer(environment, vertex.id, id, copied)
    return { snapshot: childSnapshot(parent, stateKey(key, copied.contentKey), own), cached: false }
  })
}

interface Place {
  readonly staging: StagingLayer
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

async function matching(
  environment: BuildEnvironment,
  vertex: CopyVertex,
  records: readonly CacheRecord[],
  contentKey: string,
): Promise<Snapshot['own'] | undefined> {
  for (const record of records) {
    if (record.contentKey !== contentKey || record.layer === null) continue
    const own = await holdCached(environment, vertex.id, record.layer)
    if (own !== undefined) return own
  }
  return undefined
}

/** Both halves name the state; neither contains the separator. */
function stateKey(key: string, contentKey: string): string {
  return `${key}+${contentKey}`
}

async function copyParams(
  environment: BuildEnvironment,
  vertex: CopyVertex,
  parent: Snapshot,
  results: ReadonlyMap<VertexId, Snapshot>,
  place: Place,
): Promise<CopyParams> {
  const inputs: ResolvedCopyInput[] = []
  for (const input of vertex.inputs) {
    inputs.push(await resolveInput(environment, input, results, place))
  }
  return {
    upper: place.staging.upper,
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

async function resolveInput(
  environment: BuildEnvironment,
  input: CopyVertex['inputs'][number],
  results: ReadonlyMap<VertexId, Snapshot>,
  place: Place,
): Promise<ResolvedCopyInput> {
  const { ports } = environment
  const { signal } = place
  switch (input.kind) {
    case 'inline':
      return input
    case 'url': {
      const download = await ports.downloads.fetch(input.url, {
        directory: place.scratch.root,
        checksum: input.checksum,
        signal,
      })
      const { file, name, mtime } = download
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
