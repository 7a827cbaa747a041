import type { FlagReader } from './cli/command.js'
import type { Connection } from './connect.js'

const defaultHost = 'unix:///var/run/isula_build.sock'

/** Dials the daemon that flags and environment name; gRPC is loaded only here. */
export async function openConnection(flags: FlagReader): Promise<Connection> {
  const { connect } = await import('./connect.js')
  const host = flags.string('host') || process.env['ISULABUILD_HOST'] || defaultHost
  return await connect(host, flags.string('timeout'))
}

/** Runs `work` on a connection that is closed afterwards. */
export async function withConnection<T>(
  flags: FlagReader,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  const connection = await openConnection(flags)
  try {
    return await work(connection)
  } finally {
    connection.close()
  }
}
