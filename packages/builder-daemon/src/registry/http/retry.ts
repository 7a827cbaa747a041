import type { RegistryAccess } from '../../ports/registry.js'
import { pause } from './cancellation.js'
import type { HttpLimits } from './limits.js'

/** Statuses that pass. */
export const transientStatuses: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504, 522])

/** An attempt that failed for a reason that may pass. */
export interface FailedAttempt {
  readonly error: Error
  /** Milliseconds the registry asks to wait. */
  readonly retryAfter: number | undefined
  /** More attempts than this after it are of no use; undefined: as many as may be. */
  readonly retries?: number | undefined
  /** It was refused for being one of too many. */
  readonly limited: boolean
  /** The failure with how often it was tried. */
  readonly conclude: (attempts: string) => Error
}

/** Shorter waits, milliseconds, are not worth a line. */
const noticeable = 3000

/** Tells the user why nothing happens for a while. */
export function noticeWait(
  onNotice: ((line: string) => void) | undefined,
  reason: string,
  delay: number,
): void {
  if (delay > noticeable) onNotice?.(`${reason}, next attempt in ${Math.round(delay / 1000)} s`)
}

export type Attempt<T> = { readonly value: T } | { readonly failed: FailedAttempt }

export interface RetryOptions {
  readonly access: Pick<RegistryAccess, 'retries' | 'retryDelay'>
  /** No second attempt. */
  readonly once: boolean
  readonly limits: HttpLimits
  readonly signal: AbortSignal
  readonly onRetry: (failed: FailedAttempt, attempt: number, delay: number) => void
  /** From 0 to 1. */
  readonly random?: (() => number) | undefined
}

/**
 * Attempts with growing waits: `retryDelay` doubled each time, ±10 % so that many do not come back at once, or what
 * Retry-After says; bounded in number, in each wait and in all.
 */
export async function retrying<T>(
  attempt: () => Promise<Attempt<T>>,
  { access, once, limits, signal, onRetry, random = Math.random }: RetryOptions,
): Promise<T> {
  const retries = once ? 0 : Math.max(0, access.retries ?? 4)
  const start = performance.now()
  for (let count = 1; ; count++) {
    const outcome = await attempt()
    if ('value' in outcome) return outcome.value
    const { failed } = outcome
    const grown = Math.min((access.retryDelay ?? 1000) * 2 ** (count - 1), limits.longestDelay)
    const delay =
      failed.retryAfter === undefined
        ? grown * (0.9 + 0.2 * random())
        : Math.min(failed.retryAfter, limits.longestRetryAfter)
    const spent = performance.now() - start
    if (count > Math.min(retries, failed.retries ?? retries) || spent + delay > limits.budget) {
      throw count === 1
        ? failed.error
        : failed.conclude(`${count} attempts in ${(spent / 1000).toFixed(spent < 9950 ? 1 : 0)} s`)
    }
    onRetry(failed, count, Math.round(delay))
    await pause(delay, signal)
  }
}
