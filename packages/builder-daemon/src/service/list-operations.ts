import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { parseDigest } from '@isula-build/shared/oci/digest.js'
import { canonicalName, formatFamiliar, tryParseReference } from '@isula-build/shared/oci/reference.js'
import { encodeList, listOf, listPlatform } from '../core/image/list-document.js'
import { localNames } from '../core/images/names.js'
import { createLimit } from '../core/transfer/limit.js'
import { findEntries, findHere } from '../core/transfer/list-entries.js'
import { findLocalList, requireLocalList } from '../core/transfer/local-lists.js'
import { type ListShape, pushList } from '../core/transfer/push-list.js'
import type { PushedManifest, TransferCall, TransferServices } from '../core/transfer/transfer.js'
import type { Caller } from '../ports/caller.js'
import type { ListEntry, ManifestList, ManifestListStore } from '../ports/manifest-lists.js'
import type { AnnotateListRequest, BuilderCore, TransferEvent } from '../rpc/handlers.js'
import { type Emit, eventStream } from './event-stream.js'
import {
  destinationOf,
  type PushCall,
  type PushDeps,
  progressTo,
  pushLocalImage,
  withTransfer,
} from './push-operations.js'

export interface ListDeps extends PushDeps {
  readonly lists: ManifestListStore
}

type ListMethods = 'push' | 'createList' | 'annotateList' | 'inspectList' | 'pushList' | 'removeList'

/** Manifest lists: everybody reads them, and changes his own. Pushing by a name that is a list's pushes all of it. */
export function createListOperations(deps: ListDeps): Pick<BuilderCore, ListMethods> {
  const { lists, services } = deps
  const names = { images: services.images, lists }
  const silent = (): void => undefined
  /** What is read of a list is what is replaced. */
  const exclusively = createLimit(1)

  return {
    async createList(request, client, caller, signal) {
      const { transfer, format, all, amend } = request
      const name = ownName(request.name)
      if (!amend) await requireFree(name)
      const call = { caller, client, transfer, signal, onLog: silent }
      return await withTransfer(deps, call, 'manifest list', async (within, transferring) => {
        const found: ListEntry[] = []
        for (const image of request.images) {
          found.push(...(await findEntries(image, { all, format }, within, transferring)))
        }
        const list = listOf({
          ...{ name, format, annotations: {}, owner: caller.uid, createdAt: services.clock.now() },
          entries: found.reduce(withEntry, []),
        })
        await lists.put(list, amend ? 'replace' : 'create')
        return list.id
      })
    },

    async annotateList(request, client, caller, signal) {
      const before = await requireLocalList(request.list, names)
      requireOwner(before, caller)
      const call = { caller, client, transfer: request.transfer, signal, onLog: silent }
      await withTransfer(deps, call, 'manifest list', async (within, transferring) => {
        const found = await entryMeant(request.image, before, within, transferring)
        await exclusively(async () => {
          const list = await requireLocalList(before.name, names)
          const entry = annotated(
            list.entries.find(({ digest }) => digest === found.digest) ?? found,
            request,
          )
          await lists.put(listOf({ ...list, entries: withEntry(list.entries, entry) }), 'replace')
        })
      })
    },

    async inspectList(name) {
      const { format, entries, annotations } = await requireLocalList(name, names)
      const { bytes } = encodeList(format, entries, annotations)
      const document: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'))
      return Buffer.from(JSON.stringify(document, undefined, 4))
    },

    pushList: (request, client, caller, signal) =>
      eventStream<TransferEvent>(signal, async (emit, inner) => {
        const list = await requireLocalList(request.list, names)
        const { format, all, destination, transfer, purge } = request
        if (purge) requireOwner(list, caller)
        const shape = { format, all, compression: undefined, level: undefined }
        await pushTo(list, { destination, shape }, { client, caller, transfer, signal: inner }, emit)
        if (purge) await lists.remove(list.name, caller.uid)
      }),

    async *push(request, client, caller, signal) {
      const list = await findLocalList(request.image, names)
      if (list === undefined) {
        yield* pushLocalImage(deps, request, client, caller, signal)
        return
      }
      const { transfer, destination = list.name } = request
      const shape = { ...request.push, all: true }
      yield* eventStream<TransferEvent>(signal, (emit, inner) =>
        pushTo(list, { destination, shape }, { client, caller, transfer, signal: inner }, emit),
      )
    },

    async removeList(name, caller) {
      const list = await requireLocalList(name, names)
      if (await lists.remove(list.name, caller.uid)) return
      throw new BuilderError('ISB_IMAGE_NOT_FOUND', `manifest list "${name}" not found in local store`)
    },
  }

  async function pushTo(
    list: ManifestList,
    { destination, shape }: { readonly destination: string; readonly shape: ListShape },
    rest: Omit<PushCall, 'onLog' | 'onProgress'>,
    emit: Emit<TransferEvent>,
  ): Promise<void> {
    const call = {
      ...rest,
      onLog: (line: string) => void emit({ kind: 'log', line }),
      onProgress: progressTo(emit, services.clock),
    }
    const { digest, size, reference } = await withTransfer(deps, call, 'push', (within, transferring) =>
      pushListTo(list, destination, shape, within, transferring),
    )
    await emit({ kind: 'pushed', reference, digest, size })
  }

  async function requireFree(name: string): Promise<void> {
    const isTaken = (await lists.get(name)) !== undefined || (await services.images.get(name)) !== undefined
    if (!isTaken) return
    throw new BuilderError('ISB_ALREADY_EXISTS', `the name "${name}" is already in use`, {
      hint: 'Choose another name, or remove what has it.',
    })
  }
}

/** Pushes the list to where `destination` says. */
export async function pushListTo(
  list: ManifestList,
  destination: string,
  shape: ListShape,
  services: TransferServices,
  call: TransferCall,
): Promise<PushedManifest & { readonly reference: string }> {
  const reference = destinationOf(destination)
  const endpoint = services.rules.destination(reference)
  const to = { endpoint, tag: reference.tag ?? 'latest', name: canonicalName(reference) }
  const pushed = await pushList(list, to, shape, services, call)
  return { ...pushed, reference: formatFamiliar(reference) }
}

function ownName(text: string): string {
  const [name] = localNames([text])
  if (name === undefined) throw new Error('one name in, one name out')
  return name
}

/** In its place when the image is there already, else at the end. */
function withEntry(entries: readonly ListEntry[], entry: ListEntry): ListEntry[] {
  const isThere = entries.some(({ digest }) => digest === entry.digest)
  if (!isThere) return [...entries, entry]
  return entries.map((one) => (one.digest === entry.digest ? entry : one))
}

/** An entry by its digest, by the image of this store that it is, else what the text means anew. */
async function entryMeant(
  text: string,
  list: ManifestList,
  services: TransferServices,
  call: TransferCall,
): Promise<ListEntry> {
  const digest = parseDigest(text) ?? tryParseReference(text)?.digest
  const listed = list.entries.find((entry) => entry.digest === digest)
  if (listed !== undefined) return listed
  const here = (await findHere(text, services, call))?.record.id
  const local = list.entries.find(({ origin }) => origin.kind === 'local' && origin.imageId === here)
  if (local !== undefined) return local
  const [found] = await findEntries(text, { all: false, format: list.format }, services, call)
  if (found === undefined) throw new Error('an image without an entry')
  return found
}

function annotated(entry: ListEntry, request: AnnotateListRequest): ListEntry {
  const { os, architecture, variant, osVersion, osFeatures, annotations } = request
  const { platform } = entry
  const texts = { ...entry.annotations, ...annotations }
  return {
    ...entry,
    ...(Object.keys(texts).length === 0 ? {} : { annotations: texts }),
    platform: listPlatform({
      ...platform,
      os: os ?? platform.os,
      architecture: architecture ?? platform.architecture,
      variant: variant ?? platform.variant,
      osVersion: osVersion ?? platform.osVersion,
      osFeatures: osFeatures.length > 0 ? osFeatures : platform.osFeatures,
    }),
  }
}

function requireOwner({ name, owner }: ManifestList, { uid }: Caller): void {
  if (uid === 0 || uid === owner) return
  throw new BuilderError(
    'ISB_PERMISSION_DENIED',
    `uid ${uid} may not change the manifest list "${name}": it belongs to uid ${owner}`,
    { hint: 'Ask its owner or root.' },
  )
}
