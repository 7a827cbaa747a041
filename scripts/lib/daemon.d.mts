import type { ChildProcess, SpawnSyncOptions, SpawnSyncReturns } from 'node:child_process'

export interface TestDaemon {
  readonly directory: string
  readonly socket: string
  readonly host: string
  readonly log: string
  readonly data: string
  readonly run: string
  child: ChildProcess | undefined
  exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  start(): Promise<void>
  client(args: readonly string[], more?: SpawnSyncOptions): SpawnSyncReturns<string>
  image(args: readonly string[], more?: SpawnSyncOptions): SpawnSyncReturns<string>
  kill(signal?: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  stop(): Promise<void>
}

export interface DaemonOptions {
  readonly directory?: string
  readonly group?: string
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** A command that becomes what is behind it. */
  readonly through?: readonly string[]
  /** False: prepared, not started. */
  readonly start?: boolean
}

export function startDaemon(options?: DaemonOptions): Promise<TestDaemon>
