import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Logger } from '../../ports/logger.js'
import { type Deferred, deferred } from '../build/deferred.js'

/** A file that the output of an execution goes to; disposed when the execution and all who wait for it are done. */
export interface OutputFile extends Disposable {
  readonly path: string
}

/** What work may know of its execution. */
export interface Execution {
  /** Aborts when nobody waits for the execution any more, and until `detach` when its leader leaves. */
  readonly signal: AbortSignal
  /**
   * From now on the work needs nothing that its leader's client provides: the leader may leave without ending it,
   * and if it fails it fails all who wait.
   */
  detach(): void
  /** Everybody who waits, now and later, hears of the output. */
  show(output: OutputFile): void
}

/** One build's wish for a result. */
export interface Wish<Result> {
  /** Everything the result depends on, the user included; undefined: to be shared with nobody. */
  readonly key: string | undefined
  readonly signal: AbortSignal
  /** Keeps what the work uses of this build from being removed, also when the build is over before the work. */
  readonly retain: () => () => Promise<void>
  /** Makes the result; called for the leader only. */
  readonly execute: (execution: Execution) => Promise<Result>
  /**
   * Makes another's result this build's own, while that one is still protected; undefined when it cannot be used
   * any more, and then the build wishes again.
   */
  readonly adopt: (result: Result) => Promise<Result | undefined>
  readonly onOutput?: (path: string) => void | Promise<void>
}

/**
 * Executions belong to the daemon, not to a build: what several builds want at once is made once. The first to come
 * leads, the others wait and hold nothing meanwhile. Whoever is cancelled only leaves; the work is aborted when the
 * last has left, who waits for its end, so that nothing of a cancelled build goes on. As long as the work needs its
 * leader's client it ends with the leader, by cancellation or failure, and the next in line makes it anew.
 */
export interface SharedExecutions<Result> {
  /** Rejects with ISB_CANCELLED when the wish's signal aborts, or with what the work failed with. */
  run(wish: Wish<Result>): Promise<Result>
}

type Outcome<Result> =
  | { readonly kind: 'done'; readonly result: Result }
  | { readonly kind: 'failed'; readonly error: unknown }
  /** The leader left or failed with what was his own. */
  | { readonly kind: 'handed-over' }

interface Attempt<Result> {
  readonly key: string | undefined
  readonly abort: AbortController
  readonly outcome: Deferred<Outcome<Result>>
  readonly shown: Deferred<string>
  readonly release: () => Promise<void>
  /** The work has ended. */
  readonly over: Deferred<void>
  /** Nobody is interested any more either, and everything that was held is given back. */
  readonly settled: Deferred<void>
  output: OutputFile | undefined
  isDetached: boolean
  isOver: boolean
  /** Builds that wait for it or are adopting its result, the leader included. */
  present: number
}

export function createSharedExecutions<Result>(log: Logger): SharedExecutions<Result> {
  const current = new Map<string, Attempt<Result>>()

  function close(attempt: Attempt<Result>): void {
    if (attempt.key !== undefined && current.get(attempt.key) === attempt) current.delete(attempt.key)
  }

  async function settle(attempt: Attempt<Result>): Promise<void> {
    if (!attempt.isOver || attempt.present > 0) return
    try {
      attempt.output?.[Symbol.dispose]()
      await attempt.release()
    } catch (error) {
      log.warn('execution.not-released', { error })
    }
    attempt.settled.resolve()
  }

  function begin(wish: Wish<Result>): Attempt<Result> {
    const attempt: Attempt<Result> = {
      ...{ key: wish.key, abort: new AbortController(), release: wish.retain() },
      ...{ outcome: deferred(), shown: deferred(), over: deferred(), settled: deferred() },
      ...{ output: undefined, isDetached: false, isOver: false, present: 0 },
    }
    if (wish.key !== undefined) current.set(wish.key, attempt)
    const execution: Execution = {
      signal: attempt.abort.signal,
      detach() {
        attempt.isDetached = true
      },
      show(output) {
        attempt.output = output
        attempt.shown.resolve(output.path)
      },
    }
    const work = async (): Promise<Outcome<Result>> => {
      try {
        return { kind: 'done', result: await wish.execute(execution) }
      } catch (error) {
        return { kind: 'failed', error }
      }
    }
    void work().then((outcome) => {
      close(attempt)
      attempt.isOver = true
      attempt.over.resolve()
      attempt.outcome.resolve(outcome)
      return settle(attempt)
    })
    return attempt
  }

  /** Nobody joins it any more, and who waits does not wait for its end. */
  function giveUp(attempt: Attempt<Result>): void {
    close(attempt)
    attempt.outcome.resolve({ kind: 'handed-over' })
    attempt.abort.abort()
  }

  async function join(attempt: Attempt<Result>, wish: Wish<Result>): Promise<Outcome<Result>> {
    const { signal } = wish
    if (signal.aborted) throw cancelled()
    const left = deferred<'left'>()
    const onAbort = (): void => left.resolve('left')
    signal.addEventListener('abort', onAbort, { once: true })
    const unwatchable = deferred<never>()
    const watch = async (path: string): Promise<void> => {
      if (!signal.aborted) await wish.onOutput?.(path)
    }
    attempt.shown.promise.then(watch).catch(unwatchable.reject)
    try {
      const end = await Promise.race([attempt.outcome.promise, left.promise, unwatchable.promise])
      if (end === 'left') throw cancelled()
      return end
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  async function leave(attempt: Attempt<Result>, leads: boolean): Promise<void> {
    attempt.present--
    const endsIt = attempt.present === 0 || (leads && !attempt.isDetached)
    if (!attempt.isOver && endsIt) giveUp(attempt)
    void settle(attempt)
    if (attempt.present === 0) await attempt.settled.promise
    // What the work uses of the leader's client must be there until it has ended.
    else if (leads && !attempt.isDetached) await attempt.over.promise
  }

  async function once(wish: Wish<Result>): Promise<{ readonly result: Result } | undefined> {
    const known = wish.key === undefined ? undefined : current.get(wish.key)
    const leads = known === undefined
    const attempt = known ?? begin(wish)
    attempt.present++
    try {
      const outcome = await join(attempt, wish)
      if (outcome.kind === 'handed-over') return undefined
      if (outcome.kind === 'failed') {
        if (leads || attempt.isDetached) throw outcome.error
        return undefined
      }
      if (leads) return outcome
      const result = await wish.adopt(outcome.result)
      return result === undefined ? undefined : { result }
    } finally {
      await leave(attempt, leads)
    }
  }

  return {
    async run(wish) {
      for (;;) {
        if (wish.signal.aborted) throw cancelled()
        const got = await once(wish)
        if (got !== undefined) return got.result
      }
    },
  }
}

function cancelled(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'the build was cancelled')
}
