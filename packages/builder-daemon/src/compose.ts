import { randomBytes } from 'node:crypto'
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildInfo } from '@isula-build/shared/build-info.js'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Entrance } from './compose/entrance.js'
import { createTransfers } from './compose/transfers.js'
import type { DaemonConfig } from './config/daemon-config.js'
import { loadTransportKey } from './config/transport-key.js'
import { abortable, deferred } from './core/build/deferred.js'
import type { FollowSpool } from './core/build/progress.js'
import { longestStay } from './core/gc/policy.js'
import { BuildQueue } from './core/queue/build-queue.js'
import { createStepSlots } from './core/queue/step-slots.js'
import { createImageUsers } from './core/solve/image-users.js'
import { createSharedExecutions } from './core/solve/shared-executions.js'
import { defaultLimits } from './export/archive-limits.js'
import { createCallerFiles } from './identity/caller-files.js'
import { createMembership } from './identity/membership.js'
import { createLifecycle } from './lifecycle.js'
import { openAuditLog } from './observe/audit.js'
import type { LayerWorkers } from './ports/layer-worker.js'
import type { Logger } from './ports/logger.js'
import type { Runtime } from './ports/runtime.js'
import { createDownloader } from './remote/download.js'
import { createBuilderService } from './rpc/builder-service.js'
import { createControlService } from './rpc/control-service.js'
import { type RpcServer, serveRpc, turnAway } from './rpc/server.js'
import { createRuntime } from './runtime/launcher-client.js'
import { spawnLauncher } from './runtime/launcher-process.js'
import { followSpool } from './runtime/spool.js'
import { type BuildOperations, createBuildOperations } from './service/build-operations.js'
import { createResolverOpener } from './service/build-resolver.js'
import { createRunSession } from './service/build-session.js'
import { createBuilderCore } from './service/builder-core.js'
import { createCacheCollector } from './service/cache-collector.js'
import { createCacheExchange } from './service/cache-exchange.js'
import { createListWriter } from './service/list-outputs.js'
import { createContextOpener } from './service/open-contexts.js'
import { createOutputWriter, type Engines } from './service/outputs.js'
import type { DigestFile } from './storage/blob-files.js'
import { defaultLimits as collectLimits } from './storage/gc.js'
import { openStore } from './storage/store.js'
import type { VerifyLayer } from './storage/suspects.js'
import { requireRunnable } from './system/emulation.js'
import { hostArchitecture } from './system/host-info.js'
import { notifyManager } from './system/notify.js'
import { raiseThreads, shortWork } from './system/priority.js'
import { createLayerPool } from './workers/layer-pool.js'

export interface Daemon {
  /** Takes no new calls, lets running builds finish for a while, then undoes the start. */
  stop(): Promise<void>
  /** Stops waiting for running builds. */
  hurry(): void
  /** Reads registries.toml, policy.json and registries.d again. */
  reload(): Promise<void>
}

/** What a start brings along. */
export interface DaemonStart {
  readonly log: Logger
  /** Given up when the daemon cannot start. */
  readonly entrance: Entrance
  /** Gives the start up; its reason is what the start fails with. */
  readonly signal: AbortSignal
  readonly environment: Readonly<Record<string, string | undefined>>
}

/** Milliseconds that running builds get when the daemon is told to stop. */
const drainTime = 30_000
/** Milliseconds that calls which waited for the start are ahead of what only builds need. */
const launcherDelay = 25
/** Milliseconds after which the key for encrypted fields is replaced. */
const keyLifetime = 30 * 86_400_000
/** Milliseconds that iSulad gets to load an image. */
const isuladTime = 30 * 60_000
const systemDirectories = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'.split(':')
/** One remote ADD. */
const downloadLimits = { size: 50 * 1024 ** 3, idle: 60_000 }

/**
 * Everything that exists, in the order in which it starts. The locks are held and the socket is there already, so a
 * client may connect while all of this happens; it is let in when every call can be answered, over a store that is
 * sound. Containers need one process more, which starts last and not in the way of those who wait: builds begin, and
 * the daemon says that it is ready, when it is there. Whoever waited for a start that fails is told why.
 */
export async function composeDaemon(
  config: DaemonConfig,
  { log, entrance, signal, environment }: DaemonStart,
): Promise<Daemon> {
  const lifecycle = createLifecycle(log, signal)
  const clock = { now: () => Date.now() }
  const entry = (name: string): URL => new URL(`./${name}.cjs`, import.meta.url)
  const { door } = entrance
  const runtime = deferred<Runtime>()
  let active: BuildOperations['active'] | undefined
  let server: RpcServer | undefined
  try {
    await lifecycle.step(
      'entrance',
      () => entrance,
      ({ close }) => close(),
    )
    raiseThreads(shortWork)
    const platform = { os: 'linux', architecture: hostArchitecture() }
    const temporary = join(config.runRoot, 'tmp')
    const workers = await lifecycle.step(
      'layer workers',
      () => createLayerPool({ entry: entry('layer-worker'), size: poolSize(), log, temporary }),
      (pool) => pool[Symbol.asyncDispose](),
    )
    const store = await lifecycle.step(
      'store',
      () =>
        openStore({
          ...{ dataRoot: config.dataRoot, durability: config.durability },
          ...{ log, clock, databaseWorker: entry('database-worker') },
          sharedCache: config.sharedCache,
          verify: verifier(workers),
          digestFile: fileDigester(workers),
          limits: { ...collectLimits, cacheMs: longestStay(config.gc) },
        }),
      (opened) => opened.close(),
    )
    const spoolRoot = join(config.runRoot, 'output')
    const agentRoot = join(config.runRoot, 'agents')
    for (const left of [spoolRoot, agentRoot, temporary]) rmSync(left, { recursive: true, force: true })
    mkdirSync(temporary, { mode: 0o700 })
    const audit = await lifecycle.step(
      'audit log',
      () => openAuditLog({ path: config.auditLog, clock, log }),
      (opened) => opened[Symbol.asyncDispose](),
    )
    const membership = await lifecycle.step(
      'group membership',
      () => createMembership({ passwd: '/etc/passwd', group: '/etc/group', log }),
      (watched) => watched[Symbol.dispose](),
    )
    const files = await lifecycle.step(
      'identity helpers',
      () =>
        createCallerFiles({
          ...{ helperEntry: fileURLToPath(entry('identity-helper')), log, idleMs: 60_000 },
          current: membership.current,
        }),
      (helpers) => helpers[Symbol.asyncDispose](),
    )
    membership.onLoss(files.retire)
    const key = await lifecycle.step('transport key', () =>
      loadTransportKey(join(config.dataRoot, 'transport-key.pem'), join(config.configDir, 'isula-build.pub')),
    )
    const { layers, images, lists } = store
    const transfers = await lifecycle.step(
      'registries',
      () =>
        createTransfers({
          ...{ config, log, environment, entry: entry('transfer-worker') },
          services: {
            ...{ layers, images, lists, workers, clock, platform },
            memory: store.memory,
            files: store.blobFiles,
          },
        }),
      (started) => started[Symbol.asyncDispose](),
    )
    const archives = {
      services: {
        ...{ layers, images, lists, workers, clock, platform, limits: defaultLimits },
        admit: transfers.admitArchive,
      },
      files,
    }
    const collector = await lifecycle.step(
      'cache collector',
      () => createCacheCollector({ cache: store.buildCache, policy: config.gc, clock, log }),
      (started) => started[Symbol.dispose](),
    )
    const engines = enginesOf(config)
    const privileges = { uids: config.privilegedUids, gids: config.privilegedGids }
    const runSession = createRunSession({
      ...{ images, clock, platform, privileges, agentRoot },
      ports: {
        ...{ layers, workers, log, cache: store.cache },
        runtime: { run: async (spec, signal) => await (await runtime.promise).run(spec, signal) },
        cacheMounts: store.cacheMounts,
        downloads: createDownloader(downloadLimits),
      },
      executions: {
        steps: createSharedExecutions(log),
        contextLayers: createSharedExecutions(log),
        seals: createSharedExecutions(log),
        users: createImageUsers(workers),
        slots: createStepSlots(config.maxParallelSteps ?? Math.max(16, 4 * availableParallelism())),
      },
      proxyEnv: proxyVariables(environment),
      secretKey: secretKey(join(config.dataRoot, 'secret-digest.key')),
      openContexts: createContextOpener({
        files,
        layers,
        workers,
        statTables: join(config.dataRoot, 'stat'),
      }),
      openResolver: createResolverOpener(transfers),
      caches: createCacheExchange({ pushes: transfers, files, clock }),
      writeOutputs: createOutputWriter({ archives, pushes: transfers, engines, clock }),
      writeList: createListWriter({ archives, pushes: { ...transfers, lists } }),
      requireRunnable: async (wanted) => requireRunnable(wanted, platform),
    })
    const builds = createBuildOperations({
      ...{ clock, log, privileges, spoolRoot, follow },
      onEnd: collector.soon,
      queue: new BuildQueue({ running: config.maxBuilds, waiting: config.maxWaitingBuilds }),
      // What an earlier daemon left running is ended before anything is built.
      run: async (session) => {
        await abortable(runtime.promise, session.signal)
        return await runSession(session)
      },
    })
    const core = createBuilderCore({
      ...{ config, buildInfo, images, lists, archives, builds, key, transfers },
      collector,
    })
    active = builds.active
    // Its group is the one that may read it; whoever is served has it.
    await lifecycle.step(
      'public key',
      () => key.publish(door.gid),
      () => key.withdraw(),
    )
    const isAwaited = door.isWaitedAt()
    const serving = await lifecycle.step(
      'service',
      () =>
        serveRpc(door, {
          services: [createControlService(core), createBuilderService(core)],
          ...{ log, audit, membership },
        }),
      (listening) => listening.close(0),
    )
    server = serving
    // A process that starts takes a processor for a while, and whoever waited is about to ask.
    if (isAwaited) await new Promise((resolve) => setTimeout(resolve, launcherDelay))
    const launcher = await lifecycle.step(
      'launcher process',
      () => spawnLauncher(fileURLToPath(entry('launcher'))),
      ({ close }) => close(),
    )
    const launched = await lifecycle.step(
      'runtime',
      () =>
        createRuntime({
          ...{ dataRoot: config.dataRoot, runRoot: config.runRoot, runtimePath: config.runtime },
          ...{ launcherEntry: fileURLToPath(entry('launcher')), spawned: launcher, log, signal },
        }),
      async (started) => await started[Symbol.asyncDispose](),
    )
    signal.throwIfAborted()
    runtime.resolve(launched)
    key.rotate(door.gid, keyLifetime).catch((error) => log.error('transport-key.kept', { error }))
    notifyManager('READY=1', environment['NOTIFY_SOCKET'])
    log.info('daemon.ready', { socket: config.socket, version: buildInfo.version })
    return {
      async stop() {
        notifyManager('STOPPING=1', environment['NOTIFY_SOCKET'])
        await serving.close(drainTime)
        builds.active.cancelAll()
        await builds.active.drained()
        await lifecycle.stop()
      },
      hurry: () => void serving.close(0),
      reload: () => transfers.rules.reload(),
    }
  } catch (failure) {
    const error = signal.aborted ? signal.reason : failure
    const reason = whyNot(error)
    runtime.reject(reason)
    await (server === undefined ? turnAway(door, reason, log) : server.close(0, reason)).catch((failed) =>
      log.error('start.callers-lost', { error: failed }),
    )
    active?.cancelAll()
    await active?.drained()
    await lifecycle.stop()
    throw error
  }
}

/** What callers are told of a start that failed. */
function whyNot(error: unknown): BuilderError {
  if (isBuilderError(error, 'ISB_SHUTTING_DOWN')) return error
  const hint = 'Its log says more: journalctl -u isula-build'
  const why = isBuilderError(error) ? error.message : 'an internal error'
  return new BuilderError('ISB_DAEMON_UNREACHABLE', `isula-builder could not start: ${why}`, { hint })
}

function poolSize(): number {
  return Math.min(8, Math.max(2, availableParallelism()))
}

/** What a daemon that was killed has left for iSulad is of no use to anybody. */
function enginesOf({ engines: { dockerSocket, isulaSocket, isula }, dataRoot }: DaemonConfig): Engines {
  const temporary = join(dataRoot, 'tmp')
  rmSync(temporary, { recursive: true, force: true })
  return {
    ...{ dockerSocket, isulaSocket },
    isulad: { program: isula ?? systemDirectories, temporary, timeLimit: isuladTime },
  }
}

/** A layer is what was stored when the tar regenerated from it has its diff ID. */
function verifier(workers: LayerWorkers): VerifyLayer {
  return async (layerDirectory, keepsHeaders, expectedDiffId) => {
    const fd = openSync('/dev/null', 'w')
    try {
      await workers.run('writeLayer', { layerDirectory, keepsHeaders, fd, expectedDiffId })
      return true
    } catch (error) {
      if (isBuilderError(error, 'ISB_IMAGE_DAMAGED')) return false
      throw error
    } finally {
      closeSync(fd)
    }
  }
}

function fileDigester(workers: LayerWorkers): DigestFile {
  return async (path, signal) => {
    const fd = openSync(path, 'r')
    try {
      const range = { offset: 0, length: fstatSync(fd).size }
      return (await workers.run('digest', { fd, range }, signal)).digest
    } finally {
      closeSync(fd)
    }
  }
}

/** Watchers are told by the launcher's file when there is more, and by the build when there is no more. */
const follow: FollowSpool = (path, finished, signal) => {
  const ended = new AbortController()
  finished.then(
    () => ended.abort(),
    () => ended.abort(),
  )
  return followSpool(path, ended.signal, { cancel: signal })
}

/** The eight names of the original, as the daemon's own environment has them. */
function proxyVariables(environment: Readonly<Record<string, string | undefined>>): readonly string[] {
  const lower = ['http_proxy', 'https_proxy', 'ftp_proxy', 'no_proxy']
  return [...lower, ...lower.map((name) => name.toUpperCase())].flatMap((name) => {
    const value = environment[name]
    return value === undefined || value === '' ? [] : [`${name}=${value}`]
  })
}

/** Keys the digests of secret values in the cache; made once per data root. */
function secretKey(path: string): Uint8Array {
  try {
    return readFileSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  const key = randomBytes(32)
  writeFileSync(path, key, { mode: 0o600, flag: 'wx' })
  return key
}
