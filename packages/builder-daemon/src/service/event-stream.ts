/** Tells the reader of the stream; resolves when he took it, so a slow reader slows the work. */
export type Emit<T> = (event: T) => Promise<void>

/**
 * Runs `work` while its events are read. The stream ends with the work and fails with its error; a
 * reader who leaves aborts the work and waits for its end.
 */
export async function* eventStream<T>(
  signal: AbortSignal,
  work: (emit: Emit<T>, signal: AbortSignal) => Promise<void>,
): AsyncIterable<T> {
  const left = new AbortController()
  const pending: { readonly event: T; readonly taken: () => void }[] = []
  let wake: () => void = () => undefined
  let ended = false
  const emit: Emit<T> = (event) => {
    if (left.signal.aborted) return Promise.resolve()
    return new Promise<void>((taken) => {
      pending.push({ event, taken })
      wake()
    })
  }
  const done = work(emit, AbortSignal.any([signal, left.signal])).finally(() => {
    ended = true
    wake()
  })
  done.catch(() => undefined)
  try {
    while (!ended || pending.length > 0) {
      const [next] = pending
      if (next !== undefined) {
        yield next.event
        pending.shift()
        next.taken()
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
    await done
  } finally {
    left.abort()
    for (const { taken } of pending) taken()
    await done.catch(() => undefined)
  }
}
