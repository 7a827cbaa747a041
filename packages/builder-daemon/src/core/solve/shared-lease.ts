import type { Lease } from '../../ports/layer-store.js'

/** A lease that lasts until the last who needs it has given it back. */
export interface SharedLease {
  readonly lease: Lease
  /** Needs the lease until the function it gives is called; that resolves when nothing more is to be done. */
  retain(): () => Promise<void>
}

/** `release` is called once, when everybody who retained the lease has given it back. */
export function createSharedLease(lease: Lease, release: () => Promise<void>): SharedLease {
  let users = 0
  return {
    lease,
    retain() {
      users++
      let isHeld = true
      return async () => {
        if (!isHeld) return
        isHeld = false
        users--
        if (users === 0) await release()
      }
    },
  }
}
