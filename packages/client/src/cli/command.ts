/** One flag of a command. `strings` may be given several times. */
export interface Flag {
  readonly name: string
  readonly short?: string
  readonly type: 'bool' | 'string' | 'strings'
  /** What help shows for the value, e.g. `string`. */
  readonly placeholder?: string
  readonly default?: string | boolean
  /** What the flag alone means; a value then needs an equals sign. */
  readonly bare?: string
  readonly help: string
  readonly hidden?: boolean
}

export type FlagValues = ReadonlyMap<string, boolean | string | readonly string[]>

export interface Invocation {
  readonly flags: FlagReader
  readonly args: readonly string[]
}

export interface FlagReader {
  bool(name: string): boolean
  string(name: string): string
  strings(name: string): readonly string[]
  /** Given on the command line. */
  has(name: string): boolean
}

/** What a command is, as data: parsing, help and completion all read it. */
export interface Command {
  readonly name: string
  readonly summary: string
  /** Behind the path in the usage line, e.g. `[FLAGS] PATH`. */
  readonly usage?: string
  readonly examples?: readonly string[]
  readonly flags?: readonly Flag[]
  readonly commands?: readonly Command[]
  readonly hidden?: boolean
  /** `none`: an argument is an error, told with the first example. */
  readonly args?: 'none' | 'any'
  /** Loaded when it runs, so that other commands start without it. Resolves to the exit code. */
  readonly run?: () => Promise<(invocation: Invocation) => Promise<number>>
}

export const globalFlags: readonly Flag[] = [
  { name: 'debug', short: 'D', type: 'bool', help: 'Open debug mode' },
  {
    name: 'host',
    type: 'string',
    help: 'Socket of the daemon (default "unix:///var/run/isula_build.sock"; env ISULABUILD_HOST)',
  },
  {
    name: 'log-level',
    type: 'string',
    default: 'error',
    help: 'Log level to be used. Either "debug", "info", "warn" or "error"',
  },
  {
    name: 'timeout',
    type: 'string',
    placeholder: 'duration',
    default: '20s',
    help: 'Timeout for connecting to builder',
  },
  { name: 'help', short: 'h', type: 'bool', help: 'Help for this command' },
]
