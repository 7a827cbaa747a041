import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'
import type { Logger } from '../ports/logger.js'
import type {
  Credentials,
  Endpoint,
  ManifestHead,
  RegistryAccess,
  RemoteManifest,
} from '../ports/registry.js'
import type { RegistryHttpOptions } from '../registry/http/registry-http.js'
import type { LayerFailure } from './layer-messages.js'

/** `workerData` of the transfer thread. */
export interface TransferThreadData {
  readonly http: Omit<RegistryHttpOptions, 'log'>
}

/** The operations of RegistryClient as they cross threads: no functions, no signals. */
export interface TransferOperations {
  ping: { readonly params: readonly [Endpoint]; readonly result: undefined }
  manifest: { readonly params: readonly [Endpoint, string]; readonly result: RemoteManifest }
  manifestHead: { readonly params: readonly [Endpoint, string]; readonly result: ManifestHead | undefined }
  readBlob: { readonly params: readonly [Endpoint, Descriptor, number]; readonly result: Uint8Array }
  fetchBlob: { readonly params: readonly [Endpoint, Descriptor, string]; readonly result: undefined }
  hasBlob: { readonly params: readonly [Endpoint, Digest]; readonly result: boolean }
  mountBlob: { readonly params: readonly [Endpoint, Digest, string]; readonly result: boolean }
  uploadBlob: {
    readonly params: readonly [
      Endpoint,
      { readonly digest: Digest; readonly size: number; readonly path: string },
    ]
    readonly result: undefined
  }
  streamBlob: {
    readonly params: readonly [Endpoint, { readonly memory: SharedArrayBuffer; readonly path: string }]
    readonly result: boolean
  }
  putManifest: {
    readonly params: readonly [Endpoint, string, { readonly mediaType: string; readonly bytes: Uint8Array }]
    readonly result: undefined
  }
  tags: { readonly params: readonly [Endpoint]; readonly result: readonly string[] }
  referrers: { readonly params: readonly [Endpoint, Digest]; readonly result: readonly Descriptor[] }
}

export type OperationName = keyof TransferOperations

/** To the thread. */
export type TransferRequest =
  | {
      readonly kind: 'call'
      readonly id: number
      readonly operation: OperationName
      readonly params: readonly unknown[]
      readonly access: Omit<RegistryAccess, 'credentials'>
      /** Progress is wanted. */
      readonly progress: boolean
    }
  | { readonly kind: 'abort'; readonly id: number }
  | { readonly kind: 'credentials'; readonly question: number; readonly answer: CredentialAnswer }
  /** Ends everything and then the thread. */
  | { readonly kind: 'close' }

export type CredentialAnswer =
  | { readonly ok: true; readonly credentials: Credentials | undefined }
  | { readonly ok: false; readonly failure: LayerFailure }

/** From the thread. */
export type TransferReply =
  /** The entry has been loaded; before that a thread must not be ended. */
  | { readonly kind: 'ready' }
  | { readonly kind: 'done'; readonly id: number; readonly result: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly failure: LayerFailure }
  | { readonly kind: 'progress'; readonly id: number; readonly bytes: number }
  /** A line for the user. */
  | { readonly kind: 'notice'; readonly id: number; readonly line: string }
  | {
      readonly kind: 'question'
      readonly question: number
      readonly id: number
      readonly host: string
      readonly repository: string
    }
  | {
      readonly kind: 'log'
      readonly level: keyof Logger
      readonly event: string
      readonly fields: Record<string, unknown> | undefined
    }
