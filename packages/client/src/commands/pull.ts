import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Invocation } from '../cli/command.js'
import { listed, pullPolicy, transferOptions } from '../cli/registry-flags.js'
import { createLogins } from '../credentials/logins.js'
import { registryHosts } from '../credentials/server-name.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'
import { prefixed } from '../transfer/conversation.js'
import { followTransfer } from '../transfer/follow.js'

export async function runPull({ flags, args }: Invocation): Promise<number> {
  const [name] = args
  if (name === undefined || args.length !== 1) throw invalid('pull requires exactly one argument')
  const platforms = listed(flags.strings('platform'))
  const allPlatforms = flags.bool('all-platforms')
  if (allPlatforms && platforms.length > 0)
    throw invalid('--platform is not allowed when using --all-platforms')
  const options = {
    reference: name,
    platforms,
    allPlatforms,
    policy: pullPolicy(flags.string('policy'), 'policy'),
    transfer: transferOptions(flags),
  }
  const quiet = flags.bool('quiet')
  const logins = await createLogins(flags, { hosts: registryHosts([name]) })
  return await withConnection(flags, async (connection) => {
    const call = connection.duplex(builderService.Pull)
    const { stored } = await followTransfer(call, { options, logins, quiet }).catch(
      prefixed('pull image failed: '),
    )
    if (quiet) for (const id of stored) printLine(id)
    else printLine(`Pull success with image: ${name}`)
    return 0
  })
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message)
}
