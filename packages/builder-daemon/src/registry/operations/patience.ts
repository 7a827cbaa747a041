import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { RegistryCall } from '../../ports/registry.js'
import { pause } from '../http/cancellation.js'
import { defaultLimits } from '../http/limits.js'
import { noticeWait } from '../http/retry.js'

/** How often one transfer that keeps breaking is taken up again. */
export interface Patience {
  /** Says how far the transfer has come; a mebibyte more than ever before (true) makes all attempts available again. */
  reached(bytes: number): boolean
  /** Waits before the next attempt; throws `error` when there is none. `after`: milliseconds the registry asked for. */
  next(error: unknown, after?: number): Promise<void>
}

const worthwhile = 1 << 20
/** However far they come. */
const maxAttempts = 500
const { longestDelay, longestRetryAfter, budget: maxWaiting } = defaultLimits

export function createPatience({ access, signal, onNotice }: RegistryCall, start: number): Patience {
  const budget = access.retries ?? 4
  const first = access.retryDelay ?? 1000
  let best = start
  let failures = 0
  let attempts = 0
  let waited = 0
  return {
    reached(bytes) {
      if (bytes - best < worthwhile) return false
      best = bytes
      failures = 0
      return true
    },
    async next(error, after) {
      const delay = after === undefined ? jittered(first * 2 ** failures) : Math.min(after, longestRetryAfter)
      failures += 1
      attempts += 1
      waited += delay
      if (failures > budget || attempts > maxAttempts || waited > maxWaiting) {
        throw attempts > 1 && error instanceof BuilderError ? counted(error, attempts) : error
      }
      noticeWait(onNotice, error instanceof Error ? error.message : 'the transfer failed', delay)
      await pause(delay, signal)
    },
  }
}

function counted({ code, message, details }: BuilderError, attempts: number): BuilderError {
  return new BuilderError(code, `${message}; ${attempts} attempts`, details)
}

function jittered(delay: number): number {
  return Math.min(delay, longestDelay) * (0.9 + Math.random() * 0.2)
}
