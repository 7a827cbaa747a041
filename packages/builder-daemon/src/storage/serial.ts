/** Runs work of the same key one after the other, in the order it was asked for. */
export interface Serial {
  run<T>(key: string, work: () => Promise<T>): Promise<T>
  /** Whether work of this key is under way or waiting. */
  has(key: string): boolean
}

export function createSerial(): Serial {
  const tails = new Map<string, Promise<unknown>>()
  return {
    has: (key) => tails.has(key),
    run<T>(key: string, work: () => Promise<T>): Promise<T> {
      const before = tails.get(key) ?? Promise.resolve()
      const current = before.then(work, work)
      tails.set(key, current)
      const forget = () => {
        if (tails.get(key) === current) tails.delete(key)
      }
      current.then(forget, forget)
      return current
    },
  }
}
