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

export interface ChannelOptions<T> {
  /** How much of the capacity a value takes; without it, 1. */
  readonly weigh?: (value: T) => number
  /** Milliseconds that the consumer may go on sleeping when this value comes; without it, none. */
  readonly patience?: (value: T) => number
}

/** A consumer that waits is woken for a value that cannot, or is as heavy as the channel, together with all before it. */
export function createChannel<T>(capacity: number, options: ChannelOptions<T> = {}): Channel<T> {
  const { weigh = () => 1, patience = () => 0 } = options
  const queue: T[] = []
  let weight = 0
  let sleep: NodeJS.Timeout | undefined
  let ending: { readonly error?: unknown } | undefined
  let abandoned = false
  let wakeConsumer: (() => void) | undefined
  let wakeProducers: (() => void)[] = []

  const releaseProducers = (): void => {
    const waiting = wakeProducers
    wakeProducers = []
    for (const wake of waiting) wake()
  }
  const wake = (): void => {
    clearTimeout(sleep)
    sleep = undefined
    wakeConsumer?.()
  }
  const end = (how: { readonly error?: unknown }): void => {
    ending ??= how
    wake()
    releaseProducers()
  }

  async function* consume(): AsyncGenerator<T, void, undefined> {
    try {
      for (;;) {
        const value = queue.shift()
        if (value !== undefined) {
          weight -= weigh(value)
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
      clearTimeout(sleep)
      queue.length = 0
      releaseProducers()
    }
  }

  const iterator = consume()
  return {
    async push(value) {
      while (weight >= capacity && ending === undefined && !abandoned) {
        await new Promise<void>((resolve) => {
          wakeProducers.push(resolve)
        })
      }
      if (ending !== undefined || abandoned) return false
      queue.push(value)
      weight += weigh(value)
      const time = patience(value)
      if (time <= 0 || weight >= capacity) wake()
      else sleep ??= setTimeout(wake, time)
      return true
    },
    close: () => end({}),
    fail: (error) => end({ error }),
    [Symbol.asyncIterator]: () => iterator,
  }
}
