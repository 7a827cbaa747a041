import { cancellation } from '../http/cancellation.js'

/** Work that several callers wait for. */
export interface SharedWork<T> {
  /**
   * Joins the work under `key`, or starts it. A caller who leaves does not disturb the others; when all have left, the
   * work is aborted.
   */
  join(key: string, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T>
}

export function createSharedWork<T>(): SharedWork<T> {
  const running = new Map<
    string,
    { readonly result: Promise<T>; readonly stop: AbortController; waiting: number }
  >()
  return {
    join(key, signal, work) {
      if (signal.aborted) return Promise.reject(cancellation(signal))
      let current = running.get(key)
      if (current === undefined) {
        const stop = new AbortController()
        const started = { stop, waiting: 0, result: work(stop.signal) }
        const forget = () => {
          if (running.get(key) === started) running.delete(key)
        }
        started.result.then(forget, forget)
        running.set(key, started)
        current = started
      }
      const joined = current
      joined.waiting++
      return new Promise<T>((resolve, reject) => {
        const leave = () => {
          signal.removeEventListener('abort', cancel)
          joined.waiting--
        }
        const cancel = () => {
          leave()
          if (joined.waiting === 0) {
            running.delete(key)
            joined.stop.abort(cancellation(signal))
          }
          reject(cancellation(signal))
        }
        signal.addEventListener('abort', cancel, { once: true })
        joined.result.then(
          (value) => {
            leave()
            resolve(value)
          },
          (error: unknown) => {
            leave()
            reject(error)
          },
        )
      })
    },
  }
}
