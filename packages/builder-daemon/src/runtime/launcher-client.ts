import { createHash } from 'node:crypto'
import { mkdirSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Logger } from '../ports/logger.js'
import type { RunExit, RunSpec, Runtime } from '../ports/runtime.js'
import { readHostFacts } from './host-facts.js'
import { launchRequest } from './launch-request.js'
import {
  type LauncherProcess,
  type SpawnedLauncher,
  spawnLauncher,
  startLauncher,
} from './launcher-process.js'
import {
  type LauncherSettings,
  type LaunchResult,
  launcherPaths,
  type RecoveryReport,
} from './launcher-protocol.js'
import type { HostFacts } from './spec.js'

export interface RuntimeOptions {
  /** The launcher's program, `workers/launcher.js`. */
  readonly launcherEntry: string
  /** One of that program that was started ahead; by default the first is started here, too. */
  readonly spawned?: SpawnedLauncher
  /** Gives the start up and ends the launcher; of no meaning once the runtime is there. */
  readonly signal?: AbortSignal
  readonly dataRoot: string
  /** `<runRoot>/runtime` belongs to the launcher. The daemon holds the run root's lock already. */
  readonly runRoot: string
  /** Name or absolute path of runc or another OCI runtime; undefined leaves only `--isolation chroot`. */
  readonly runtimePath: string | undefined
  readonly log: Logger
  /** Default: `/isula-build/<digest of the run root>`, the same after every restart. */
  readonly cgroupParent?: string
  /** Output bytes of one RUN before it has to wait; default 1 GiB. */
  readonly spoolQuota?: number
  /** A RUN waits because its output reached the quota: raise it, abort the RUN, or let it wait. */
  readonly onStalled?: (id: string, bytes: number) => void
}

export interface LaunchedRuntime extends Runtime, AsyncDisposable {
  /** What an earlier daemon had left, already ended and removed. */
  readonly recovery: RecoveryReport
  /** Total output bytes the RUN may have from now on. */
  raiseSpoolQuota(id: string, bytes: number): void
  /** Process id of the launcher, for health reports. */
  launcherPid(): number | undefined
}

/**
 * Starts the launcher, which first ends everything an earlier daemon of this run root left behind,
 * and gives the Runtime in front of it. A launcher that dies fails its RUNs, after what they left was
 * ended by its successor.
 */
export async function createRuntime(options: RuntimeOptions): Promise<LaunchedRuntime> {
  const { log, signal: stopped } = options
  stopped?.throwIfAborted()
  mkdirSync(options.runRoot, { recursive: true, mode: 0o700 })
  const runRoot = realpathSync(options.runRoot)
  const settings: LauncherSettings = {
    dataRoot: realpathSync(options.dataRoot),
    runRoot,
    cgroupParent: options.cgroupParent ?? defaultCgroupParent(runRoot),
    spoolQuota: options.spoolQuota ?? 1024 ** 3,
    runtimePath: options.runtimePath,
  }
  let closing = false
  let launcher: Promise<LauncherProcess> | undefined
  let pid: number | undefined

  const start = async (spawned?: SpawnedLauncher): Promise<LauncherProcess> => {
    const started = await startLauncher({
      spawned: spawned ?? spawnLauncher(options.launcherEntry),
      settings,
      log,
      onStalled(id, bytes) {
        log.warn('run.stalled', { id, bytes })
        options.onStalled?.(id, bytes)
      },
    })
    pid = started.pid
    log.info('launcher.ready', { pid, recovered: started.recovery.runs, cgroups: started.recovery.cgroups })
    if (!started.recovery.limitsProcesses)
      log.warn('launcher.no_process_limit', { cgroups: started.recovery.cgroups })
    started.ended.then(() => {
      if (closing) return
      log.error('launcher.died', { pid: started.pid })
      pid = undefined
      // At once, not with the next RUN: the successor ends the containers that are left.
      launcher = start()
      launcher.catch((error: unknown) => {
        launcher = undefined
        log.error('launcher.restart_failed', { error: String(error) })
      })
    })
    return started
  }
  const first = options.spawned ?? spawnLauncher(options.launcherEntry)
  const giveUp = (): void => {
    closing = true
    // What comes of it is what the start fails with.
    first.close().catch(() => undefined)
  }
  stopped?.addEventListener('abort', giveUp, { once: true })
  launcher = start(first)
  const { recovery } = await launcher.finally(() => stopped?.removeEventListener('abort', giveUp))
  stopped?.throwIfAborted()
  const cgroups = recovery.cgroups
  let host: HostFacts
  try {
    host = readHostFacts(recovery)
  } catch (error) {
    // Whoever spawned the launcher ends it, and it is to have no successor.
    closing = true
    throw error
  }

  const successor = async (): Promise<void> => {
    try {
      await launcher
    } catch (error) {
      log.error('launcher.unavailable', { error: String(error) })
    }
  }

  const execute = async (spec: RunSpec, signal: AbortSignal): Promise<RunExit> => {
    if (closing) throw new BuilderError('ISB_SHUTTING_DOWN', 'the daemon is stopping')
    const request = launchRequest(spec, host, {
      rootfs: join(launcherPaths(runRoot).runs, spec.id, 'rootfs'),
      cgroupsPath: cgroups === 'none' ? undefined : `${settings.cgroupParent}/${spec.id}`,
      runtimePath: options.runtimePath,
    })
    launcher ??= start()
    const current = await launcher
    if (signal.aborted) throw cancelled()
    const result = current.run(request)
    const abort = (): void => current.kill(spec.id)
    signal.addEventListener('abort', abort, { once: true })
    try {
      const settled = await result
      if (settled !== undefined) return exitOf(settled)
      await successor()
      if (signal.aborted) throw cancelled()
      throw new BuilderError('ISB_INTERNAL', 'the process that runs containers ended unexpectedly', {
        hint: 'Run the build again; the log of isula-builder says more.',
      })
    } finally {
      signal.removeEventListener('abort', abort)
    }
  }

  return {
    recovery,
    run: async (spec, signal) => {
      if (signal.aborted) throw cancelled()
      return await execute(spec, signal)
    },
    raiseSpoolQuota(id, bytes) {
      launcher?.then(
        (current) => current.raiseQuota(id, bytes),
        () => undefined,
      )
    },
    launcherPid: () => pid,
    async [Symbol.asyncDispose]() {
      closing = true
      const current = await launcher?.catch(() => undefined)
      await current?.close()
    },
  }
}

function cancelled(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'the step was cancelled')
}

function exitOf(result: LaunchResult): RunExit {
  switch (result.kind) {
    case 'exited':
    case 'signalled':
      return result
    case 'killed':
      throw cancelled()
    case 'failed': {
      const { exitCode, hint } = result
      throw new BuilderError(result.code, result.message, {
        ...(exitCode === undefined ? {} : { exitCode }),
        ...(hint === undefined ? {} : { hint }),
      })
    }
  }
}

function defaultCgroupParent(runRoot: string): string {
  return `/isula-build/${createHash('sha256').update(runRoot).digest('hex').slice(0, 12)}`
}
