import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { hasErrno } from '../system/system-error.js'
import { cgroupDirectories, killCgroup } from './cgroups.js'
import type { LaunchResult, OciProcessRequest } from './launcher-protocol.js'
import { type RunContext, toolEnvironment } from './run-context.js'
import { runtimeFailure } from './runtime-failure.js'

/**
 * Runs a container with an OCI runtime. Detached, so that the container writes to our pipe itself
 * (a runtime in the foreground copies stdout and stderr apart and mixes up their order) and so that
 * its first process becomes our child, whose status is exact.
 */
export async function runOciContainer(
  context: RunContext,
  request: OciProcessRequest,
): Promise<LaunchResult> {
  const { directory, pipe } = context
  writeFileSync(join(directory, 'config.json'), request.config, { mode: 0o600 })
  const started = await startContainer(context, request)
  if (started !== undefined) return started
  const pid = Number(readFileSync(join(directory, 'pid'), 'utf8'))
  const forget = context.watch(pid)
  pipe.closeWriter()
  pipe.start()
  return await context.reaper.ended(pid).finally(forget)
}

/** undefined once the container runs. */
async function startContainer(
  context: RunContext,
  request: OciProcessRequest,
): Promise<LaunchResult | undefined> {
  const { directory, pipe, request: run } = context
  const child = spawn(
    request.runtimePath,
    [
      ...runtimeFlags(context, request.runtimePath),
      'run',
      '--detach',
      '--bundle',
      directory,
      '--pid-file',
      join(directory, 'pid'),
      run.id,
    ],
    { cwd: directory, env: toolEnvironment, stdio: ['ignore', pipe.writeFd, pipe.writeFd] },
  )
  context.reaper.own(child)
  if (child.pid === undefined) return await missingRuntime(child, request.runtimePath)
  const forget = context.watch(child.pid)
  const [code]: unknown[] = await once(child, 'exit')
  forget()
  if (code === 0) return undefined
  // What a runtime that failed half-way left may still hold the pipe.
  await killCgroup(cgroupDirectories(context.cgroups, context.cgroupPath), 5000)
  const output = await pipe.discard()
  if (context.killed()) return { kind: 'killed' }
  const failure = runtimeFailure(readLog(directory), output)
  return { kind: 'failed', code: 'ISB_STEP_FAILED', ...failure }
}

async function missingRuntime(child: ReturnType<typeof spawn>, path: string): Promise<LaunchResult> {
  const [error]: unknown[] = await once(child, 'error')
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
