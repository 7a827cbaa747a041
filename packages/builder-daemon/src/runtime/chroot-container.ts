import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { createCgroup } from './cgroups.js'
import type { ChrootProcessRequest, LaunchResult } from './launcher-protocol.js'
import { type RunContext, toolEnvironment } from './run-context.js'
import { pidsLimit } from './spec.js'

/** What the container's first process is told on descriptor 3, once it has told its pid on 4. */
export interface ContainerRequest {
  readonly rootfs: string
  readonly cgroupDirectories: readonly string[]
  readonly cwd: string
  readonly hostname: string
  readonly network: 'host' | 'none'
  readonly process: ChrootProcessRequest
}

/** What it says on descriptor 4 when it cannot become the command. */
export interface ContainerFailure {
  readonly message: string
  readonly exitCode: number
}

const unsharePaths = ['/usr/bin/unshare', '/bin/unshare']

/**
 * Runs a container without an OCI runtime: util-linux unshare makes the namespaces, and this program,
 * started again as their first process, does the rest and becomes the command. unshare itself is
 * ended before: its exit status does not tell a kill from an exit, that of our own child does.
 */
export async function runChrootContainer(
  context: RunContext,
  request: ChrootProcessRequest,
): Promise<LaunchResult> {
  const { pipe } = context
  const unshare = unsharePaths.find((path) => existsSync(path))
  if (unshare === undefined) {
    const message = '`--isolation chroot` needs unshare of util-linux, which is not installed'
    return { kind: 'failed', code: 'ISB_RUNTIME_MISSING', message }
  }
  const message = containerRequest(context, request)
  const child = spawn(
    unshare,
    [
      ...['--mount', '--propagation', 'private', '--ipc', '--uts', '--pid', '--fork'],
      ...(message.network === 'none' ? ['--net'] : []),
      '--',
      ...context.self,
      'container',
    ],
    { cwd: '/', env: toolEnvironment, stdio: ['ignore', pipe.writeFd, pipe.writeFd, 'pipe', 'pipe'] },
  )
  context.reaper.own(child)
  if (child.pid === undefined) {
    const [error]: unknown[] = await once(child, 'error')
    throw new Error(`cannot start ${unshare}: ${String(error)}`)
  }
  const exit = once(child, 'exit')
  const forgetUnshare = context.watch(child.pid)
  pipe.closeWriter()
  const input = child.stdio[3] as Writable
  // A container that ended early says why on the other descriptor.
  input.on('error', () => undefined)
  const lines = createInterface({ input: child.stdio[4] as Readable })[Symbol.asyncIterator]()
  const first = await lines.next()
  child.kill('SIGKILL')
  await exit
  forgetUnshare()
  if (first.done === true) {
    input.end()
    if (context.killed()) return { kind: 'killed' }
    const said = (await pipe.discard()).trim()
    throw new Error(`the namespaces of the container could not be made: ${said}`)
  }
  const pid = Number(first.value)
  const forget = context.watch(pid)
  pipe.start()
  input.end(JSON.stringify(message))
  const status = await context.reaper.ended(pid).finally(forget)
  const failure = await lines.next()
  if (failure.done === true) return status
  const { message: reason, exitCode } = JSON.parse(failure.value) as ContainerFailure
  return { kind: 'failed', code: 'ISB_STEP_FAILED', message: reason, exitCode }
}

function containerRequest(context: RunContext, process: ChrootProcessRequest): ContainerRequest {
  const { cgroups, cgroupPath, rootfs, request } = context
  return {
    rootfs,
    cgroupDirectories: cgroups.mode === 'none' ? [] : createCgroup(cgroups, cgroupPath, pidsLimit),
    cwd: request.cwd,
    hostname: request.hostname,
    network: request.network,
    process,
  }
}
