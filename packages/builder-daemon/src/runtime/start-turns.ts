/**
 * Turns at starting containers: a runtime computes for as long as it sets one up, so that many at once only delay the
 * first of them. What runs holds no turn.
 */
export interface StartTurns {
  /** Resolves when it is this one's turn; to be called at its end: the function that it resolves to. */
  take(): Promise<() => void>
}

/**
 * `limit` at once, first come first served. Nobody waits longer than `patience` milliseconds: a start that hangs must
 * not keep others from theirs.
 */
export function createStartTurns(limit: number, patience: number): StartTurns {
  let held = 0
  const waiting = new Set<() => void>()

  const take = (): (() => void) => {
    held += 1
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      held -= 1
      const [next] = waiting
      if (held < limit) next?.()
    }
  }

  return {
    take: async () => {
      if (held < limit) return take()
      return await new Promise((resolve) => {
        const go = (): void => {
          clearTimeout(timer)
          waiting.delete(go)
          resolve(take())
        }
        const timer = setTimeout(go, patience)
        waiting.add(go)
      })
    },
  }
}
