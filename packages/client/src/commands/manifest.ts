import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { checkedFormat } from '../cli/choices.js'
import type { Invocation } from '../cli/command.js'
import { listed, transferOptions } from '../cli/registry-flags.js'
import { createLogins } from '../credentials/logins.js'
import { registryHosts } from '../credentials/server-name.js'
import { checkResultFile, writeResultFile } from '../result-file.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'
import { conversation } from '../transfer/conversation.js'
import { followTransfer } from '../transfer/follow.js'

export async function runCreate({ flags, args }: Invocation): Promise<number> {
  const [name, ...images] = args
  if (name === undefined) throw invalid('please specify a name to manifest list')
  const options = {
    name,
    images,
    format: checkedFormat(flags.string('format')),
    all: flags.bool('all'),
    amend: flags.bool('amend'),
    transfer: transferOptions(flags),
  }
  const logins = await createLogins(flags, { hosts: registryHosts(images) })
  return await withConnection(flags, async (connection) => {
    const call = connection.duplex(builderService.CreateManifestList)
    for await (const event of conversation(call, options, logins)) printLine(event.value)
    return 0
  })
}

export async function runAnnotate({ flags, args }: Invocation): Promise<number> {
  const [list, image] = args
  if (list === undefined || image === undefined || args.length !== 2) {
    throw invalid('please specify the manifest list and the image name')
  }
  const options = {
    list,
    image,
    os: flags.string('os'),
    architecture: flags.string('arch'),
    variant: flags.string('variant'),
    osVersion: flags.string('os-version'),
    osFeatures: listed(flags.strings('os-features')),
    annotations: annotations(flags.strings('annotation')),
    transfer: transferOptions(flags),
  }
  const logins = await createLogins(flags, { hosts: registryHosts([image]) })
  return await withConnection(flags, async (connection) => {
    const call = connection.duplex(builderService.AnnotateManifestList)
    for await (const event of conversation(call, options, logins)) {
      if (event.case === 'done') printLine('Annotate manifest succeed')
    }
    return 0
  })
}

export async function runInspect({ flags, args }: Invocation): Promise<number> {
  const [name] = args
  if (name === undefined) throw invalid('please specify the manifest list name')
  if (args.length > 1) throw invalid('only one manifest list can be specified')
  const { document } = await withConnection(flags, (connection) =>
    connection.unary(builderService.InspectManifestList, { name }),
  )
  printLine(JSON.stringify(JSON.parse(Buffer.from(document).toString('utf8')), undefined, 4))
  return 0
}

export async function runPush({ flags, args }: Invocation): Promise<number> {
  const [list, destination] = args
  if (list === undefined || destination === undefined || args.length !== 2) {
    throw invalid('please specify the manifest list name and destination repository')
  }
  const options = {
    list,
    destination,
    format: flags.has('format') ? checkedFormat(flags.string('format')) : '',
    all: flags.bool('all'),
    purge: flags.bool('purge'),
    transfer: transferOptions(flags),
  }
  const digestFile = flags.string('digestfile')
  if (digestFile !== '') checkResultFile(digestFile, 'digest')
  const quiet = flags.bool('quiet')
  const logins = await createLogins(flags, { hosts: registryHosts([destination]) })
  return await withConnection(flags, async (connection) => {
    const call = connection.duplex(builderService.PushManifestList)
    const { pushed } = await followTransfer(call, { options, logins, quiet })
    const digest = pushed.at(-1)?.digest ?? ''
    if (digestFile !== '') writeResultFile(digestFile, digest, 'digest')
    if (quiet) printLine(digest)
    else printLine(`Push manifest list ${list} succeed`)
    return 0
  })
}

export async function runRemove({ flags, args }: Invocation): Promise<number> {
  if (args.length === 0) throw invalid('please specify the manifest list name')
  return await withConnection(flags, async (connection) => {
    for (const name of args) {
      await connection.unary(builderService.RemoveManifestList, { name })
      printLine(`Deleted manifest list: ${name}`)
    }
    return 0
  })
}

function annotations(texts: readonly string[]): ReadonlyMap<string, string> {
  return new Map(
    texts.map((text) => {
      const equals = text.indexOf('=')
      if (equals < 1) throw invalid(`invalid annotation ${JSON.stringify(text)}, expected KEY=VALUE`)
      return [text.slice(0, equals), text.slice(equals + 1)] as const
    }),
  )
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message)
}
