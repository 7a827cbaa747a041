import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LayerRecord, Lease, SealedLayer } from '../../packages/builder-daemon/src/ports/layer-store.js'
import type { Logger } from '../../packages/builder-daemon/src/ports/logger.js'
import { lockStore } from '../../packages/builder-daemon/src/storage/lock.js'
import { openStore, type Store, type StoreOptions } from '../../packages/builder-daemon/src/storage/store.js'
import { type DiffId, digestOf } from '../../packages/shared/src/oci/digest.js'

/** Collects what is logged as warning or error, so that a test can look at it. */
export function collectingLogger(): Logger & {
  readonly events: { level: string; event: string; fields: Record<string, unknown> }[]
} {
  const events: { level: string; event: string; fields: Record<string, unknown> }[] = []
  const at =
    (level: string) =>
    (event: string, fields: Record<string, unknown> = {}) => {
      events.push({ level, event, fields })
    }
  return { events, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}

/**
 * In tests the tar of a layer is the one file in it, so a diff ID is the digest of `diff/content`.
 */
export async function verifyContent(
  directory: string,
  _headers: boolean,
  expected: DiffId,
): Promise<boolean> {
  return digestOf(await readFile(join(directory, 'diff', 'content'))) === expected
}

export function diffIdOf(content: string): DiffId {
  return digestOf(content) as DiffId
}

export interface Roots {
  readonly dataRoot: string
  readonly runRoot: string
  remove(): Promise<void>
}

export async function makeRoots(): Promise<Roots> {
  const base = await mkdtemp(join(tmpdir(), 'isula-store-'))
  return {
    dataRoot: join(base, 'data'),
    runRoot: join(base, 'run'),
    remove: () => rm(base, { recursive: true, force: true }),
  }
}

/** `pid`: who seems to hold the locks. */
export type OpenOptions = Partial<StoreOptions> & { readonly pid?: number }

/** Locks and opens a store as a daemon would; closing it gives up the locks. */
export async function openAt(
  roots: Roots,
  databaseWorker: URL,
  { pid = process.pid, ...options }: OpenOptions = {},
): Promise<Store> {
  const lock = lockStore({ ...roots, ...options }, pid)
  try {
    const store = await openUnlocked(roots, databaseWorker, options)
    let closed: Promise<void> | undefined
    const close = (): Promise<void> => {
      closed ??= store.close().finally(lock.release)
      return closed
    }
    return { ...store, close, [Symbol.asyncDispose]: close }
  } catch (error) {
    lock.release()
    throw error
  }
}

function openUnlocked(roots: Roots, databaseWorker: URL, options: Partial<StoreOptions>): Promise<Store> {
  return openStore({
    dataRoot: roots.dataRoot,
    durability: 'verified',
    verify: verifyContent,
    digestFile: async (path) => digestOf(await readFile(path)),
    log: collectingLogger(),
    clock: { now: () => Date.now() },
    databaseWorker,
    flushDelayMs: 20,
    upkeepAfterMs: 20,
    collectEveryMs: 0,
    ...options,
  })
}

/** Publishes a layer with one file, as a step would. */
export async function publishContent(
  store: Pick<Store, 'layers'>,
  lease: Lease,
  content: string,
  sealed: Partial<SealedLayer> = {},
): Promise<LayerRecord> {
  const staging = await store.layers.stage(lease)
  await writeFile(join(staging.upper, 'content'), content)
  await mkdir(join(staging.work, 'work'), { recursive: true })
  if (sealed.keepsHeaders === true) await writeFile(join(staging.root, 'headers.gz'), 'headers')
  return store.layers.publish(
    staging,
    {
      diffId: diffIdOf(content),
      tarSize: content.length,
      keepsHeaders: false,
      parentKey: null,
      ...sealed,
    },
    lease,
  )
}

/** A config over these layers; `label` makes it differ from others. */
export function configBytes(layers: readonly LayerRecord[], label = '', created?: string): Uint8Array {
  return Buffer.from(
    JSON.stringify({
      ...(created === undefined ? {} : { created }),
      architecture: 'amd64',
      os: 'linux',
      config: { Labels: { label } },
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.diffId) },
    }),
  )
}

/** Removes everything that neither an image uses nor a lease holds. */
export async function pruneStore(
  store: Pick<Store, 'buildCache'>,
): Promise<{ readonly layers: number; readonly bytes: number }> {
  const everybody = { kind: 'everybody' } as const
  const gone = await store.buildCache.remove(await store.buildCache.entries(), everybody)
  await store.buildCache.forget(everybody, Number.MAX_SAFE_INTEGER, false)
  return {
    layers: gone.filter(({ kind }) => kind === 'layer').length,
    bytes: gone.reduce((sum, { bytes }) => sum + bytes, 0),
  }
}
