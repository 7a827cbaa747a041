import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readlinkSync } from 'node:fs'
import type { Readable, Writable } from 'node:stream'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Logger } from '../ports/logger.js'
import {
  encodeMessage,
  type FromLauncher,
  type LauncherSettings,
  type LaunchRequest,
  type LaunchResult,
  messageDecoder,
  type RecoveryReport,
  type ToLauncher,
} from './launcher-protocol.js'
import { toolEnvironment } from './run-context.js'

/** One life of the launcher, seen from the daemon. */
export interface LauncherProcess {
  readonly pid: number
  readonly recovery: RecoveryReport
  /** Resolves with the result, or with undefined when the launcher ends first. */
  run(request: LaunchRequest): Promise<LaunchResult | undefined>
  kill(id: string): void
  raiseQuota(id: string, bytes: number): void
  /** Resolves when the process is gone. */
  readonly ended: Promise<void>
  /** Closes the channel; the launcher kills its RUNs and goes. */
  close(): Promise<void>
}

/** A launcher that was started and waits to be told its settings. */
export interface SpawnedLauncher {
  readonly child: ChildProcessByStdio<Writable, Readable, Readable>
  /** Resolves when the process is gone. */
  readonly ended: Promise<void>
  /** Why it could not be started. */
  failure(): Error | undefined
  close(): Promise<void>
}

export interface LauncherProcessOptions {
  readonly spawned: SpawnedLauncher
  readonly settings: LauncherSettings
  readonly log: Logger
  readonly onStalled: (id: string, bytes: number) => void
}

const unsharePaths = ['/usr/bin/unshare', '/bin/unshare']
/** Milliseconds; a start waits at most this long for an earlier launcher to clean up. */
const startTimeout = 40_000
const closeTimeout = 15_000

/** It keeps next to nothing: a small nursery, and one thread for what V8 does beside, are enough. */
const memoryFlags = ['--max-semi-space-size=1', '--v8-pool-size=1']

/** Starts the program in a mount namespace of its own; before it has its settings it does nothing. */
export function spawnLauncher(entry: string): SpawnedLauncher {
  const unshare = unsharePaths.find((path) => existsSync(path))
  if (unshare === undefined) {
    throw new BuilderError('ISB_RUNTIME_MISSING', 'unshare of util-linux is not installed', {
      hint: 'Install util-linux.',
    })
  }
  // Mounts of the host still arrive (and leave), so that a disk mounted later can be a build context.
  const child = spawn(
    unshare,
    ['--mount', '--propagation', 'slave', '--', readlinkSync('/proc/self/exe'), ...memoryFlags, entry],
    { cwd: '/', env: toolEnvironment, detached: true, stdio: ['pipe', 'pipe', 'pipe'] },
  )
  const ended = once(child, 'close').then(() => undefined)
  // A child that could not be started has no 'close' to wait for; the race below sees its 'error'.
  ended.catch(() => undefined)
  child.stdin.on('error', () => undefined)
  let failure: Error | undefined
  child.on('error', (error) => {
    failure = error
  })
  return { child, ended, failure: () => failure, close: () => closeLauncher(child, ended) }
}

/** Gives a launcher its settings and waits until it is ready. */
export async function startLauncher(options: LauncherProcessOptions): Promise<LauncherProcess> {
  const { log } = options
  const { child, ended, failure, close } = options.spawned
  child.stderr.on('data', (text: Buffer) => log.error('launcher.stderr', { text: text.toString('utf8') }))
  const pending = new Map<string, (result: LaunchResult | undefined) => void>()
  const send = (message: ToLauncher): void => {
    child.stdin.write(encodeMessage(message))
  }
  const recovery = await new Promise<RecoveryReport>((resolve, reject) => {
    const fail = (why: string, cause?: unknown): void => {
      clearTimeout(timer)
      child.kill('SIGKILL')
      reject(new BuilderError('ISB_INTERNAL', `the launcher process cannot be used: ${why}`, { cause }))
    }
    const timer = setTimeout(() => fail('it did not become ready in time'), startTimeout)
    const hasEnded = (): void => fail(`it ended with ${child.signalCode ?? child.exitCode}`)
    const early = failure()
    if (early !== undefined) return fail(early.message, early)
    if (child.exitCode !== null || child.signalCode !== null) return hasEnded()
    child.once('error', (error) => fail(error.message, error))
    child.once('exit', hasEnded)
    const receive = (message: FromLauncher): void => {
      switch (message.type) {
        case 'ready':
          clearTimeout(timer)
          resolve(message.recovery)
          return
        case 'unusable':
          fail(message.message)
          return
        case 'result':
          pending.get(message.id)?.(message.result)
          pending.delete(message.id)
          return
        case 'stalled':
          options.onStalled(message.id, message.bytes)
          return
        case 'log':
          log.warn(message.event, message.fields)
      }
    }
    child.stdout.on('data', messageDecoder<FromLauncher>(receive))
    send({ type: 'settings', settings: options.settings })
  })
  let alive = true
  ended.then(() => {
    alive = false
    for (const settle of pending.values()) settle(undefined)
    pending.clear()
  })
  return {
    pid: child.pid ?? 0,
    recovery,
    ended,
    run: (request) =>
      new Promise((resolve) => {
        if (!alive) {
          resolve(undefined)
          return
        }
        pending.set(request.id, resolve)
        send({ type: 'run', request })
      }),
    kill: (id) => send({ type: 'kill', id }),
    raiseQuota: (id, bytes) => send({ type: 'quota', id, bytes }),
    close,
  }
}

async function closeLauncher(child: ChildProcess, ended: Promise<void>): Promise<void> {
  child.stdin?.end()
  const timer = setTimeout(() => child.kill('SIGKILL'), closeTimeout)
  try {
    await ended
  } finally {
    clearTimeout(timer)
  }
}
