/** Why a step could not be taken from the cache, compared with the last build of the same project. */
export type CacheReason =
  /**
   * The instruction reads differently; `parts`: it does not, but these decide how it is executed and are others, as
   * `network` or `capabilities`.
   */
  | { readonly kind: 'instruction-changed'; readonly parts?: readonly string[] }
  /** The last build had no such instruction at this place. */
  | { readonly kind: 'instruction-added' }
  /** A build argument, or a variable set from one, has another value; `name` of the argument. */
  | { readonly kind: 'arg-changed'; readonly name: string }
  /** The tag means another image now; digests or image IDs. */
  | { readonly kind: 'base-changed'; readonly from: string; readonly to: string }
  /** What is copied or mounted has other content: at most five paths, sorted, and how many more there are. */
  | { readonly kind: 'files-changed'; readonly paths: readonly string[]; readonly more: number }
  /** The same bytes with another mode or owner. */
  | { readonly kind: 'mode-changed'; readonly paths: readonly string[]; readonly more: number }
  /** It stands on a step that missed and gave another result; the number of that step. */
  | { readonly kind: 'parent-missed'; readonly step: number }
  /** The result was known and was removed; milliseconds since the epoch. */
  | { readonly kind: 'evicted'; readonly at: number }
  /** `--no-cache`, `--no-cache-filter`, or a step that is never taken from the cache (`--mount=type=ssh`). */
  | { readonly kind: 'no-cache' }
  /** Nothing like it was built before by this user. */
  | { readonly kind: 'never-built' }

/** Why a step was not done, `not-reached`: the build ended before; `not-needed`: nothing of the target stands on it. */
export interface SkipReason {
  readonly kind: 'not-reached' | 'not-needed'
}

/** `skipped`: the step was not reached, or nothing needs it. */
export type StepCache =
  | { readonly status: 'hit' }
  | { readonly status: 'miss'; readonly reason: CacheReason }
  | { readonly status: 'skipped' }
