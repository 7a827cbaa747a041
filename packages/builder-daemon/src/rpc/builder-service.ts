import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { errorDetail } from '@isula-build/shared/errors/wire.js'
import { maxChunk } from '@isula-build/shared/rpc/build-messages.js'
import type { PruneResponse } from '@isula-build/shared/rpc/builder.js'
import type { Decoded, Encodable } from '@isula-build/shared/rpc/codec.js'
import type * as wire from '@isula-build/shared/rpc/image-messages.js'
import { type BoundService, bindService } from './adapter.js'
import { prunedBy, removedBy, storedBy } from './audit-facts.js'
import { fileTarget } from './build-options.js'
import { build } from './builder-build.js'
import { builderRegistries } from './builder-registries.js'
import type { PruneEvent } from './cache-requests.js'
import type {
  ArchiveSource,
  BuilderCore,
  LoadRequest,
  RemoveEvent,
  SaveRequest,
  StoreEvent,
} from './handlers.js'
import { createImageListing } from './image-listing.js'
import { checkChoice, checkPath, invalid, orUndefined } from './request-checks.js'

/** `isula.builder.v1.Builder`: what our own client speaks. */
export function createBuilderService(core: BuilderCore): BoundService {
  const listing = createImageListing()
  return bindService(listing.service, {
    Build: (requests, context) => build(core, requests, context),

    async Images(request, { caller }) {
      return listing.answer(await core.images(caller), request.filter)
    },

    async Tag(request, { caller }) {
      await core.tag(request.image, request.name, caller)
      return {}
    },

    async *Remove(request, { caller, signal, note }) {
      const { images, all, prune } = request
      if (Number(all) + Number(prune) + Number(images.length > 0) !== 1) {
        throw invalid('give images, or all, or prune')
      }
      const what = all
        ? ({ kind: 'all' } as const)
        : prune
          ? ({ kind: 'unnamed' } as const)
          : ({ kind: 'named', references: images } as const)
      let failed: BuilderError | undefined
      for await (const event of core.remove(what, caller, signal)) {
        note({ results: removedBy(event) })
        if (event.kind === 'failed') failed ??= event.error
        yield removeResponse(event)
      }
      if (failed !== undefined) throw new BuilderError(failed.code, 'remove one or more images failed')
    },

    async *Import(requests, { caller, signal, note }) {
      const { first, chunks } = await openUpload(requests)
      if (first?.case !== 'options') throw invalid('the first frame of an import is its options')
      const source = archiveSource(first.value.source, chunks)
      const reference = orUndefined(first.value.reference)
      for await (const event of core.import({ source, reference }, caller, signal)) {
        note({ results: storedBy(event) })
        yield storeResponse(event)
      }
    },

    async *Load(requests, { caller, signal, note }) {
      const { first, chunks } = await openUpload(requests)
      if (first?.case !== 'options') throw invalid('the first frame of a load is its options')
      const request = loadRequest(first.value, chunks)
      for await (const event of core.load(request, caller, signal)) {
        note({ results: storedBy(event) })
        yield storeResponse(event)
      }
    },

    async *Save(request, { caller, signal }) {
      for await (const event of core.save(saveRequest(request), caller, signal)) {
        if (event.kind === 'log') yield { event: { case: 'log', value: event.line } }
        else {
          for (let at = 0; at < event.chunk.length; at += maxChunk) {
            yield { event: { case: 'chunk', value: event.chunk.subarray(at, at + maxChunk) } }
          }
        }
      }
    },

    ...builderRegistries(core),

    async Info(request, { caller }) {
      const { memory, ...info } = await core.info(caller)
      return { ...info, memory: request.verbose ? memory : undefined }
    },

    Version: () => core.version(),

    async ListBuilds(_, { caller }) {
      const builds = await core.builds(caller)
      return {
        builds: builds.map((one) => ({
          ...one,
          state: one.state === 'queued' ? ('QUEUED' as const) : ('RUNNING' as const),
        })),
      }
    },

    async CancelBuild(request, { caller }) {
      await core.cancelBuild(request.id, caller)
      return {}
    },

    async *Prune(request, { caller, signal, note }) {
      if (request.keepBytes < 0) throw invalid('the size to keep is negative')
      if (request.unusedFor < 0) throw invalid('the time without use is negative')
      for await (const event of core.prune(request, caller, signal)) {
        if (!request.dryRun) note({ results: prunedBy(event) })
        yield pruneResponse(event)
      }
    },
  })
}

function removeResponse(event: RemoveEvent): Encodable<typeof wire.RemoveResponse> {
  switch (event.kind) {
    case 'untagged':
      return { event: { case: 'untagged', value: event.name } }
    case 'layer-removed':
      return { event: { case: 'deletedLayer', value: event.diffId } }
    case 'image-removed':
      return { event: { case: 'deletedImage', value: event.reference } }
    case 'failed':
      return {
        event: { case: 'failed', value: { image: event.reference, error: errorDetail(event.error) } },
      }
  }
}

function pruneResponse(event: PruneEvent): Encodable<typeof PruneResponse> {
  if (event.kind === 'summary') return { event: { case: 'summary', value: event } }
  const { kind, name, bytes, usedAt, owners } = event.entry
  const value = {
    kind: kind === 'layer' ? ('LAYER' as const) : ('CACHE_MOUNT' as const),
    name,
    bytes,
    usedAt,
    owners,
  }
  return { event: { case: 'removed', value } }
}

function storeResponse(event: StoreEvent): Encodable<typeof wire.LoadResponse> {
  if (event.kind === 'log') return { event: { case: 'log', value: event.line } }
  return { event: { case: 'image', value: { id: event.imageId, names: event.names } } }
}

type UploadFrame<Options> =
  | { readonly case: 'options'; readonly value: Options }
  | { readonly case: 'chunk'; readonly value: Uint8Array }

interface Upload<Options> {
  readonly first: UploadFrame<Options> | undefined
  /** What follows; to be read once. */
  readonly chunks: AsyncIterable<Uint8Array>
}

async function openUpload<Options>(
  requests: AsyncIterable<{ readonly payload: UploadFrame<Options> | undefined }>,
): Promise<Upload<Options>> {
  const frames = requests[Symbol.asyncIterator]()
  const first = await frames.next()
  return {
    first: first.done === true ? undefined : first.value.payload,
    chunks: (async function* () {
      for (let next = await frames.next(); next.done !== true; next = await frames.next()) {
        const { payload } = next.value
        if (payload?.case !== 'chunk') throw invalid('after the options only chunks follow')
        if (payload.value.length > maxChunk) throw invalid(`a chunk is larger than ${maxChunk} bytes`)
        yield payload.value
      }
    })(),
  }
}

function archiveSource(
  message: wire.ArchiveSource | undefined,
  chunks: AsyncIterable<Uint8Array>,
): ArchiveSource {
  const source = message?.source
  if (source === undefined) throw invalid('the options hold no source')
  return source.case === 'stream'
    ? { kind: 'stream', chunks }
    : { kind: 'file', path: checkPath(source.value, 'tarball') }
}

function loadRequest(
  { source }: Decoded<typeof wire.LoadOptions>,
  chunks: AsyncIterable<Uint8Array>,
): LoadRequest {
  if (source?.case !== 'separated') {
    return { kind: 'archive', source: archiveSource(source?.value, chunks) }
  }
  const { app, directory, base, lib, skipCheck } = source.value
  return {
    kind: 'separated',
    app,
    directory: checkPath(directory, 'tarball directory'),
    base: base === '' ? undefined : checkPath(base, 'base tarball'),
    lib: lib === '' ? undefined : checkPath(lib, 'lib tarball'),
    skipCheck,
  }
}

function saveRequest(request: Decoded<typeof wire.SaveRequest>): SaveRequest {
  const { images, destination } = request
  const format = checkChoice(request.format, 'image format', ['docker', 'oci'])
  if (images.length === 0) throw invalid('no image to save')
  switch (destination?.case) {
    case 'file':
      return { images, format, destination: fileTarget(destination.value) }
    case 'stream':
      return { images, format, destination: { kind: 'stream' } }
    case 'separated': {
      const { base, lib, rename, directory } = destination.value
      return {
        images,
        format,
        destination: {
          kind: 'separated',
          base,
          lib: orUndefined(lib),
          rename: rename === '' ? undefined : checkPath(rename, 'rename file'),
          directory: checkPath(directory, 'output directory'),
        },
      }
    }
    case undefined:
      throw invalid('the request holds no destination')
  }
}
