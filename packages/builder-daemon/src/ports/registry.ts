import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'

/** A repository as a registry serves it. */
export interface Endpoint {
  /** Host with its port, as written in references (`docker.io`, `localhost:5000`). */
  readonly host: string
  /** Name of the repository there (OCI distribution spec, `<name>`). */
  readonly repository: string
  /** registries.toml allows plain HTTP and certificates that cannot be verified. */
  readonly insecure: boolean
  /** Stands in for another registry: its tags may be stale, its content is checked by digest all the same. */
  readonly mirror: boolean
  /** Host in the reference, where registries.toml puts `host` in its place; undefined for mirrors and the same host. */
  readonly named?: string
}

export interface Credentials {
  readonly username: string
  /** With the user name `<token>` an identity token of an OAuth2 server. */
  readonly password: string
}

/** On whose behalf a registry is asked, and how patiently. */
export interface RegistryAccess {
  /** Tokens and connections are never shared between users. */
  readonly uid: number
  /**
   * Asked when a registry wants to know who calls; undefined: anonymous. The answer goes to that host, or to the token
   * server it names, and nowhere else. `named`: the host in the user's reference; undefined for a mirror.
   */
  readonly credentials: (host: string, repository: string, named?: string) => Promise<Credentials | undefined>
  /** false: every host is `insecure` for this call; true: none is; undefined: as the endpoint says. */
  readonly tlsVerify: boolean | undefined
  /** Attempts after a failed one; undefined: 4. */
  readonly retries: number | undefined
  /** The caller himself asked for so many: they are made even where nobody ever listened. */
  readonly insists?: boolean | undefined
  /** Milliseconds before the first of them, doubled each time; undefined: 1000. */
  readonly retryDelay: number | undefined
}

export interface RegistryCall {
  readonly access: RegistryAccess
  readonly signal: AbortSignal
  /** Told why nothing happens for a while: one line for the user, without its end. */
  readonly onNotice?: ((line: string) => void) | undefined
}

export interface RemoteManifest {
  readonly mediaType: string
  readonly bytes: Uint8Array
  /** Of `bytes`, computed here. */
  readonly digest: Digest
}

/** What HEAD told, nothing of it checked. */
export interface ManifestHead {
  readonly mediaType: string
  readonly digest: Digest
  readonly size: number
}

export interface BlobDownload {
  /**
   * File to fill. What it holds already counts as the beginning of the blob and is continued by Range, unless the
   * whole then has another digest: in that case it is fetched again from the start, once.
   */
  readonly path: string
  /** Bytes of the blob that are here now; falls when a download starts over. */
  readonly onProgress?: ((done: number) => void) | undefined
}

export interface BlobUpload {
  readonly digest: Digest
  readonly size: number
  /** A file that holds it. */
  readonly path: string
  readonly onProgress?: ((done: number) => void) | undefined
}

/** A blob that is still being made, in another thread. */
export interface BlobStream {
  /** What `compressLayer` was given as its `pipe`. */
  readonly memory: SharedArrayBuffer
  /** Its file, for what comes faster than it goes. */
  readonly path: string
  readonly onProgress?: ((done: number) => void) | undefined
}

/**
 * A client of the OCI distribution spec (and of Docker's registry v2, which it grew from): one operation, one
 * endpoint. Every failure is a BuilderError whose text names the registry, the repository, the status and what the
 * registry said: ISB_REGISTRY_DENIED (401, 403, 4xx), ISB_REGISTRY_UNAVAILABLE (no answer, 5xx, 429, certificate),
 * ISB_IMAGE_NOT_FOUND (404 of a manifest or of a blob), ISB_DIGEST_MISMATCH, ISB_LIMIT_EXCEEDED, ISB_MANIFEST_INVALID, ISB_CANCELLED.
 * Transient failures are retried inside; credentials never cross an origin.
 */
export interface RegistryClient {
  /** Succeeds when the registry speaks the protocol and accepts the credentials; fails with ISB_REGISTRY_DENIED. */
  ping(endpoint: Endpoint, call: RegistryCall): Promise<void>
  /** `reference` is a tag or a digest; by digest the content is checked against it. Schema 1 fails with ISB_UNSUPPORTED. */
  manifest(endpoint: Endpoint, reference: string, call: RegistryCall): Promise<RemoteManifest>
  /** undefined when the registry does not have it. */
  manifestHead(endpoint: Endpoint, reference: string, call: RegistryCall): Promise<ManifestHead | undefined>
  /** A small blob in memory, digest and size checked. Fails with ISB_LIMIT_EXCEEDED for more than `limit` bytes. */
  readBlob(endpoint: Endpoint, blob: Descriptor, limit: number, call: RegistryCall): Promise<Uint8Array>
  /**
   * Resolves when the file holds exactly the blob. When it fails because of wrong content the file is empty, when it
   * fails for want of an answer it keeps what came, for the next attempt.
   */
  fetchBlob(endpoint: Endpoint, blob: Descriptor, download: BlobDownload, call: RegistryCall): Promise<void>
  hasBlob(endpoint: Endpoint, digest: Digest, call: RegistryCall): Promise<boolean>
  /**
   * Makes a blob of repository `from` of the same registry appear here without its bytes; false, whatever the reason: it has
   * to be uploaded. Fails only with ISB_CANCELLED, ISB_SHUTTING_DOWN, ISB_DIGEST_MISMATCH.
   */
  mountBlob(endpoint: Endpoint, digest: Digest, from: string, call: RegistryCall): Promise<boolean>
  /** Resolves when the registry has the blob; after a failure it goes on where the registry says it is. */
  uploadBlob(endpoint: Endpoint, blob: BlobUpload, call: RegistryCall): Promise<void>
  /**
   * Sends a blob while it is made; once, without a second attempt at anything. True: the registry has it. False: it has to
   * be sent by `uploadBlob`, which also tells what is wrong. A blob that is not finished is a failure of no particular kind.
   */
  streamBlob(endpoint: Endpoint, stream: BlobStream, call: RegistryCall): Promise<boolean>
  /** Fails with ISB_IMAGE_NOT_FOUND when the registry misses a blob that the manifest names. */
  putManifest(
    endpoint: Endpoint,
    reference: string,
    manifest: { readonly mediaType: string; readonly bytes: Uint8Array },
    call: RegistryCall,
  ): Promise<void>
  tags(endpoint: Endpoint, call: RegistryCall): Promise<readonly string[]>
  /** Descriptors of manifests whose `subject` is `digest` (OCI distribution spec, referrers, with its tag fallback). */
  referrers(endpoint: Endpoint, digest: Digest, call: RegistryCall): Promise<readonly Descriptor[]>
}
