import type { Digest } from '@isula-build/shared/oci/digest.js'

export interface Download {
  /** Last component of the URL's path; `__unnamed__` where it has none. */
  readonly name: string
  /** Last-Modified, seconds since the epoch; 0 where the server names none, as BuildKit has it. */
  readonly mtime: number
  readonly digest: Digest
}

export interface Downloader {
  /**
   * Fetches http(s) into `file`, which must not be there, following at most 10 redirects that stay on http(s). Fails with
   * ISB_DOWNLOAD_FAILED (status and URL without credentials), ISB_DIGEST_MISMATCH, ISB_LIMIT_EXCEEDED.
   */
  fetch(
    url: string,
    options: {
      readonly file: string
      readonly checksum: string | undefined
      readonly signal: AbortSignal
    },
  ): Promise<Download>
}
