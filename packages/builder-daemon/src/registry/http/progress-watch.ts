import type { HttpLimits } from './limits.js'
import type { Slot } from './slots.js'

/** Sees to it that the other side brings or takes bytes while we wait for it. */
export interface ProgressWatch {
  /** We wait for the other side from now on. */
  waiting(): void
  /** It moved: `bytes` came or went. */
  moved(bytes: number): void
  end(): void
}

/** Less than this in the idle time is as good as nothing. */
const leastBytes = 1024

/**
 * Calls `onIdle` once when less than a KiB moved in `idle` milliseconds of waiting, and lends the slot after `stalled`
 * of them until bytes flow again. Time in which nobody waits does not count.
 */
export function watchProgress(
  { idle, stalled }: HttpLimits,
  slot: Slot | undefined,
  onIdle: (bytes: number) => void,
): ProgressWatch {
  const lendAfter = Math.min(stalled, idle / 2)
  let waited = 0
  let bytes = 0
  let since: number | undefined
  const timer = setInterval(
    () => {
      const total = since === undefined ? waited : waited + performance.now() - since
      if (total >= lendAfter) slot?.lend()
      if (total < idle || since === undefined) return
      clearInterval(timer)
      onIdle(bytes)
    },
    Math.max(5, lendAfter / 4),
  )
  return {
    waiting() {
      since ??= performance.now()
    },
    moved(count) {
      if (since !== undefined) waited += performance.now() - since
      since = undefined
      bytes += count
      if (bytes < leastBytes) return
      waited = 0
      bytes = 0
      slot?.resume()
    },
    end: () => clearInterval(timer),
  }
}
