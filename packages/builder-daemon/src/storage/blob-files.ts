import { randomBytes } from 'node:crypto'
import { lstat, mkdir, open, rename, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type Digest, digestHex } from '@isula-build/shared/oci/digest.js'
import type { BlobFiles, HeldBlob } from '../ports/blob-files.js'
import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import { listBlobFiles, type StoredBlobFile } from './blob-file-list.js'
import { attempt, failureCode } from './failure.js'
import type { Layout } from './layout.js'
import type { Trash } from './trash.js'

/** Digest of a file's content, found out away from the main thread. */
export type DigestFile = (path: string, signal: AbortSignal) => Promise<Digest>

export interface BlobFileLimits {
  /** Files that were not used for longer go, milliseconds. */
  readonly ageMs: number
  /** What all files may take together, bytes; who takes least keeps longest. */
  readonly bytes: number
}

export const defaultBlobFileLimits: BlobFileLimits = { ageMs: 86_400_000, bytes: 20 * 1024 ** 3 }

export interface LocalBlobFiles extends BlobFiles {
  /** Removes what the limits allow, with `all` everything that nobody holds; gives the bytes. */
  sweep(all?: boolean): Promise<number>
  /** What `sweep` of everything would remove, bytes. */
  unusedBytes(): Promise<number>
  /** Waits for removals that are under way. */
  idle(): Promise<void>
}

/** Failures that another login may not meet: registries say of what somebody may not see that it is not there. */
const dependsOnLogin: ReadonlySet<string> = new Set(['ISB_REGISTRY_DENIED', 'ISB_IMAGE_NOT_FOUND'])

/** How a `fill` ended, for those who waited for it. */
type Outcome =
  | { readonly kind: 'whole' | 'removed' }
  /** `source` undefined: nobody else's business. */
  | { readonly kind: 'failed'; readonly error: unknown; readonly source: string | undefined }

/** One blob of one user, while somebody is interested. */
interface Entry {
  readonly key: string
  readonly path: string
  holders: number
  /** It goes when the last one leaves. */
  released: boolean
  /** A fill or a removal, of which there is one at a time. */
  running: Promise<Outcome> | undefined
}

export function createBlobFiles(deps: {
  readonly layout: Layout
  readonly trash: Pick<Trash, 'discard'>
  readonly clock: Clock
  readonly log: Logger
  readonly digestFile: DigestFile
  readonly limits: BlobFileLimits
}): LocalBlobFiles {
  const { layout, trash, clock, log, limits } = deps
  const entries = new Map<string, Entry>()
  /** Files whose content this daemon has checked. */
  const whole = new Set<string>()
  const created = new Set<string>()
  const removals = new Set<Promise<unknown>>()

  const partOf = (path: string) => `${path}.part`

  function interest(uid: number, digest: Digest): Entry {
    const key = `${uid}/${digestHex(digest)}`
    const path = join(layout.downloads, key)
    const entry = entries.get(key) ?? { key, path, holders: 0, released: false, running: undefined }
    entries.set(key, entry)
    entry.holders++
    return entry
  }

  function leave(entry: Entry): void {
    entry.holders--
    if (entry.holders === 0 && entry.released && entry.running === undefined) removeLater(entry)
    else forget(entry)
  }

  function forget(entry: Entry): void {
    if (entry.holders === 0 && entry.running === undefined) entries.delete(entry.key)
  }

  /** Whoever wants the blob meanwhile waits for the end. */
  function removeLater(entry: Entry): void {
    const removal = discardBoth(entry).then(
      () => undefined,
      (error) => log.warn('download.not-removed', { path: entry.path, error: String(error) }),
    )
    track(removal)
    entry.running = removal.then(() => {
      entry.running = undefined
      entry.released = false
      forget(entry)
      return { kind: 'removed' }
    })
  }

  function track(removal: Promise<unknown>): void {
    removals.add(removal)
    void removal.finally(() => removals.delete(removal))
  }

  async function discardBoth({ path }: Entry): Promise<void> {
    whole.delete(path)
    await trash.discard(path)
    await trash.discard(partOf(path))
  }

  /** The file, if it is there and what its name says. */
  async function isWhole(path: string, digest: Digest, signal: AbortSignal): Promise<boolean> {
    try {
      await lstat(path)
    } catch (error) {
      if (failureCode(error) !== 'ENOENT') throw error
      whole.delete(path)
      return false
    }
    if (!whole.has(path)) {
      if (!(await isIntact(path, digest, signal))) {
        await trash.discard(path)
        return false
      }
      whole.add(path)
    }
    const now = new Date(clock.now())
    await utimes(path, now, now)
    return true
  }

  async function isIntact(path: string, digest: Digest, signal: AbortSignal): Promise<boolean> {
    try {
      const found = await deps.digestFile(path, signal)
      if (found !== digest) log.warn('download.damaged', { path, digest: found })
      return found === digest
    } catch (error) {
      if (signal.aborted) throw error
      log.warn('download.unreadable', { path, error: String(error) })
      return false
    }
  }

  type Fill = (partial: string, signal: AbortSignal) => Promise<void>

  async function complete(entry: Entry, digest: Digest, fill: Fill, signal: AbortSignal): Promise<void> {
    if (await attempt('reading a download', () => isWhole(entry.path, digest, signal))) return
    const partial = partOf(entry.path)
    await attempt('making a download', () => makeFile(partial, 'a'))
    try {
      await fill(partial, signal)
    } catch (error) {
      // On a full disk it is what is in everybody's way.
      if (isBuilderError(error, 'ISB_NO_SPACE')) await trash.discard(partial)
      throw error
    }
    await attempt('keeping a download', () => rename(partial, entry.path))
    whole.add(entry.path)
  }

  async function makeFile(path: string, flags: 'a' | 'wx'): Promise<void> {
    await mkdir(join(path, '..'), { recursive: true, mode: 0o700 })
    const file = await open(path, flags, 0o600)
    await file.close()
  }

  /** Runs the caller's own fill as the one everybody else waits for. */
  async function lead(
    entry: Entry,
    work: () => Promise<void>,
    { signal, source }: { readonly signal: AbortSignal; readonly source: string | undefined },
  ): Promise<void> {
    let end: (outcome: Outcome) => void = () => undefined
    entry.running = new Promise((resolve) => {
      end = resolve
    })
    let outcome: Outcome = { kind: 'whole' }
    try {
      await work()
    } catch (error) {
      const own = signal.aborted || !isBuilderError(error) || dependsOnLogin.has(error.code)
      outcome = { kind: 'failed', error, source: own ? undefined : source }
      throw signal.aborted ? cancelled() : error
    } finally {
      entry.running = undefined
      end(outcome)
    }
  }

  const obtain: BlobFiles['obtain'] = async (uid, digest, fill, signal, source) => {
    const entry = interest(uid, digest)
    try {
      let isThere = false
      while (!isThere) {
        if (signal.aborted) throw cancelled()
        if (entry.running === undefined) {
          await lead(entry, () => complete(entry, digest, fill, signal), { signal, source })
          isThere = true
        } else {
          const outcome = await unlessAborted(entry.running, signal)
          isThere = outcome.kind === 'whole'
          if (outcome.kind === 'failed' && outcome.source !== undefined && outcome.source === source) {
            throw outcome.error
          }
        }
      }
    } catch (error) {
      leave(entry)
      throw error
    }
    return held(entry.path, () => leave(entry))
  }

  const create: BlobFiles['create'] = async (uid) => {
    const path = join(layout.downloads, String(uid), `${randomBytes(16).toString('hex')}.new`)
    created.add(path)
    try {
      await attempt('making a file for a blob', () => makeFile(path, 'wx'))
    } catch (error) {
      created.delete(path)
      throw error
    }
    return held(path, () => {
      const removal = trash.discard(path).then(
        () => created.delete(path),
        (error) => log.warn('download.not-removed', { path, error: String(error) }),
      )
      track(removal)
    })
  }

  const release: BlobFiles['release'] = async (uid, digests) => {
    for (const digest of digests) {
      const entry = interest(uid, digest)
      entry.released = true
      leave(entry)
      if (entry.holders === 0) await entry.running
    }
  }

  const unusedBytes = async (): Promise<number> =>
    (await listBlobFiles(layout.downloads))
      .filter(({ path, key }) => !created.has(path) && (key === undefined || !entries.has(key)))
      .reduce((sum, { size }) => sum + size, 0)

  const sweep = async (all = false): Promise<number> => {
    const files = (await listBlobFiles(layout.downloads)).filter(({ path }) => !created.has(path))
    let kept = 0
    let removed = 0
    for (const { path, key, size, usedAt } of worthiestFirst(files)) {
      const entry = key === undefined ? undefined : entries.get(key)
      // A clock that was set back must not make anything immortal.
      const isOld = key === undefined || Math.abs(clock.now() - usedAt) > limits.ageMs
      if (entry !== undefined || (!all && !isOld && kept + size <= limits.bytes)) {
        kept += size
        continue
      }
      removed += size
      if (key === undefined) await trash.discard(path)
      else {
        const unused: Entry = {
          ...{ key, path: path.replace(/\.part$/, ''), holders: 0, released: true },
          running: undefined,
        }
        entries.set(key, unused)
        removeLater(unused)
        await unused.running
      }
    }
    if (removed > 0) log.info('downloads.swept', { bytes: removed })
    return removed
  }

  return {
    obtain,
    create,
    release,
    sweep,
    unusedBytes,
    async idle() {
      while (removals.size > 0) await Promise.all(removals)
    },
  }
}

/**
 * The newest first, and of users the one who takes least: whoever takes much room pushes out what is his own before
 * anybody else's.
 */
function worthiestFirst(files: readonly StoredBlobFile[]): readonly StoredBlobFile[] {
  const taken = new Map<string, number>()
  return [...files]
    .sort((one, other) => other.usedAt - one.usedAt)
    .map((file) => {
      const upToHere = (taken.get(file.user) ?? 0) + file.size
      taken.set(file.user, upToHere)
      return { file, upToHere }
    })
    .sort((one, other) => one.upToHere - other.upToHere)
    .map(({ file }) => file)
}

function held(path: string, leave: () => void): HeldBlob {
  let isHeld = true
  return {
    path,
    [Symbol.dispose]() {
      if (isHeld) leave()
      isHeld = false
    },
  }
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort: () => void = () => undefined
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(cancelled())
    signal.addEventListener('abort', onAbort, { once: true })
  })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

function cancelled(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'cancelled')
}
