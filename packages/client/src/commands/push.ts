import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { optionalImageFormat } from '../cli/choices.js'
import type { Invocation } from '../cli/command.js'
import { compressionOptions, transferOptions } from '../cli/registry-flags.js'
import { createLogins } from '../credentials/logins.js'
import { registryHosts } from '../credentials/server-name.js'
import { checkResultFile, writeResultFile } from '../result-file.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'
import { prefixed } from '../transfer/conversation.js'
import { followTransfer } from '../transfer/follow.js'

export async function runPush({ flags, args }: Invocation): Promise<number> {
  const [name, destination = ''] = args
  if (name === undefined || args.length > 2) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'push requires one or two arguments', {
      hint: 'isula-build ctr-img push REPOSITORY[:TAG] [DESTINATION]',
    })
  }
  const push = {
    format: optionalImageFormat(flags, process.env),
    ...compressionOptions(flags.string('compression')),
  }
  const options = { image: name, destination, push, transfer: transferOptions(flags) }
  const digestFile = flags.string('digestfile')
  if (digestFile !== '') checkResultFile(digestFile, 'digest')
  const quiet = flags.bool('quiet')
  const logins = await createLogins(flags, { hosts: registryHosts([destination || name]) })
  return await withConnection(flags, async (connection) => {
    const call = connection.duplex(builderService.Push)
    const { pushed } = await followTransfer(call, { options, logins, quiet }).catch(
      prefixed('push image failed: '),
    )
    const digest = pushed.at(-1)?.digest ?? ''
    if (digestFile !== '') writeResultFile(digestFile, digest, 'digest')
    if (quiet) printLine(digest)
    else printLine(`Push success with image: ${name}`)
    return 0
  })
}
