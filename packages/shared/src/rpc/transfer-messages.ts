import { type Decoded, type Encodable, field, mapOf, message, oneOf, repeated, when } from './codec.js'
import {
  CredentialAnswer,
  CredentialsMessage,
  NeedCredentials,
  PushOptionsMessage,
  TransferOptionsMessage,
} from './credential-messages.js'
import { Empty } from './well-known.js'
import { bool, bytes, int64, text } from './wire-types.js'

// proto/isula_build/builder/v1/builder.proto: registries and manifest lists. Meanings stand there.
const name = (message: string): string => `isula.builder.v1.${message}`

export const PullOptionsMessage = message(name('PullOptions'), {
  reference: field(1, text),
  platforms: repeated(2, text),
  allPlatforms: field(3, bool),
  policy: field(4, text),
  transfer: field(5, TransferOptionsMessage),
})
export type PullOptionsMessage = Decoded<typeof PullOptionsMessage>
export const PullRequest = message(name('PullRequest'), {
  payload: oneOf({ options: when(1, PullOptionsMessage), credentials: when(2, CredentialAnswer) }),
})

export const PushImageOptions = message(name('PushImageOptions'), {
  image: field(1, text),
  destination: field(2, text),
  push: field(3, PushOptionsMessage),
  transfer: field(4, TransferOptionsMessage),
})
export type PushImageOptions = Decoded<typeof PushImageOptions>
export const PushRequest = message(name('PushRequest'), {
  payload: oneOf({ options: when(1, PushImageOptions), credentials: when(2, CredentialAnswer) }),
})

export const BlobProgress = message(name('BlobProgress'), {
  digest: field(1, text),
  done: field(2, int64),
  total: field(3, int64),
})
export const PulledImage = message(name('PulledImage'), {
  id: field(1, text),
  names: repeated(2, text),
  digest: field(3, text),
})
export const PushedManifest = message(name('PushedManifest'), {
  reference: field(1, text),
  digest: field(2, text),
  size: field(3, int64),
})
export const TransferResponse = message(name('TransferResponse'), {
  event: oneOf({
    log: when(1, text),
    progress: when(2, BlobProgress),
    stored: when(3, PulledImage),
    pushed: when(4, PushedManifest),
    needCredentials: when(5, NeedCredentials),
  }),
})
/** A response as the daemon writes it. */
export type TransferResponse = Encodable<typeof TransferResponse>
/** What a client reads. */
export type TransferEventMessage = NonNullable<Decoded<typeof TransferResponse>['event']>

export const LoginRequest = message(name('LoginRequest'), {
  server: field(1, text),
  credentials: field(2, CredentialsMessage),
  transfer: field(3, TransferOptionsMessage),
})
export const LogoutRequest = message(name('LogoutRequest'), { server: field(1, text), all: field(2, bool) })

export const CreateManifestListOptions = message(name('CreateManifestListOptions'), {
  name: field(1, text),
  images: repeated(2, text),
  format: field(3, text),
  all: field(4, bool),
  amend: field(5, bool),
  transfer: field(6, TransferOptionsMessage),
})
export type CreateManifestListOptions = Decoded<typeof CreateManifestListOptions>
export const CreateManifestListRequest = message(name('CreateManifestListRequest'), {
  payload: oneOf({ options: when(1, CreateManifestListOptions), credentials: when(2, CredentialAnswer) }),
})
export const CreateManifestListResponse = message(name('CreateManifestListResponse'), {
  event: oneOf({ id: when(1, text), needCredentials: when(2, NeedCredentials) }),
})
export type CreateManifestListResponse = Encodable<typeof CreateManifestListResponse>

export const AnnotateManifestListOptions = message(name('AnnotateManifestListOptions'), {
  list: field(1, text),
  image: field(2, text),
  os: field(3, text),
  architecture: field(4, text),
  variant: field(5, text),
  osVersion: field(6, text),
  osFeatures: repeated(7, text),
  annotations: mapOf(8, text, text),
  transfer: field(9, TransferOptionsMessage),
})
export type AnnotateManifestListOptions = Decoded<typeof AnnotateManifestListOptions>
export const AnnotateManifestListRequest = message(name('AnnotateManifestListRequest'), {
  payload: oneOf({ options: when(1, AnnotateManifestListOptions), credentials: when(2, CredentialAnswer) }),
})
export const AnnotateManifestListResponse = message(name('AnnotateManifestListResponse'), {
  event: oneOf({ done: when(1, Empty), needCredentials: when(2, NeedCredentials) }),
})
export type AnnotateManifestListResponse = Encodable<typeof AnnotateManifestListResponse>

export const InspectManifestListRequest = message(name('InspectManifestListRequest'), {
  name: field(1, text),
})
export const InspectManifestListResponse = message(name('InspectManifestListResponse'), {
  document: field(1, bytes),
})

export const PushManifestListOptions = message(name('PushManifestListOptions'), {
  list: field(1, text),
  destination: field(2, text),
  format: field(3, text),
  all: field(4, bool),
  purge: field(5, bool),
  transfer: field(6, TransferOptionsMessage),
})
export type PushManifestListOptions = Decoded<typeof PushManifestListOptions>
export const PushManifestListRequest = message(name('PushManifestListRequest'), {
  payload: oneOf({ options: when(1, PushManifestListOptions), credentials: when(2, CredentialAnswer) }),
})

export const RemoveManifestListRequest = message(name('RemoveManifestListRequest'), { name: field(1, text) })
