import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'
import {
  canonicalName,
  formatFamiliar,
  type ImageReference,
  parseReference,
  withDefaultTag,
} from '@isula-build/shared/oci/reference.js'
import { tryLocalName } from '../core/images/names.js'
import { requireLocalImage } from '../core/images/resolve.js'
import { withoutTransport } from '../core/transfer/locate.js'
import { pushImage } from '../core/transfer/push.js'
import type { PushedManifest, PushShape, TransferCall, TransferServices } from '../core/transfer/transfer.js'
import type { Caller } from '../ports/caller.js'
import type { Clock } from '../ports/clock.js'
import type { ImageRecord, ImageStore } from '../ports/image-store.js'
import type { Lease } from '../ports/layer-store.js'
import type {
  BuildOutput,
  CredentialClient,
  PushRequest,
  TransferEvent,
  TransferOptions,
} from '../rpc/handlers.js'
import { type Emit, eventStream } from './event-stream.js'
import { ownedImages } from './owned-images.js'
import type { AccessFor } from './registry-access.js'

/** What operations with registries need from the daemon. */
export interface PushDeps {
  readonly services: TransferServices
  readonly accessFor: AccessFor
}

/** Who pushes, and who is told. */
export interface PushCall {
  readonly caller: Caller
  readonly client: CredentialClient
  readonly transfer: TransferOptions
  readonly signal: AbortSignal
  readonly onLog: (line: string) => void
  readonly onProgress?: ((digest: Digest, done: number, total: number) => void) | undefined
}

export interface PushedReference extends PushedManifest {
  /** Where it is now, as people write it. */
  readonly reference: string
}

/** Pushes a local image; the last event says under which digest. */
export function pushLocalImage(
  deps: PushDeps,
  request: PushRequest,
  client: CredentialClient,
  caller: Caller,
  signal: AbortSignal,
): AsyncIterable<TransferEvent> {
  return eventStream<TransferEvent>(signal, async (emit, inner) => {
    const call: PushCall = {
      ...{ caller, client, transfer: request.transfer, signal: inner },
      onLog: (line) => void emit({ kind: 'log', line }),
      onProgress: progressTo(emit, deps.services.clock),
    }
    const pushed = await withTransfer(deps, call, 'push', async (services, transfer) => {
      const { record, destination } = await imageToPush(request, services.images, transfer.lease)
      return await pushTo(destination, record, request.push, services, transfer)
    })
    const { reference, digest, size } = pushed
    await emit({ kind: 'pushed', reference, digest, size })
  })
}

/** The same for an image that was just built. */
export async function pushOutput(
  deps: PushDeps,
  record: ImageRecord,
  output: Pick<Extract<BuildOutput, { kind: 'registry' }>, 'reference' | 'push'>,
  call: PushCall,
): Promise<PushedReference> {
  const destination = destinationOf(output.reference)
  return await withTransfer(deps, call, 'output', (services, transfer) =>
    pushTo(destination, record, output.push, services, transfer),
  )
}

/** Runs `work` under a lease of its own, with the image store as this caller may use it. */
export async function withTransfer<T>(
  { services, accessFor }: PushDeps,
  { caller, client, transfer, signal, onLog, onProgress }: PushCall,
  purpose: string,
  work: (services: TransferServices, call: TransferCall) => Promise<T>,
): Promise<T> {
  const lease = await services.layers.acquireLease({ uid: caller.uid, purpose })
  const access = accessFor(caller, client, transfer)
  try {
    const images = ownedImages(services.images, caller)
    return await work({ ...services, images }, { access, lease, signal, onLog, onProgress })
  } catch (error) {
    throw access.explained(error)
  } finally {
    await services.layers.releaseLease(lease)
  }
}

async function pushTo(
  reference: ImageReference,
  record: ImageRecord,
  shape: PushShape,
  services: TransferServices,
  call: TransferCall,
): Promise<PushedReference> {
  const endpoint = services.rules.destination(reference)
  const to = { endpoint, reference: reference.tag, name: canonicalName(reference) }
  const pushed = await pushImage(record, to, shape, services, call)
  return { ...pushed, reference: formatFamiliar(reference) }
}

interface ImageToPush {
  readonly record: ImageRecord
  readonly destination: ImageReference
}

/**
 * Without a destination the image of exactly this name goes where its name says; a prefix of an ID, which may be an
 * image as well, says nothing.
 */
async function imageToPush(
  { image, destination }: PushRequest,
  images: ImageStore,
  lease: Lease,
): Promise<ImageToPush> {
  const plain = withoutTransport(image)
  const record = await requireLocalImage(images, plain, lease)
  if (destination !== undefined) return { record, destination: destinationOf(destination) }
  const name = tryLocalName(plain)
  if (name !== undefined && record.names.includes(name)) return { record, destination: destinationOf(name) }
  throw new BuilderError('ISB_ARGUMENT_INVALID', `"${image}" does not say where to push the image`, {
    hint: 'Name the destination, or give the image a name with its registry first.',
  })
}

/** `[docker://]registry/name[:tag]`. A digest is what a push gives, so it cannot be where it goes. */
export function destinationOf(text: string): ImageReference {
  const reference = withDefaultTag(parseReference(text.replace(/^docker:\/\//, '')))
  if (reference.digest === undefined) return reference
  throw new BuilderError('ISB_REFERENCE_INVALID', `cannot push to "${text}": it holds a digest`, {
    hint: 'Push to a tag; the registry knows the image by its digest then, too.',
  })
}

/** Milliseconds between two reports on a blob. */
const reportEvery = 250

/** Reports of progress may be left out, all but the last of a blob; a slow reader gets fewer. */
export function progressTo(
  emit: Emit<TransferEvent>,
  clock: Clock,
): (digest: Digest, done: number, total: number) => void {
  const reported = new Map<Digest, number>()
  const waiting = new Set<Digest>()
  return (digest, done, total) => {
    const now = clock.now()
    const isLast = done >= total
    const early = now - (reported.get(digest) ?? Number.NEGATIVE_INFINITY) < reportEvery
    if (!isLast && (early || waiting.has(digest))) return
    reported.set(digest, now)
    waiting.add(digest)
    void emit({ kind: 'progress', digest, done, total }).then(() => waiting.delete(digest))
  }
}
