import type { ImageConfig } from '@isula-build/shared/oci/image-config.js'
import type { LayerId } from './layer-store.js'

/** An image as the store holds it. */
export interface ResolvedImage {
  /** 64 hex digits: sha256 of the config bytes. */
  readonly id: string
  /** As the user wrote it. */
  readonly reference: string
  readonly config: ImageConfig
  /** Bottom first. */
  readonly layers: readonly LayerId[]
}

export interface ImageResolver {
  /**
   * Finds what a FROM, COPY --from or mount names: local names, IDs, ID prefixes; registries later.
   * Tags are resolved once per build, so the same reference gives the same image within one build.
   * Fails with ISB_IMAGE_NOT_FOUND, ISB_REFERENCE_INVALID or ISB_PLATFORM_UNSUPPORTED.
   */
  resolve(reference: string, platform: string | undefined, signal: AbortSignal): Promise<ResolvedImage>
}
