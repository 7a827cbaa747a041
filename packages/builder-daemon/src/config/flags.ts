import { parseArgs } from 'node:util'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

export interface DaemonFlags {
  readonly debug: boolean
  readonly logLevel: string | undefined
  readonly dataRoot: string | undefined
  readonly runRoot: string | undefined
  readonly group: string | undefined
  readonly storageDriver: string | undefined
  readonly storageOpts: readonly string[]
  readonly experimental: boolean | undefined
  /** Path of the unix socket. */
  readonly socket: string
  readonly configDir: string
}

export type FlagOutcome =
  | { readonly kind: 'run'; readonly flags: DaemonFlags }
  | { readonly kind: 'help' }
  | { readonly kind: 'version' }
  | { readonly kind: 'completion' }

const defaultHost = 'unix:///var/run/isula_build.sock'

export const daemonHelp = `isula-build daemon for container image building

Usage:
  isula-builder [FLAGS]

Flags:
      --config-dir string        Directory of the configuration files (default "/etc/isula-build")
      --dataroot string          Persistent dir (default "/var/lib/isula-build")
  -D, --debug                    Enable debug mode
      --experimental             Enable experimental features
      --group string             Name of group that can access the socket (default "isula")
  -h, --help                     Help for isula-builder
      --host string              Socket to listen on (default "${defaultHost}"; env ISULABUILD_HOST)
      --log-level string         The log level to be set ("debug" | "info" | "warn" | "error", default "info")
      --runroot string           Runtime dir (default "/var/run/isula-build")
      --storage-driver string    Storage driver (default "overlay")
      --storage-opt strings      Storage driver option
  -v, --version                  Version for isula-builder
`

/** Parses the daemon's command line. Fails with ISB_ARGUMENT_INVALID. */
export function parseFlags(
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): FlagOutcome {
  if (argv[0] === 'completion') return { kind: 'completion' }
  const { values, positionals } = parse(argv)
  if (values.help === true) return { kind: 'help' }
  if (values.version === true) return { kind: 'version' }
  if (positionals.length > 0) {
    throw new BuilderError(
      'ISB_ARGUMENT_INVALID',
      `"isula-builder" accepts no arguments, got "${positionals[0]}"`,
      {
        hint: "See 'isula-builder --help'.",
      },
    )
  }
  return {
    kind: 'run',
    flags: {
      debug: values.debug ?? false,
      logLevel: values['log-level'],
      dataRoot: values.dataroot,
      runRoot: values.runroot,
      group: values.group,
      storageDriver: values['storage-driver'],
      storageOpts: values['storage-opt'] ?? [],
      experimental: values.experimental,
      socket: socketPath(values.host ?? (environment['ISULABUILD_HOST'] || defaultHost)),
      configDir: values['config-dir'] ?? '/etc/isula-build',
    },
  }
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        debug: { type: 'boolean', short: 'D' },
        'log-level': { type: 'string' },
        dataroot: { type: 'string' },
        runroot: { type: 'string' },
        group: { type: 'string' },
        'storage-driver': { type: 'string' },
        'storage-opt': { type: 'string', multiple: true },
        experimental: { type: 'boolean' },
        host: { type: 'string' },
        'config-dir': { type: 'string' },
        help: { type: 'boolean', short: 'h' },
        version: { type: 'boolean', short: 'v' },
      },
    })
  } catch (error) {
    const message = (error as Error).message
    const unknown = /Unknown option '([^']+)'/.exec(message)
    throw new BuilderError('ISB_ARGUMENT_INVALID', unknown ? `unknown flag: ${unknown[1]}` : message, {
      hint: "See 'isula-builder --help'.",
    })
  }
}

/** `unix:///path` → `/path`. */
export function socketPath(host: string): string {
  const path = host.startsWith('unix://') ? host.slice('unix://'.length) : undefined
  if (path === undefined || !path.startsWith('/') || Buffer.byteLength(path) > 107) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', `invalid socket path: ${host}`, {
      hint: 'Expected unix:///path of at most 107 bytes.',
    })
  }
  return path
}
