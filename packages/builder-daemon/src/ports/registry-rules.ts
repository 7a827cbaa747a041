import type { ImageReference } from '@isula-build/shared/oci/reference.js'
import type { Endpoint, RegistryCall, RemoteManifest } from './registry.js'

/** What registries.toml and policy.json say; read again on SIGHUP, so ask anew for every operation. */
export interface RegistryRules {
  /**
   * Full references that a name without a registry may mean, in order: `localhost/NAME`, then every search registry that
   * is not blocked (`docker.io` inserts `library/` for one component). A name with a registry is its only candidate.
   * Fails with ISB_REFERENCE_INVALID.
   */
  candidates(text: string): readonly ImageReference[]
  /**
   * Where to read the reference, in order: mirrors (those for digests only if it has one, unless told otherwise), then
   * the location. Fails with ISB_REGISTRY_DENIED naming the rule when it is blocked.
   */
  endpoints(reference: ImageReference): readonly Endpoint[]
  /** Where to write it: the location, never a mirror. Fails with ISB_REGISTRY_DENIED when it is blocked. */
  destination(reference: ImageReference): Endpoint
  /**
   * policy.json on an image that was fetched: `reference` as the user meant it, `manifest` of the chosen platform, and
   * of the index if there was one. Signatures are fetched when the policy wants some. Fails with ISB_POLICY_REJECTED
   * naming the requirement.
   */
  admit(
    image: {
      readonly reference: ImageReference
      readonly endpoint: Endpoint
      readonly manifest: RemoteManifest
      readonly index: RemoteManifest | undefined
    },
    call: RegistryCall,
  ): Promise<void>
  readonly lists: {
    readonly search: readonly string[]
    readonly insecure: readonly string[]
    readonly block: readonly string[]
  }
}

/** The rules as the daemon holds them. */
export interface ConfiguredRules extends RegistryRules {
  /**
   * A registry itself, perhaps a namespace of it (else ''), to log in to; never rewritten. Fails with ISB_REGISTRY_DENIED
   * when it is blocked.
   */
  server(host: string, namespace: string): Endpoint
  /** policy.json on an archive that is to be loaded. Fails with ISB_POLICY_REJECTED; archives carry no signatures. */
  admitArchive(transport: 'docker-archive' | 'oci-archive', path: string | undefined): void
  /** Reads the files again; what is wrong in them is logged and the old rules stay. */
  reload(): Promise<void>
}
