import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type Platform, parsePlatform } from '@isula-build/shared/oci/platform.js'
import { findLocalImage, findSibling, isFor } from '../core/transfer/local-image.js'
import { isGoodEnough } from '../core/transfer/policy.js'
import { pullImage } from '../core/transfer/pull.js'
import type { TransferCall, TransferServices } from '../core/transfer/transfer.js'
import type { Caller } from '../ports/caller.js'
import type { ImageRecord } from '../ports/image-store.js'
import type { CredentialClient, PullRequest, TransferEvent } from '../rpc/handlers.js'
import { eventStream } from './event-stream.js'
import { type PushDeps, progressTo, withTransfer } from './push-operations.js'

export type PullDeps = PushDeps

type Stored = Extract<TransferEvent, { kind: 'stored' }>

/** Gets an image from a registry, or finds that the policy is content with what is here. */
export function pullToStore(
  deps: PullDeps,
  request: PullRequest,
  client: CredentialClient,
  caller: Caller,
  signal: AbortSignal,
): AsyncIterable<TransferEvent> {
  return eventStream<TransferEvent>(signal, async (emit, inner) => {
    const call = {
      ...{ caller, client, transfer: request.transfer, signal: inner },
      onLog: (line: string) => void emit({ kind: 'log', line }),
      onProgress: progressTo(emit, deps.services.clock),
    }
    const stored = await withTransfer(deps, call, 'pull', (services, transfer) =>
      getImages(request, services, transfer),
    )
    for (const event of stored) await emit(event)
  })
}

async function getImages(
  request: PullRequest,
  services: TransferServices,
  call: TransferCall,
): Promise<readonly Stored[]> {
  const { reference, policy } = request
  const platforms =
    request.platforms === 'all'
      ? 'all'
      : request.platforms.map((text) => parsePlatform(text, services.platform))
  if (platforms !== 'all' && policy !== 'always') {
    const here = await imagesHere(request, platforms, services, call)
    if (here !== undefined) return here.map((record) => stored(record, undefined))
  }
  if (policy === 'never') {
    throw new BuilderError('ISB_IMAGE_NOT_FOUND', `image "${reference}" not found in local store`)
  }
  const { images, digest } = await pullImage(reference, { platforms, names: 'reference' }, services, call)
  return images.map(({ record }) => stored(record, digest))
}

/** The images for all these platforms, when they are here and will do. */
async function imagesHere(
  { reference, policy }: PullRequest,
  platforms: readonly Platform[],
  services: TransferServices,
  call: TransferCall,
): Promise<readonly ImageRecord[] | undefined> {
  const records: ImageRecord[] = []
  for (const platform of platforms.length === 0 ? [services.platform] : platforms) {
    const finding = { platform, lease: call.lease, by: 'names' as const }
    const local = await findLocalImage(reference, services, finding)
    if (local === undefined) return undefined
    const isMatch = platforms.length === 0 || isFor(local.record, platform)
    const record = isMatch ? local.record : await findSibling(local, platform, services, call.lease)
    if (record === undefined || record.damaged) return undefined
    if (!(await isGoodEnough({ record, name: local.name }, policy, services, call))) return undefined
    records.push(record)
  }
  return records
}

function stored({ id, names }: ImageRecord, digest: string | undefined): Stored {
  return { kind: 'stored', imageId: id, names, digest }
}
