import { mkdirSync, openSync, readdirSync, rmdirSync, rmSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { kill } from '../system/processes.js'
import { hasErrno } from '../system/system-error.js'
import {
  type Cgroups,
  cgroupDirectories,
  countingDirectories,
  joinsExpected,
  killCgroup,
  removeCgroup,
  removeCgroupParents,
} from './cgroups.js'
import type { ChildReaper } from './child-reaper.js'
import { runChrootContainer } from './chroot-container.js'
import type { FilteredStarts } from './filtered-starts.js'
import {
  type FromLauncher,
  type LauncherSettings,
  type LaunchFailure,
  type LaunchRequest,
  type LaunchResult,
  launcherPaths,
} from './launcher-protocol.js'
import { forgetContainer, runOciContainer } from './oci-container.js'
import { type OutputPipe, openOutputPipe } from './output-pipe.js'
import { killTimeout, recordProcess } from './recovery.js'
import { assembleRootfs } from './rootfs.js'
import type { RunContext } from './run-context.js'
import type { SealedPrograms } from './sealed-programs.js'
import type { StartTurns } from './start-turns.js'

const SIGKILL = 9

export interface LauncherOptions {
  readonly settings: LauncherSettings
  readonly cgroups: Cgroups
  readonly reaper: ChildReaper
  readonly starts: FilteredStarts
  readonly programs: SealedPrograms
  readonly turns: StartTurns
  /** How to start this program again. */
  readonly self: readonly [string, ...string[]]
  readonly send: (message: FromLauncher) => void
}

export interface Launcher {
  run(request: LaunchRequest): void
  kill(id: string): void
  raiseQuota(id: string, bytes: number): void
  /** Kills every RUN and resolves when all of them have been cleaned up. */
  shutdown(): Promise<void>
}

interface ActiveRun {
  readonly pids: Set<number>
  killed: boolean
  pipe: OutputPipe | undefined
  readonly done: Promise<void>
}

export function createLauncher(options: LauncherOptions): Launcher {
  const { settings, cgroups, reaper, starts, programs, turns, send } = options
  const paths = launcherPaths(settings.runRoot)
  const active = new Map<string, ActiveRun>()
  const nothing = openSync('/dev/null', 'r')
  const expectJoin = joinsExpected(cgroups)

  const killRun = (id: string, run: ActiveRun): void => {
    run.killed = true
    for (const pid of run.pids) kill(pid, SIGKILL)
    const directories = cgroupDirectories(cgroups, `${settings.cgroupParent}/${id}`)
    // The RUN's own end waits for the same and reports what is left.
    killCgroup(directories, 0).catch((error: unknown) => logFailure('run.kill_failed', id, error))
  }

  const logFailure = (event: string, id: string, error: unknown): void => {
    send({ type: 'log', event, fields: { id, error: messageOf(error) } })
  }

  const execute = async (request: LaunchRequest, run: ActiveRun): Promise<LaunchResult> => {
    const { id } = request
    const directory = join(paths.runs, id)
    const cgroupPath = `${settings.cgroupParent}/${id}`
    mkdirSync(directory, { mode: 0o700 })
    expectJoin().catch((error: unknown) => logFailure('run.join_failed', id, error))
    try {
      const withoutDevices = cgroups.mode === 'none' || request.process.kind === 'chroot'
      const rootfs = await assembleRootfs(request, { dataRoot: settings.dataRoot, directory, withoutDevices })
      try {
        const pipe = openOutputPipe(request.spool, settings.spoolQuota, (bytes) =>
          send({ type: 'stalled', id, bytes }),
        )
        run.pipe = pipe
        const context: RunContext = {
          request,
          directory,
          rootfs: rootfs.path,
          runtimeState: paths.oci,
          pipe,
          nothing,
          reaper,
          starts,
          programs,
          turns,
          cgroups,
          cgroupPath,
          self: options.self,
          started: () => rootfs.handOver(),
          killed: () => run.killed,
          watch(pid) {
            run.pids.add(pid)
            if (cgroups.mode === 'none') recordProcess(join(paths.records, id), pid)
            if (run.killed) kill(pid, SIGKILL)
            return () => run.pids.delete(pid)
          },
        }
        try {
          if (run.killed) return { kind: 'killed' }
          const { process } = request
          const result =
            process.kind === 'oci'
              ? await runOciContainer(context, process)
              : await runChrootContainer(context, process)
          return run.killed ? { kind: 'killed' } : result
        } finally {
          const find = writesCgroups(request) ? cgroupDirectories : countingDirectories
          await endProcesses(id, find(cgroups, cgroupPath), pipe)
        }
      } finally {
        await rootfs.release()
      }
    } finally {
      await removeRun(request, directory, cgroupPath)
    }
  }

  const endProcesses = async (
    id: string,
    directories: readonly string[],
    pipe: OutputPipe,
  ): Promise<void> => {
    const ended = await killCgroup(directories, killTimeout)
    if (!ended) logFailure('run.processes_left', id, 'processes survive SIGKILL')
    // Nobody writes any more, so what the pipe holds is all there is.
    pipe.closeWriter()
    pipe.raiseQuota(Number.POSITIVE_INFINITY)
    pipe.start()
    const timer = setTimeout(() => pipe.abandon(), ended ? 5000 : 0)
    try {
      await pipe.finished
    } finally {
      clearTimeout(timer)
    }
  }

  const removeRun = async (request: LaunchRequest, directory: string, cgroupPath: string): Promise<void> => {
    const gone = await removeCgroup(cgroups, cgroupPath)
    if (!gone) logFailure('run.cgroup_left', request.id, 'the cgroup is still in use')
    if (request.process.kind === 'oci') {
      await forgetContainer(request.process.runtimePath, paths.oci, request.id)
    }
    rmSync(join(paths.records, request.id), { force: true })
    for (const entry of readdirSync(directory)) unlinkSync(join(directory, entry))
    rmdirSync(directory)
  }

  return {
    run(request) {
      const { id } = request
      if (active.has(id)) {
        const message = `a RUN with the id ${id} is already running`
        send({ type: 'result', id, result: { kind: 'failed', code: 'ISB_INTERNAL', message } })
        return
      }
      let finish: () => void = () => undefined
      const done = new Promise<void>((resolve) => {
        finish = resolve
      })
      const run: ActiveRun = { pids: new Set(), killed: false, pipe: undefined, done }
      active.set(id, run)
      execute(request, run)
        .catch((error: unknown): LaunchResult => (run.killed ? { kind: 'killed' } : failureOf(error)))
        .then((result) => {
          active.delete(id)
          send({ type: 'result', id, result })
          finish()
        })
    },
    kill(id) {
      const run = active.get(id)
      if (run !== undefined) killRun(id, run)
    },
    raiseQuota(id, bytes) {
      active.get(id)?.pipe?.raiseQuota(bytes)
    },
    async shutdown() {
      const runs = [...active.entries()]
      for (const [id, run] of runs) killRun(id, run)
      await Promise.all(runs.map(([, run]) => run.done))
      removeCgroupParents(cgroups, settings.cgroupParent)
    },
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** `--security=insecure`: it may have left its place in some hierarchy. */
function writesCgroups({ process }: LaunchRequest): boolean {
  return process.kind === 'oci' ? process.filter === undefined : process.writableSysfs
}

const launchFailures: readonly LaunchFailure[] = [
  'ISB_STEP_FAILED',
  'ISB_ARGUMENT_INVALID',
  'ISB_LIMIT_EXCEEDED',
  'ISB_NO_SPACE',
  'ISB_RUNTIME_MISSING',
]

function failureOf(error: unknown): LaunchResult {
  const message = messageOf(error)
  if (isBuilderError(error)) {
    const code = launchFailures.find((candidate) => candidate === error.code) ?? 'ISB_INTERNAL'
    const { exitCode } = error.details
    const hint = error.details.hint
    return {
      kind: 'failed',
      code,
      message,
      ...(exitCode === undefined ? {} : { exitCode }),
      ...(hint === undefined ? {} : { hint }),
    }
  }
  if (hasErrno(error, 'ENOSPC', 'EDQUOT')) return { kind: 'failed', code: 'ISB_NO_SPACE', message }
  return { kind: 'failed', code: 'ISB_INTERNAL', message }
}
