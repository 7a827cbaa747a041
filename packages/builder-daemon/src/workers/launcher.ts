import { closeSync, mkdirSync, openSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parentPort } from 'node:worker_threads'
import { detectCgroups, hideUnneededHierarchies } from '../runtime/cgroups.js'
import { createChildReaper } from '../runtime/child-reaper.js'
import { createFilteredStarts } from '../runtime/filtered-starts.js'
import { findRuntime } from '../runtime/find-runtime.js'
import { createLauncher, type Launcher } from '../runtime/launcher.js'
import {
  encodeMessage,
  type FromLauncher,
  type LauncherSettings,
  launcherPaths,
  messageDecoder,
  type ToLauncher,
} from '../runtime/launcher-protocol.js'
import { recoverRuns } from '../runtime/recovery.js'
import { createSealedPrograms } from '../runtime/sealed-programs.js'
import { mountPrivate } from '../runtime/staged-mounts.js'
import { createStartTurns } from '../runtime/start-turns.js'
import { raiseThreads, shortWork } from '../system/priority.js'
import { tryFlock } from '../system/syscalls.js'
import { runStartThread } from './start-thread.js'

const warmUpDelay = 300
/** Milliseconds that the start of a container waits for others. */
const startPatience = 2_000

/**
 * The launcher process: small, so that starting a container does not copy a large daemon, and alone
 * in its mount namespace, so that nothing it mounts is ever seen outside and all of it is gone with
 * it. Reads messages on stdin and answers on stdout; the end of stdin is the end of the daemon.
 */
async function launcherMain(): Promise<void> {
  // The daemon decides when to stop; a terminal or a service manager must not end RUNs behind its back.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined)
  process.stdout.on('error', () => undefined)
  process.stderr.on('error', () => undefined)
  let launcher: Launcher | undefined
  let gone = false
  const end = async (): Promise<void> => {
    gone = true
    await launcher?.shutdown()
    process.exit(0)
  }
  const receive = (message: ToLauncher): void => {
    if (message.type === 'settings') {
      start(message.settings).then(
        async (started) => {
          launcher = started
          // The daemon may have gone while an earlier launcher was waited for.
          if (gone) await end()
        },
        (error: unknown) => {
          send({ type: 'unusable', message: error instanceof Error ? error.message : String(error) })
        },
      )
      return
    }
    if (launcher === undefined) throw new Error(`${message.type} before the launcher was ready`)
    if (message.type === 'run') launcher.run(message.request)
    else if (message.type === 'kill') launcher.kill(message.id)
    else launcher.raiseQuota(message.id, message.bytes)
  }
  // Waiting for a signal (SIGCHLD) alone does not keep Node.js running, and RUNs are ended after stdin is.
  setInterval(() => undefined, 2 ** 30)
  process.stdin.on('data', messageDecoder<ToLauncher>(receive))
  process.stdin.on('end', end)
  process.stdin.on('error', end)
}

function send(message: FromLauncher): void {
  process.stdout.write(encodeMessage(message))
}

async function start(settings: LauncherSettings): Promise<Launcher> {
  raiseThreads(shortWork)
  process.umask(0o077)
  const paths = launcherPaths(settings.runRoot)
  for (const directory of [paths.records, paths.memory])
    mkdirSync(directory, { recursive: true, mode: 0o700 })
  await takeLock(paths.lock)
  const runtimePath = findRuntime([settings.runtimePath ?? 'runc'])
  // Of crun it is not known that it leaves a directory without its hierarchy alone.
  if (runtimePath !== undefined && basename(runtimePath) === 'runc') hideUnneededHierarchies()
  const cgroups = detectCgroups(settings.cgroupParent)
  const runs = await recoverRuns(settings, cgroups)
  mountPrivate(paths.memory)
  for (const directory of [paths.runs, paths.oci]) mkdirSync(directory)
  const reaper = createChildReaper(process.pid)
  process.on('SIGCHLD', reaper.collect)
  // Layers are named relative to the data root, to fit more of them into one page of options.
  process.chdir(settings.dataRoot)
  const self = [process.execPath, process.argv[1] ?? ''] as const
  const starts = createFilteredStarts(self[1], reaper)
  const programs = createSealedPrograms((path, error) =>
    send({ type: 'log', event: 'runtime.not_copied', fields: { path, error: String(error) } }),
  )
  const turns = createStartTurns(2 * availableParallelism(), startPatience)
  const launcher = createLauncher({
    ...{ settings, cgroups, reaper, starts, programs, turns, send },
    self: [...self],
  })
  send({ type: 'ready', recovery: { runs, cgroups: cgroups.mode, limitsProcesses: cgroups.limitsProcesses } })
  // Ready for the first RUN, and not in the way of the daemon's own start.
  if (runtimePath !== undefined) {
    setTimeout(() => {
      programs.pathOf(runtimePath)
      starts.for(runtimePath).catch(() => undefined)
    }, warmUpDelay).unref()
  }
  return launcher
}

/** An earlier launcher of the same run root, whose daemon is gone, may still be cleaning up. */
async function takeLock(path: string): Promise<void> {
  const fd = openSync(path, 'a', 0o600)
  for (let waited = 0; !tryFlock(fd, 'exclusive'); waited += 50) {
    if (waited >= 20_000) {
      closeSync(fd)
      throw new Error(`another launcher holds ${path}`)
    }
    await sleep(50)
  }
}

/** The same program is the launcher's thread that starts containers, and the first process of a chroot container. */
async function main(): Promise<void> {
  if (parentPort !== null) return runStartThread(parentPort)
  if (process.argv[2] !== 'container') return await launcherMain()
  const { becomeContainer } = await import('./container-init.js')
  becomeContainer()
}

main().catch((error: unknown) => {
  process.stderr.write(`${(error as Error).stack ?? String(error)}\n`, () => process.exit(1))
})
