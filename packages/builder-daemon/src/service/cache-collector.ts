import { type CachePolicy, excessEntries, prunedEntries } from '../core/gc/policy.js'
import type { BuildCache, CacheEntry, Remover } from '../ports/build-cache.js'
import type { Caller } from '../ports/caller.js'
import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import type { PruneEvent, PruneRequest } from '../rpc/cache-requests.js'

/** Milliseconds from the end of a build until its traces are looked at; builds that end meanwhile share that look. */
const restAfterBuild = 30_000
const everyHour = 3_600_000

/** Keeps the build cache within its policy, and smaller where a user wants that. */
export interface CacheCollector extends Disposable {
  /** Something may have been added: looks after the policy before long. */
  soon(): void
  /** Removes now what the policy does not let stay; gives what that was. */
  collect(): Promise<readonly CacheEntry[]>
  prune(request: PruneRequest, caller: Caller, signal: AbortSignal): AsyncIterable<PruneEvent>
}

export interface CollectorDeps {
  readonly cache: BuildCache
  readonly policy: CachePolicy
  readonly clock: Clock
  readonly log: Logger
}

export function createCacheCollector({ cache, policy, clock, log }: CollectorDeps): CacheCollector {
  let running: Promise<unknown> = Promise.resolve()
  let timer: NodeJS.Timeout | undefined
  let isClosed = false

  /** One after the other: each decides on what the last one has left. */
  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = running.then(work)
    running = turn.catch(() => undefined)
    return turn
  }

  async function collectNow(): Promise<readonly CacheEntry[]> {
    const entries = await cache.entries()
    if (entries.length === 0) return []
    if (isClosed) return []
    const excess = excessEntries(entries, policy, await cache.disk(), clock.now())
    const gone = await cache.remove(excess, { kind: 'everybody' })
    if (gone.length > 0) log.info('cache.collected', { entries: gone.length, bytes: sizeOf(gone) })
    return gone
  }

  function collectQuietly(): void {
    timer = undefined
    inTurn(collectNow).catch((error) => {
      if (!isClosed) log.warn('cache.not-collected', { error: String(error) })
    })
  }

  const hourly = setInterval(collectQuietly, everyHour).unref()

  return {
    soon() {
      if (!isClosed) timer ??= setTimeout(collectQuietly, restAfterBuild).unref()
    },

    collect: () => inTurn(collectNow),

    async *prune(request, caller, signal) {
      const { gone, summary } = await inTurn(() => {
        signal.throwIfAborted()
        return pruneNow(cache, request, caller, clock.now())
      })
      if (!request.dryRun) log.info('cache.pruned', { uid: caller.uid, entries: gone.length, ...summary })
      for (const entry of gone) yield { kind: 'removed', entry }
      yield { kind: 'summary', ...summary }
    },

    /** What is under way ends with the store. */
    [Symbol.dispose]() {
      isClosed = true
      clearInterval(hourly)
      clearTimeout(timer)
    },
  }
}

async function pruneNow(cache: BuildCache, request: PruneRequest, caller: Caller, now: number) {
  const { all, keepBytes, unusedFor, dryRun } = request
  const by: Remover = caller.uid === 0 ? { kind: 'everybody' } : { kind: 'user', uid: caller.uid }
  const usedBefore = unusedFor > 0 ? now - unusedFor : Number.MAX_SAFE_INTEGER
  const entries = (await cache.entries()).filter(
    ({ kind, owners }) => (all || kind === 'layer') && isRemovable(owners, by),
  )
  const chosen = prunedEntries(entries, { keepBytes, usedBefore })
  const gone = dryRun ? chosen : await cache.remove(chosen, by)
  // What takes no room is not in the way of a size.
  const records = keepBytes > 0 ? 0 : await cache.forget(by, usedBefore, dryRun)
  const isWhole = all && keepBytes === 0 && unusedFor === 0 && by.kind === 'everybody'
  const downloads = isWhole ? await cache.downloads(dryRun) : 0
  return { gone, summary: { freedBytes: sizeOf(gone) + downloads, records, downloads } }
}

/** A user's own alone; what nobody remembers is root's business. */
function isRemovable(owners: readonly number[], by: Remover): boolean {
  return by.kind === 'everybody' || (owners.length === 1 && owners[0] === by.uid)
}

function sizeOf(entries: readonly CacheEntry[]): number {
  return entries.reduce((sum, { bytes }) => sum + bytes, 0)
}
