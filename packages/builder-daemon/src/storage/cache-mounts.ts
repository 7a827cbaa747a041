import { createHash, randomBytes } from 'node:crypto'
import { chmodSync, chownSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { CacheMount, CacheMounts } from '../ports/cache-mounts.js'

interface Lock {
  /** Users of the directory now; -1 when one holds it alone. */
  holders: number
  readonly waiting: (() => void)[]
}

interface Held {
  /** From alone to one of many. */
  share(): void
  leave(): void
}

/**
 * `<dataroot>/cache-mounts/<uid>/<sha256 of the id>/`: the id is hashed, so that no id names a path. Beside a
 * directory that was not seeded lies `<name>.unseeded`; it is made anew. Locks are in memory: they end
 * with the daemon.
 */
export function createCacheMounts(dataRoot: string): CacheMounts {
  const locks = new Map<string, Lock>()

  function directory(uid: number, id: string): string {
    return join(dataRoot, 'cache-mounts', String(uid), createHash('sha256').update(id).digest('hex'))
  }

  function lockOf(path: string): Lock {
    const known = locks.get(path)
    if (known !== undefined) return known
    const lock: Lock = { holders: 0, waiting: [] }
    locks.set(path, lock)
    return lock
  }

  async function enter(path: string, wantsAlone: () => boolean, signal: AbortSignal): Promise<Held> {
    let lock = lockOf(path)
    while (wantsAlone() ? lock.holders !== 0 : lock.holders < 0) {
      await wakened(lock, signal)
      lock = lockOf(path)
    }
    lock.holders = wantsAlone() ? -1 : lock.holders + 1
    const held = lock
    const wakeAll = (): void => {
      for (const wake of held.waiting.splice(0)) wake()
    }
    return {
      share() {
        held.holders = 1
        wakeAll()
      },
      leave() {
        held.holders = held.holders < 0 ? 0 : held.holders - 1
        if (held.holders === 0) locks.delete(path)
        wakeAll()
      },
    }
  }

  return {
    async acquire(uid, mount, signal): Promise<CacheMount> {
      const path = directory(uid, mount.id)
      const lock = locks.get(path)
      if (mount.sharing === 'private' && lock !== undefined && lock.holders !== 0) {
        const own = `${path}-${randomBytes(8).toString('hex')}`
        make(own, mount)
        const release = async (): Promise<void> => {
          rmSync(own, { recursive: true, force: true })
          rmSync(unseeded(own), { force: true })
        }
        return { path: own, fresh: true, seeded: () => undefined, release }
      }
      const alone = mount.sharing !== 'shared'
      // Nobody may look into a directory that is still being seeded.
      const held = await enter(path, () => alone || !isReady(path), signal)
      try {
        if (isReady(path))
          return { path, fresh: false, seeded: () => undefined, release: async () => held.leave() }
        make(path, mount)
      } catch (error) {
        held.leave()
        throw error
      }
      return {
        ...{ path, fresh: true },
        seeded() {
          rmSync(unseeded(path), { force: true })
          if (!alone) held.share()
        },
        release: async () => held.leave(),
      }
    },
  }
}

const unseeded = (path: string): string => `${path}.unseeded`

function isReady(path: string): boolean {
  return existsSync(path) && !existsSync(unseeded(path))
}

/** Empty, marked as not seeded; what an earlier attempt left is thrown away. */
function make(path: string, mount: { mode: number; uid: number; gid: number }): void {
  mkdirSync(join(path, '..'), { recursive: true, mode: 0o700 })
  writeFileSync(unseeded(path), '', { mode: 0o600 })
  rmSync(path, { recursive: true, force: true })
  mkdirSync(path, { mode: 0o700 })
  chownSync(path, mount.uid, mount.gid)
  chmodSync(path, mount.mode)
}

function wakened(lock: Lock, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  return new Promise<void>((resolve, reject) => {
    const onAbort = (): void => {
      lock.waiting.splice(lock.waiting.indexOf(wake), 1)
      reject(new BuilderError('ISB_CANCELLED', 'the build was cancelled while it waited for a cache mount'))
    }
    const wake = (): void => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }
    signal.addEventListener('abort', onAbort, { once: true })
    lock.waiting.push(wake)
  })
}
