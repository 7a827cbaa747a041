/**
 * A bounded queue between one producer side and one consumer. `push` resolves when there is room
 * again, so a slow consumer holds its producers back.
 */
export interface Channel<T> extends AsyncIterable<T> {
  /** False, at once, when the channel is closed or its consumer has gone. */
  push(value: T): Promise<boolean>
  /** The consumer gets what is queued, then the end. */
  close(): void
  /** The consumer gets what is queued, then the error. */
  fail(error: unknown): void
}

export function createChannel<T>(capacity: number): Channel<T> {
  const queue: T[] = []
  let ending: { readonly error?: unknown } | undefined
  let abandoned = false
  let wakeConsumer: (() => void) | undefined
  let wakeProducers: (() => void)[] = []

  const releaseProducers = (): void => {
    const waiting = wakeProducers
    wakeProducers = []
    for (const wake of waiting) wake()
  }
  const end = (how: { readonly error?: unknown }): void => {
    ending ??= how
    wakeConsumer?.()
    releaseProducers()
  }

  async function* consume(): AsyncGenerator<T, void, undefined> {
    try {
      for (;;) {
        const value = queue.shift()
        if (value !== undefined) {
          releaseProducers()
          yield value
        } else if (ending !== undefined) {
          if ('error' in ending) throw ending.error
          return
        } else {
          await new Promise<void>((resolve) => {
            wakeConsumer = resolve
          })
        }
      }
    } finally {
      abandoned = true
      queue.length = 0
      releaseProducers()
    }
  }

  const iterator = consume()
  return {
    async push(value) {
      while (queue.length >= capacity && ending === undefined && !abandoned) {
        await new Promise<void>((resolve) => {
          wakeProducers.push(resolve)
        })
      }
      if (ending !== undefined || abandoned) return false
      queue.push(value)
      wakeConsumer?.()
      return true
    },
    close: () => end({}),
    fail: (error) => end({ error }),
    [Symbol.asyncIterator]: () => iterator,
  }
}
