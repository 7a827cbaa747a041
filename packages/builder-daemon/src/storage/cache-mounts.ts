import { createHash, createHmac, randomBytes } from 'node:crypto'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { chmod, chown, mkdir, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { CacheMount, CacheMountRequest, CacheMounts } from '../ports/cache-mounts.js'
import { createFairLocks } from './fair-locks.js'
import type { Trash } from './trash.js'

/** A directory and the ID that a RUN knows it by. */
export interface UsedMount {
  readonly name: string
  readonly id: string
}

export interface LocalCacheMounts extends CacheMounts {
  /** Absolute path; a directory is at `<uid>/<name>` below it. */
  readonly root: string
  /** Those that nobody holds or waits for; `changedAt` of the directory, milliseconds since the epoch. */
  unused(): Promise<readonly { readonly uid: number; readonly name: string; readonly changedAt: number }[]>
  /** Throws `<uid>/<name>` away; false when somebody holds it or waits for it, or it is not there. */
  remove(key: string): Promise<boolean>
}

/** One directory that a RUN wants, perhaps for several of its mounts. */
interface Wanted {
  readonly request: CacheMountRequest
  readonly path: string
  /** Made for this RUN alone. */
  readonly isExtra: boolean
}

const strictness = ['shared', 'private', 'locked'] as const

/**
 * `<dataroot>/cache-mounts/<uid>/<sha256 of the id>/`: the id is hashed, so that no id names a path; a variant is the
 * key of the hash. Beside a
 * directory that was not seeded lies `<name>.unseeded`; it is made anew. `<name>-<random>` are those that RUNs have for
 * themselves. Locks are in memory: they end with the daemon. `used` hears of directories that a RUN gives back.
 */
export async function openCacheMounts(
  dataRoot: string,
  discard: Trash['discard'],
  used: (uid: number, mounts: readonly UsedMount[]) => void = () => undefined,
): Promise<LocalCacheMounts> {
  const root = join(dataRoot, 'cache-mounts')
  const locks = createFairLocks()
  await discardExtras(root, discard)

  function wanted(uid: number, request: CacheMountRequest): Wanted {
    const path = join(root, String(uid), nameOf(request))
    const isExtra = request.sharing === 'private' && !locks.isFree(path)
    return { request, path: isExtra ? `${path}-${randomBytes(8).toString('hex')}` : path, isExtra }
  }

  async function make({ path, request }: Wanted): Promise<void> {
    await mkdir(join(path, '..'), { recursive: true, mode: 0o700 })
    await writeFile(unseeded(path), '', { mode: 0o600 })
    await discard(path)
    await mkdir(path, { mode: 0o700 })
    await chown(path, request.uid, request.gid)
    await chmod(path, request.mode)
  }

  return {
    async acquire(uid, requests, signal) {
      const all = strictest(requests).map((request) => wanted(uid, request))
      const held = await locks.acquire(
        all.map(({ path, request }) => ({
          name: path,
          // Nobody may look into a directory that is still being seeded.
          isExclusive: () => request.sharing !== 'shared' || !isReady(path),
        })),
        signal,
      )
      const release = async (): Promise<void> => {
        try {
          for (const { path } of all.filter(({ isExtra }) => isExtra)) {
            await discard(path)
            await discard(unseeded(path))
          }
        } finally {
          const lasting = all.filter(({ isExtra }) => !isExtra)
          if (lasting.length > 0) used(uid, lasting.map(usedMount))
          held.release()
        }
      }
      try {
        const mounts = new Map<string, CacheMount>()
        for (const entry of all) {
          const { path, request } = entry
          const fresh = !isReady(path)
          if (fresh) await make(entry)
          const seeded = (): void => {
            if (!fresh) return
            rmSync(unseeded(path), { force: true })
            if (request.sharing === 'shared') held.share(path)
          }
          mounts.set(nameOf(request), { path, fresh, seeded })
        }
        return {
          mounts: requests.flatMap((request) => mounts.get(nameOf(request)) ?? []),
          [Symbol.asyncDispose]: release,
        }
      } catch (error) {
        await release()
        throw error
      }
    },

    root,

    async unused() {
      const found: { readonly uid: number; readonly name: string; readonly changedAt: number }[] = []
      for (const user of namesBelow(root).filter((name) => /^\d+$/.test(name))) {
        for (const name of namesBelow(join(root, user)).filter((entry) => directoryName.test(entry))) {
          const path = join(root, user, name)
          if (!locks.isFree(path)) continue
          const { mtimeMs } = await stat(path)
          found.push({ uid: Number(user), name, changedAt: Math.round(mtimeMs) })
        }
      }
      return found
    },

    async remove(key) {
      const path = join(root, key)
      if (!locks.isFree(path) || !existsSync(path)) return false
      // Nobody came in between, so it is had at once.
      const held = await locks.acquire([{ name: path, isExclusive: () => true }], never)
      try {
        await discard(path)
        await discard(unseeded(path))
        return true
      } finally {
        held.release()
      }
    },
  }
}

const never = new AbortController().signal

/** SHA-256 in hex; other entries are not seeded, or made for one RUN. */
const directoryName = /^[0-9a-f]{64}$/

function usedMount({ path, request }: Wanted): UsedMount {
  return { name: basename(path), id: request.id }
}

function namesBelow(directory: string): readonly string[] {
  return existsSync(directory) ? readdirSync(directory) : []
}

function nameOf({ id, variant }: CacheMountRequest): string {
  const hash = variant === '' ? createHash('sha256') : createHmac('sha256', variant)
  return hash.update(id).digest('hex')
}

/** One request for each directory. */
function strictest(requests: readonly CacheMountRequest[]): readonly CacheMountRequest[] {
  const byName = new Map<string, CacheMountRequest>()
  for (const request of requests) {
    const name = nameOf(request)
    const other = byName.get(name)
    if (other === undefined) byName.set(name, request)
    else if (strictness.indexOf(request.sharing) > strictness.indexOf(other.sharing)) {
      byName.set(name, { ...other, sharing: request.sharing })
    }
  }
  return [...byName.values()]
}

const unseeded = (path: string): string => `${path}.unseeded`

function isReady(path: string): boolean {
  return existsSync(path) && !existsSync(unseeded(path))
}

/** What RUNs of an earlier daemon had for themselves. */
async function discardExtras(root: string, discard: Trash['discard']): Promise<void> {
  if (!existsSync(root)) return
  const users = readdirSync(root, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  for (const { name: user } of users) {
    const extras = readdirSync(join(root, user)).filter((name) => name.includes('-'))
    for (const name of extras) await discard(join(root, user, name))
  }
}
