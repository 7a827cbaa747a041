import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

export interface CallLimits {
  /** Calls of one user under way. */
  readonly callsPerUid: number
  /** Of these, calls whose requests are streams: each may hold several megabytes. */
  readonly uploadsPerUid: number
}

/** The place of one call among all. */
export interface Admission {
  readonly signal: AbortSignal
  abort(reason: BuilderError): void
  leave(): void
}

/** Counts the calls under way, per user and in all, and lets them be ended together. */
export interface CallGate {
  /** Fails with ISB_LIMIT_EXCEEDED, or ISB_SHUTTING_DOWN once the gate is closed. */
  enter(uid: number, upload: boolean): Admission
  /** From now on nobody enters. Resolves when everybody has left. */
  close(): Promise<void>
  abortAll(reason: BuilderError): void
}

export function createCallGate(limits: CallLimits): CallGate {
  const calls = new Map<number, number>()
  const uploads = new Map<number, number>()
  const inside = new Set<AbortController>()
  let closed = false
  let emptied: (() => void) | undefined

  return {
    enter(uid, upload) {
      if (closed) throw new BuilderError('ISB_SHUTTING_DOWN', 'the daemon is stopping')
      const tooMany =
        (calls.get(uid) ?? 0) >= limits.callsPerUid ||
        (upload && (uploads.get(uid) ?? 0) >= limits.uploadsPerUid)
      if (tooMany) {
        throw new BuilderError('ISB_LIMIT_EXCEEDED', `user ${uid} has too many calls under way`, {
          hint: 'Wait until one of them has finished.',
        })
      }
      add(calls, uid, 1)
      if (upload) add(uploads, uid, 1)
      const controller = new AbortController()
      inside.add(controller)
      return {
        signal: controller.signal,
        abort: (reason) => controller.abort(reason),
        leave() {
          if (!inside.delete(controller)) return
          add(calls, uid, -1)
          if (upload) add(uploads, uid, -1)
          if (inside.size === 0) emptied?.()
        },
      }
    },
    async close() {
      closed = true
      if (inside.size === 0) return
      await new Promise<void>((resolve) => {
        emptied = resolve
      })
    },
    abortAll(reason) {
      for (const controller of inside) controller.abort(reason)
    },
  }
}

function add(counts: Map<number, number>, uid: number, change: number): void {
  const count = (counts.get(uid) ?? 0) + change
  if (count === 0) counts.delete(uid)
  else counts.set(uid, count)
}
