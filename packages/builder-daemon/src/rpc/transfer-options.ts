import type {
  PushOptionsMessage,
  TransferOptionsMessage,
} from '@isula-build/shared/rpc/credential-messages.js'
import type * as wire from '@isula-build/shared/rpc/transfer-messages.js'
import type {
  AnnotateListRequest,
  CreateListRequest,
  PullPolicy,
  PullRequest,
  PushListRequest,
  PushOptions,
  PushRequest,
  TransferOptions,
} from './handlers.js'
import { checkChoice, invalid, orUndefined } from './request-checks.js'

// Our own requests about registries in the core's terms. All fail with ISB_ARGUMENT_INVALID.

const maxRetries = 100
/** Milliseconds. */
const maxRetryDelay = 3_600_000

export const unspecifiedTransfer: TransferOptions = {
  tlsVerify: undefined,
  retries: undefined,
  retryDelay: undefined,
}

export function transferOptions(message: TransferOptionsMessage | undefined): TransferOptions {
  if (message === undefined) return unspecifiedTransfer
  const { tlsVerify, retries = 0, retryDelay = 0 } = message
  if (retries > maxRetries) throw invalid(`more than ${maxRetries} retries`)
  if (retryDelay > maxRetryDelay) throw invalid('the delay before a retry is longer than an hour')
  return { tlsVerify, retries: message.retries, retryDelay: message.retryDelay }
}

export function pullPolicy(text: string): PullPolicy {
  return checkChoice(text, 'pull policy', ['missing', 'newer', 'always', 'never'])
}

export function pushOptions(message: PushOptionsMessage | undefined): PushOptions {
  const compression = message?.compression
  const level = message?.level
  if (level !== undefined && !compression) throw invalid('a compression level needs a compression')
  return {
    format: optionalFormat(message?.format ?? ''),
    compression: compression ? checkChoice(compression, 'compression', ['gzip', 'zstd']) : undefined,
    level,
  }
}

function optionalFormat(text: string): 'docker' | 'oci' | undefined {
  return text === '' ? undefined : checkChoice(text, 'image format', ['docker', 'oci'])
}

export function pullRequest(message: wire.PullOptionsMessage): PullRequest {
  const { reference, platforms, allPlatforms, policy, transfer } = message
  if (reference === '') throw invalid('no image to pull')
  if (allPlatforms && platforms.length > 0) throw invalid('give platforms or ask for all, not both')
  return {
    reference,
    platforms: allPlatforms ? 'all' : platforms,
    policy: pullPolicy(policy),
    transfer: transferOptions(transfer),
  }
}

export function pushRequest({ image, destination, push, transfer }: wire.PushImageOptions): PushRequest {
  if (image === '') throw invalid('no image to push')
  return {
    image,
    destination: orUndefined(destination),
    push: pushOptions(push),
    transfer: transferOptions(transfer),
  }
}

export function createListRequest(message: wire.CreateManifestListOptions): CreateListRequest {
  const { name, images, format, all, amend, transfer } = message
  if (name === '') throw invalid('the list has no name')
  return {
    name,
    images,
    format: checkChoice(format, 'format of the list', ['docker', 'oci']),
    all,
    amend,
    transfer: transferOptions(transfer),
  }
}

export function annotateListRequest(message: wire.AnnotateManifestListOptions): AnnotateListRequest {
  const { list, image, os, architecture, variant, osVersion, osFeatures, annotations, transfer } = message
  if (list === '' || image === '') throw invalid('the list or its image has no name')
  return {
    list,
    image,
    os: orUndefined(os),
    architecture: orUndefined(architecture),
    variant: orUndefined(variant),
    osVersion: orUndefined(osVersion),
    osFeatures,
    annotations: Object.fromEntries(annotations),
    transfer: transferOptions(transfer),
  }
}

export function pushListRequest(message: wire.PushManifestListOptions): PushListRequest {
  const { list, destination, format, all, purge, transfer } = message
  if (list === '' || destination === '') throw invalid('the list or its destination has no name')
  return {
    list,
    destination,
    format: optionalFormat(format),
    all,
    purge,
    transfer: transferOptions(transfer),
  }
}
