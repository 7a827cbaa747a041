import type { Digest } from '@isula-build/shared/oci/digest.js'

/** A blob in a file of the store's, held against removal. */
export interface HeldBlob extends Disposable {
  readonly path: string
}

/**
 * Files of blobs on their way in or out, below the data root, apart for every user. They outlive the operation and the
 * daemon, so that the next attempt goes on where this one stopped, and are removed when what they were fetched for is
 * stored, when they were not used for a day, or when they take too much room, the oldest first, never while held.
 */
export interface BlobFiles {
  /**
   * The blob whole and checked: by `fill`, which gets the path of a file that may hold its beginning, unless it is there
   * already. Several who want the same blob at once share one `fill`; when the one whose `signal` aborts was running it,
   * another one goes on. A file is only taken as whole after `fill` has said so; content that lay through a restart is
   * checked against the digest again. Whoever waited runs his own `fill` when the one he waited for failed; a failure is
   * his too only when both name the same `source` and it had nothing to do with who asked.
   */
  obtain(
    uid: number,
    digest: Digest,
    fill: (partial: string, signal: AbortSignal) => Promise<void>,
    signal: AbortSignal,
    source?: string,
  ): Promise<HeldBlob>
  /** An empty file for a blob whose digest is not known yet; removed when disposed of. */
  create(uid: number): Promise<HeldBlob>
  /** What was fetched is stored elsewhere now. */
  release(uid: number, digests: readonly Digest[]): Promise<void>
}
