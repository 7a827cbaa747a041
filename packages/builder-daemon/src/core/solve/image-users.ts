import type { LayerWorkers, ResolveUserParams, ResolveUserResult } from '../../ports/layer-worker.js'

/** Who users of images are. What layers say once they say for ever, and many RUNs begin with the same ones. */
export interface ImageUsers {
  /** Fails as the job `resolveUser` does. */
  resolve(params: ResolveUserParams, signal: AbortSignal): Promise<ResolveUserResult>
}

/** Remembers the last `limit` answers. */
export function createImageUsers(workers: LayerWorkers, limit = 64): ImageUsers {
  const known = new Map<string, ResolveUserResult>()
  return {
    async resolve(params, signal) {
      const key = JSON.stringify([params.user, params.lowers])
      const found = known.get(key) ?? (await workers.run('resolveUser', params, signal))
      known.delete(key)
      known.set(key, found)
      const [oldest] = known.keys()
      if (known.size > limit && oldest !== undefined) known.delete(oldest)
      return found
    },
  }
}
