/** The earlier layer does not hold what it should: it is damaged. */
export class DamagedReuseError extends Error {
  override readonly name = 'DamagedReuseError'
  readonly code = 'REUSE_DAMAGED'
}

/**
 * A file of the earlier layer is not as the log beside it says, as on a file system that keeps times less exactly:
 * nothing of it can be used, which says nothing about its content.
 */
export class UnlikeReuseError extends Error {
  override readonly name = 'UnlikeReuseError'
  /** By which it is known when it comes from another thread. */
  readonly code = 'REUSE_UNLIKE'
}
