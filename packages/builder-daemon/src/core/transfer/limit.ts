/** Runs work at most so many at once, in the order it was asked for. */
export type Limit = <T>(work: () => Promise<T>) => Promise<T>

export function createLimit(size: number): Limit {
  const waiting: (() => void)[] = []
  let free = size
  return async (work) => {
    if (free > 0) free -= 1
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next === undefined) free += 1
      else next()
    }
  }
}
