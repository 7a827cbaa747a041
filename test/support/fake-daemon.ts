import { expect } from 'vitest'
import { runBuild } from '../../packages/builder-daemon/src/core/build/build.js'
import type { SessionEnvironment } from '../../packages/builder-daemon/src/core/build/plan-environment.js'
import { BuildProgress } from '../../packages/builder-daemon/src/core/build/progress.js'
import { createStepSlots } from '../../packages/builder-daemon/src/core/queue/step-slots.js'
import type { Executions } from '../../packages/builder-daemon/src/core/solve/environment.js'
import { createSharedExecutions } from '../../packages/builder-daemon/src/core/solve/shared-executions.js'
import { createSharedLease } from '../../packages/builder-daemon/src/core/solve/shared-lease.js'
import type { CacheMounts } from '../../packages/builder-daemon/src/ports/cache-mounts.js'
import type { LayerWorkers } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import type { RunSpec, Runtime } from '../../packages/builder-daemon/src/ports/runtime.js'
import { createFairLocks } from '../../packages/builder-daemon/src/storage/fair-locks.js'
import { createMemoryLayers, type MemoryLayers } from './memory-layers.js'
import type { Random } from './random-choices.js'
import { silentLogger } from './silent-logger.js'
import type { VirtualTime } from './virtual-time.js'

export interface FakeBuild {
  readonly name: string
  readonly uid: number
  readonly dockerfile: string
  /** What lies in its context; builds with the same text read the same directory. */
  readonly context: string
  readonly noCache: boolean
  /** Default: one. */
  readonly architectures?: readonly string[]
}

/** The solver of a daemon over layers, threads and containers that only take time. */
export interface FakeDaemon {
  readonly layers: MemoryLayers
  /** Commands that ran, in the order of their start. */
  readonly commands: readonly string[]
  /** Resolves with the number of layers of all its images. */
  build(build: FakeBuild, signal: AbortSignal): Promise<number>
  /** Nothing ever went wrong, and containers, jobs, locks, slots, output files and leases are gone. */
  expectIdle(): Promise<void>
}

export interface FakeDaemonOptions {
  readonly time: VirtualTime
  readonly random: Random
  readonly slots: number
}

const platform = { os: 'linux', architecture: 'amd64' }

/** RUN commands that begin with `fail` exit with 1. */
export function createFakeDaemon({ time, random, slots: limit }: FakeDaemonOptions): FakeDaemon {
  const layers = createMemoryLayers()
  const commands: string[] = []
  let [jobs, containers, order, outputs] = [0, 0, 0, 0]
  const running = new Set<string>()
  /** Contexts that may be read: those of builds that are not over. */
  const open = new Map<number, string>()
  /** Who is in a cache directory now, by its id. */
  const inside = new Map<string, { shared: number; locked: number }>()
  /** What must never happen, whatever became of it. */
  const violations: string[] = []
  const locks = createFairLocks()
  const slots = createStepSlots(limit)
  const executions: Executions = {
    steps: createSharedExecutions(silentLogger),
    contextLayers: createSharedExecutions(silentLogger),
    seals: createSharedExecutions(silentLogger),
    slots,
    users: { resolve: async (params, signal) => await workers.run('resolveUser', params, signal) },
  }

  function guarded<T>(check: () => T): T | undefined {
    try {
      return check()
    } catch (error) {
      violations.push(String(error))
      return undefined
    }
  }

  /** What a job reads. */
  function contentOf(params: unknown): string {
    const {
      inputs = [],
      lowers = [],
      upper,
    } = params as {
      inputs?: readonly { kind: string; root?: { access: string; fd?: number; lowers?: readonly string[] } }[]
      lowers?: readonly string[]
      upper?: string
    }
    const read: string[] = []
    for (const { root } of inputs) {
      if (root?.access === 'direct') {
        const content = open.get(root.fd ?? -1)
        if (content === undefined) throw new Error('the context of a build that is over is read')
        read.push(content)
      } else for (const lower of root?.lowers ?? []) read.push(lower)
      layers.requireHeld(root?.lowers ?? [])
    }
    layers.requireHeld(lowers)
    if (upper?.endsWith('/diff') === true) layers.requireHeld([upper])
    return read.join()
  }

  const workers = {
    async run(job: string, params: unknown, signal?: AbortSignal) {
      jobs++
      const contentKey = guarded(() => contentOf(params))
      const { identify, upper } = params as { identify?: boolean; upper?: string }
      const contentId = identify === true ? `content of ${upper}` : null
      try {
        await time.sleep(1 + random.next(5), signal, random.next(3))
        return {
          ...{ diffId: `sha256:${'0'.repeat(64)}`, tarSize: 1, entries: 1, contentKey, contentId },
          ...{ created: job === 'makeDirectory', uid: 0, gid: 0, additionalGids: [], home: '/root' },
        }
      } finally {
        // To its end, also when it was cancelled.
        guarded(() => contentOf(params))
        jobs--
      }
    },
  } as unknown as LayerWorkers

  function enter(path: string): () => void {
    const [sharing = '', id = ''] = path.split(' ')
    const users = inside.get(id) ?? { shared: 0, locked: 0 }
    inside.set(id, users)
    const kind = sharing === 'shared' ? 'shared' : 'locked'
    if (users.locked > 0 || (kind === 'locked' && users.shared > 0)) violations.push(`${path} is not alone`)
    users[kind]++
    return () => users[kind]--
  }

  const runtime: Runtime = {
    async run(spec: RunSpec, signal: AbortSignal) {
      const command = spec.args.at(-1) ?? ''
      containers++
      commands.push(command)
      if (running.has(spec.id)) violations.push(`${spec.id} runs twice`)
      if (running.size > limit) violations.push(`${running.size} containers run at once`)
      running.add(spec.id)
      const leave = spec.mounts.flatMap((mount) => (mount.type === 'bind' ? [enter(mount.source)] : []))
      guarded(() => layers.requireLinks(spec.lowers))
      try {
        await time.sleep(5 + random.next(40), signal, random.next(10))
        return { kind: 'exited', code: command.startsWith('fail') ? 1 : 0 }
      } finally {
        guarded(() => layers.requireLinks(spec.lowers))
        for (const each of leave) each()
        running.delete(spec.id)
        containers--
      }
    },
  }

  const cacheMounts: CacheMounts = {
    async acquire(_, requests, signal) {
      const held = await locks.acquire(
        requests.map(({ id, sharing }) => ({ name: id, isExclusive: () => sharing !== 'shared' })),
        signal,
      )
      return {
        mounts: requests.map(({ id, sharing }) => ({
          ...{ path: `${sharing} ${id}`, fresh: false, seeded: () => undefined },
        })),
        [Symbol.asyncDispose]: async () => held.release(),
      }
    },
  }

  async function build(wanted: FakeBuild, signal: AbortSignal): Promise<number> {
    const { name, uid, context } = wanted
    const lease = await layers.acquireLease({ uid, purpose: name })
    const shared = createSharedLease(lease, () => layers.releaseLease(lease))
    const release = shared.retain()
    const over = new AbortController()
    const mine = order++
    open.set(mine, context)
    const clock = { now: time.now }
    const progress = new BuildProgress(name, clock, async function* () {})
    try {
      const environment: Omit<SessionEnvironment, 'sealed'> = {
        ports: {
          ...{ layers, workers, runtime, cacheMounts, cache: layers.cache, log: silentLogger },
          downloads: { fetch: () => Promise.reject(new Error('no downloads')) },
        },
        ...{ executions, buildId: name, uid, order: mine, lease, retainLease: shared.retain, progress },
        ...{ signal: AbortSignal.any([signal, over.signal]), imports: undefined },
        contexts: {
          get: async () => ({
            ...{ root: { access: 'direct', fd: mine }, ignore: [], ignoreFile: undefined },
            identity: context,
          }),
          [Symbol.asyncDispose]: async () => undefined,
        },
        ...{ noCache: wanted.noCache, fixedTime: undefined, addCapabilities: [], isolation: 'oci' },
        ...{ network: 'host', proxyEnv: [], secrets: new Map(), secretDigest: () => '' },
        ssh: { open: async () => undefined },
        insecureAllowed: false,
        output: {
          open() {
            outputs++
            return { path: `output ${commands.length}`, [Symbol.dispose]: () => void outputs-- }
          },
          adopt: (path) => path,
        },
        outputTail: async () => [],
      }
      const images = await runBuild(
        {
          dockerfile: { content: Buffer.from(wanted.dockerfile), name: 'Dockerfile' },
          plans: (wanted.architectures ?? ['amd64']).map((architecture) => ({
            ...{ buildArgs: {}, platform: { os: 'linux', architecture }, buildPlatform: platform },
          })),
          ...{ names: [], layers: 'instruction', noCacheFilter: [], project: name },
        },
        {
          ...{ images: layers.images, clock, progress, requireRunnable: async () => undefined },
          resolver: { resolve: () => Promise.reject(new Error('no images')) },
          environment: (sealed) => ({ ...environment, sealed }),
        },
        signal,
      )
      return images.reduce((sum, image) => sum + image.layers.length, 0)
    } finally {
      over.abort()
      open.delete(mine)
      await progress.end()
      await release()
    }
  }

  return {
    layers,
    commands,
    build,
    async expectIdle() {
      expect({ jobs, containers, outputs, violations, ...layers.left() }).toEqual({
        ...{ jobs: 0, containers: 0, outputs: 0, violations: [], leases: [], staging: [] },
      })
      expect(['a', 'b', 'c'].every(locks.isFree)).toBe(true)
      const free = Array.from({ length: limit }, () => slots.acquire({ uid: 0, order: 0 }, never))
      const all = Promise.all(free).then((held) => {
        for (const slot of held) slot.release()
        return 'free'
      })
      const soon = new Promise((resolve) => setImmediate(resolve, 'slots are lost'))
      expect(await Promise.race([all, soon])).toBe('free')
    },
  }
}

const never = new AbortController().signal
