import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import type { ChildStatus } from '../system/containment.js'
import { spawnProgram } from '../system/spawn.js'
import { hasErrno } from '../system/system-error.js'
import { cgroupDirectories, killCgroup } from './cgroups.js'
import { containerUmask, type Program, type StartFiltered } from './filtered-starts.js'
import { findRuntime } from './find-runtime.js'
import type { FilterRequest, LaunchResult, OciProcessRequest } from './launcher-protocol.js'
import { type RunContext, toolEnvironment } from './run-context.js'
import { runtimeFailure } from './runtime-failure.js'
import { seccompProfile } from './seccomp-profile.js'
import { remainingProfile } from './seccomp-shares.js'

/**
 * Runs a container with an OCI runtime. Detached, so that the container writes to our pipe itself
 * (a runtime in the foreground copies stdout and stderr apart and mixes up their order) and so that
 * its first process becomes our child, whose status is exact.
 */
export async function runOciContainer(
  context: RunContext,
  request: OciProcessRequest,
): Promise<LaunchResult> {
  const { directory, pipe, reaper } = context
  const failed = await startContainer(context, request)
  if (failed !== undefined) return failed
  const pid = Number(readFileSync(join(directory, 'pid'), 'utf8'))
  const forget = reaper.isRunning(pid) ? context.watch(pid) : () => undefined
  context.started()
  pipe.closeWriter()
  pipe.start()
  return await reaper.ended(pid).finally(forget)
}

/** undefined once the container runs. */
async function startContainer(
  context: RunContext,
  request: OciProcessRequest,
): Promise<LaunchResult | undefined> {
  const { directory, pipe, reaper } = context
  const { config, filter } = request
  const runtimePath = findRuntime([request.runtimePath]) ?? request.runtimePath
  const startFiltered = filter === undefined ? undefined : await context.starts.for(runtimePath)
  const linux =
    filter === undefined ? config.linux : { ...config.linux, seccomp: rest(filter, startFiltered) }
  writeFileSync(join(directory, 'config.json'), JSON.stringify({ ...config, linux }), { mode: 0o600 })
  const endTurn = await context.turns.take()
  let status: ChildStatus
  try {
    if (context.killed()) return { kind: 'killed' }
    const start = startFiltered ?? startProgram
    const pid = await startRuntime(start, context, runtimePath)
    const forget = reaper.isRunning(pid) ? context.watch(pid) : () => undefined
    status = await reaper.ended(pid).finally(forget)
  } catch (error) {
    return cannotStart(error, runtimePath)
  } finally {
    endTurn()
  }
  if (status.kind === 'exited' && status.code === 0) return undefined
  // What a runtime that failed half-way left may still hold the pipe.
  await killCgroup(cgroupDirectories(context.cgroups, context.cgroupPath), 5000)
  const output = await pipe.discard()
  if (context.killed()) return { kind: 'killed' }
  const failure = runtimeFailure(readLog(directory), output)
  return { kind: 'failed', code: 'ISB_STEP_FAILED', ...failure }
}

/** What the runtime is to put on the container, below a filter that it inherits or without one. */
function rest({ architecture, capabilities }: FilterRequest, inherits: StartFiltered | undefined) {
  const profile = inherits === undefined ? seccompProfile : remainingProfile
  return profile(architecture, capabilities)
}

const startProgram: StartFiltered = async ({ path, args, env, stdio }) => {
  const own = process.umask(containerUmask)
  try {
    return spawnProgram(path, args, env, stdio)
  } finally {
    process.umask(own)
  }
}

/** From its copy, or from where it is, when the copy is no longer what it was. */
async function startRuntime(start: StartFiltered, context: RunContext, runtimePath: string): Promise<number> {
  const copy = context.programs.pathOf(runtimePath)
  const program = runtimeProgram(context, runtimePath)
  try {
    return await start({ ...program, path: copy })
  } catch (error) {
    if (copy === runtimePath || !hasErrno(error, 'EACCES', 'ENOENT')) throw error
    return await start(program)
  }
}

function runtimeProgram(context: RunContext, runtimePath: string): Program {
  const { directory, pipe } = context
  return {
    path: runtimePath,
    args: [
      ...[runtimePath, ...runtimeFlags(context, runtimePath), 'run', '--detach', '--bundle', directory],
      ...['--pid-file', join(directory, 'pid'), context.request.id],
    ],
    env: Object.entries({ ...toolEnvironment, ...runtimeEnvironment }).map(
      ([name, value]) => `${name}=${value}`,
    ),
    stdio: [context.nothing, pipe.writeFd, pipe.writeFd],
  }
}

/** Runtimes in Go, which live for milliseconds: more threads and a collector cost more than they give. */
const runtimeEnvironment = { GOMAXPROCS: '1', GOGC: 'off' }

function cannotStart(error: unknown, path: string): LaunchResult {
  const message = hasErrno(error, 'ENOENT')
    ? `the container runtime ${path} does not exist`
    : `the container runtime ${path} cannot be started: ${String(error)}`
  return { kind: 'failed', code: 'ISB_RUNTIME_MISSING', message }
}

function runtimeFlags(context: RunContext, runtimePath: string): readonly string[] {
  const flags = [
    '--root',
    context.runtimeState,
    '--log',
    join(context.directory, 'log.json'),
    '--log-format',
    'json',
  ]
  if (context.cgroups.mode !== 'none') return flags
  // Each has its own word for doing without cgroups.
  if (basename(runtimePath) === 'crun') return [...flags, '--cgroup-manager=disabled']
  return [...flags, '--rootless=true']
}

function readLog(directory: string): string {
  try {
    return readFileSync(join(directory, 'log.json'), 'utf8')
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return ''
    throw error
  }
}

/** Forgets a container whose processes are gone. */
export async function forgetContainer(runtimePath: string, runtimeState: string, id: string): Promise<void> {
  const name = basename(runtimePath)
  if (name === 'runc' || name === 'crun') {
    // Their whole state is this directory; asking them to remove it costs a process.
    rmSync(join(runtimeState, id), { recursive: true, force: true })
    return
  }
  const child = spawn(runtimePath, ['--root', runtimeState, 'delete', '--force', id], {
    env: toolEnvironment,
    stdio: 'ignore',
  })
  await Promise.race([once(child, 'exit'), once(child, 'error')])
}
