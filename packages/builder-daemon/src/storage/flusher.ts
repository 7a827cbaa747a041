import type { StoreThread } from './thread.js'

/** Flushes of the data root's file system, shared by all who wait at the same time. */
export interface Flusher {
  /** Everything written before the call is on the disk afterwards; rejects when some of it was lost. */
  flush(): Promise<void>
  /** Remembers a layer whose files may be in memory only; it is flushed in the background soon. */
  later(layerId: string): void
  /**
   * Failed flushes so far. The kernel tells of a lost write once, so whoever wrote across a failure
   * cannot know whether it was his.
   */
  losses(): number
  /** Waits until nothing is left to flush. */
  idle(): Promise<void>
}

export interface FlusherOptions {
  readonly thread: StoreThread
  /** How long a published layer waits for company, ms. */
  readonly delayMs: number
  /** Neither may reject. */
  onFlushed(layerIds: readonly string[]): Promise<void>
  onLost(layerIds: readonly string[], error: unknown): Promise<void>
}

export function createFlusher(options: FlusherOptions): Flusher {
  const pending: string[] = []
  let losses = 0
  let timer: ReturnType<typeof setTimeout> | undefined
  let told: Promise<void> = Promise.resolve()
  let running: Promise<void> | undefined
  let next: Promise<void> | undefined

  const takePending = (): string[] => {
    if (timer !== undefined) clearTimeout(timer)
    timer = undefined
    return pending.splice(0)
  }

  const runOnce = async (): Promise<void> => {
    const layers = takePending()
    try {
      await options.thread.call('flush', undefined)
    } catch (error) {
      losses++
      const lost = [...layers, ...takePending()]
      told = told.then(() => options.onLost(lost, error))
      throw error
    }
    if (layers.length > 0) told = told.then(() => options.onFlushed(layers))
  }

  const run = (): Promise<void> => {
    const current = runOnce().finally(() => {
      if (running === current) running = undefined
    })
    running = current
    return current
  }

  const runNext = (): Promise<void> => {
    next = undefined
    return run()
  }

  // A flush under way may have passed by what was written since, so a caller joins the next one.
  const flush = (): Promise<void> => {
    if (running === undefined) return run()
    next ??= running.then(runNext, runNext)
    return next
  }

  // Whoever's layers a failure touches hears of it through onLost.
  const flushQuietly = (): Promise<void> => flush().catch(() => undefined)

  return {
    flush,
    losses: () => losses,
    later(layerId) {
      pending.push(layerId)
      timer ??= setTimeout(flushQuietly, options.delayMs).unref()
    },
    async idle() {
      while (pending.length > 0) await flushQuietly()
      await (next ?? running)?.catch(() => undefined)
      await told
    },
  }
}
