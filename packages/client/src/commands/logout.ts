import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Invocation } from '../cli/command.js'
import { serverName } from '../credentials/server-name.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'
import { onlyServer } from './login.js'

export async function runLogout({ flags, args }: Invocation): Promise<number> {
  const all = flags.bool('all')
  const server = all && args.length === 0 ? '' : serverName(onlyServer(args))
  await withConnection(flags, (connection) =>
    connection.unary(builderService.Logout, { server: all ? '' : server, all }).catch((error: unknown) => {
      printLine('\nLogout Failed\n')
      throw error
    }),
  )
  printLine(all ? 'Removed authentications' : `Removed authentication for ${server}`)
  return 0
}
