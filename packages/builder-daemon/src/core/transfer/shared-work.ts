/**
 * Work that several may want at once and only one has to do. Nothing is handed over: whoever waited looks again, and
 * does it himself when it is still to be done, so a failure or an abort of one is never another's.
 */
export interface SharedWork {
  /** Runs `work` unless somebody else's of this key is under way: then waits for its end and resolves to undefined. */
  run<T>(key: string, work: () => Promise<T>, signal: AbortSignal): Promise<T | undefined>
}

export function createSharedWork(): SharedWork {
  const running = new Map<string, Promise<void>>()
  return {
    async run(key, work, signal) {
      const other = running.get(key)
      if (other !== undefined) {
        await untilAborted(other, signal)
        return undefined
      }
      let end: () => void = () => undefined
      running.set(key, new Promise((resolve) => (end = resolve)))
      try {
        return await work()
      } finally {
        running.delete(key)
        end()
      }
    },
  }
}

/** Resolves with `promise` or when the signal aborts, whichever is first. */
export async function untilAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  let onAbort: () => void = () => undefined
  const aborted = new Promise<void>((resolve) => {
    onAbort = resolve
    signal.addEventListener('abort', onAbort, { once: true })
  })
  try {
    await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
