export interface Random {
  /** 0 <= n < below, whole. */
  next(below: number): number
  pick<T>(items: readonly T[]): T
}

/** mulberry32: small, good enough to choose operations, the same everywhere for the same seed. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0
  const next = (below: number): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
  return {
    next,
    pick<T>(items: readonly T[]): T {
      if (items.length === 0) throw new Error('nothing to pick from')
      return items[next(items.length)] as T
    },
  }
}
