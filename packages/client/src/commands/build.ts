import { randomBytes } from 'node:crypto'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { BuildOptionsMessage } from '@isula-build/shared/rpc/build-messages.js'
import { timestampFromMillis } from '@isula-build/shared/rpc/well-known.js'
import { parseOutputSpec } from '@isula-build/shared/text/output-spec.js'
import { agentSocket } from '../build/agents.js'
import { buildError, buildErrorPrefix, keyValues, readSecret, staticTime } from '../build/build-inputs.js'
import { followBuild, type LocalContext } from '../build/follow.js'
import { checkIdFile, writeIdFile } from '../build/id-file.js'
import { namedContexts, readInputs } from '../build/inputs.js'
import { plainProgress, quietProgress } from '../build/plain-progress.js'
import { imageFormat } from '../cli/choices.js'
import type { FlagReader, Invocation } from '../cli/command.js'
import { withConnection } from '../session.js'
import { printBytes, printLine, warnBytes, warnLine } from '../terminal.js'
import { fileDestination } from './save.js'

export async function runBuild({ flags, args }: Invocation): Promise<number> {
  const outputs = outputsOf(flags.strings('output'))
  const streams = outputs.some(({ destination }) => destination.case === 'stream')
  const iidfile = flags.string('iidfile')
  if (iidfile !== '') checkIdFile(iidfile)
  const quiet = flags.bool('quiet')
  if (args.length > 1 && !quiet) warnLine(`only the first context is used, not ${args.slice(1).join(' ')}`)
  const agents = agentsOf(flags.strings('ssh'))
  const common = { ...commonOptions(flags), outputs, quiet, sshAgents: [...agents.keys()] }
  const named = namedContexts(flags.strings('build-context'))
  const inputs = await readInputs(flags.string('filename'), args[0] ?? '', process.stdin)
  try {
    const options: BuildOptionsMessage = {
      ...common,
      buildId: randomBytes(32).toString('hex').slice(0, 12),
      dockerfile: inputs.dockerfile,
      ignoreFile: inputs.ignoreFile,
      context: inputs.context.source,
      namedContexts: new Map([...named].map(([name, { source }]) => [name, source])),
    }
    const contexts = new Map<string, LocalContext>([...named, ['', inputs.context]])
    // Standard output belongs to the archive when one goes there.
    const view = quiet ? quietProgress : plainProgress(streams ? warnBytes : printBytes)
    const { imageId } = await withConnection(flags, (connection) =>
      followBuild(connection, { options, contexts, agents, view }),
    ).catch((error: unknown) => {
      throw quiet ? error : withoutLog(error)
    })
    if (iidfile !== '') writeIdFile(iidfile, imageId)
    if (streams) return 0
    if (quiet) printLine(imageId)
    else if (iidfile !== '') printLine(`Write image ID [${imageId}] to file: ${iidfile}`)
    else printLine(`Build success with image id: ${imageId}`)
    return 0
  } finally {
    await inputs.dispose()
  }
}

/** What a RUN has written was shown while it ran. */
function withoutLog(error: unknown): unknown {
  if (!isBuilderError(error)) return error
  const { logTail: _, ...details } = error.details
  return new BuilderError(error.code, error.message, details)
}

function commonOptions(flags: FlagReader) {
  const environment = process.env
  const time = staticTime(flags.strings('build-static'))
  const capAdd = flags.strings('cap-add').flatMap((text) => text.split(','))
  for (const name of capAdd) {
    if (!/^CAP_[A-Z_]+$/.test(name)) throw new BuilderError('ISB_ARGUMENT_INVALID', `cap ${name} is invalid`)
  }
  return {
    buildArgs: keyValues(flags.strings('build-arg'), (key) => environment[key]),
    labels: keyValues(flags.strings('label'), () => ''),
    env: keyValues(flags.strings('env'), (key) => environment[key]),
    target: flags.string('target'),
    tags: flags.strings('tag'),
    noCache: flags.bool('no-cache'),
    platform: flags.string('platform'),
    capAdd,
    proxy: flags.bool('proxy'),
    format: imageFormat(flags, environment),
    layers: flags.string('layers'),
    network: flags.string('network'),
    isolation: flags.string('isolation'),
    buildTime: time === undefined ? undefined : timestampFromMillis(time),
    secrets: flags.strings('secret').map((text) => readSecret(text, environment)),
    cache: { from: flags.strings('cache-from'), to: flags.strings('cache-to') },
  }
}

function agentsOf(texts: readonly string[]): ReadonlyMap<string, string> {
  const agents = new Map<string, string>()
  for (const text of texts) {
    const { id, socket } = agentSocket(text, process.env)
    if (agents.has(id)) throw buildError(`ssh agent ${JSON.stringify(id)} is given twice`)
    agents.set(id, socket)
  }
  return agents
}

function outputsOf(texts: readonly string[]) {
  try {
    const specs = texts.map(parseOutputSpec)
    const outputs = specs.map(({ kind, path, name }) => ({
      type: kind,
      destination: fileDestination(path),
      name: name ?? '',
    }))
    const places = outputs.map(({ destination }) =>
      destination.case === 'file' ? destination.value.path : '-',
    )
    const twice = places.find((place, i) => places.indexOf(place) !== i)
    if (twice === '-')
      throw new BuilderError('ISB_ARGUMENT_INVALID', 'only one output can go to standard output')
    if (twice !== undefined) {
      throw new BuilderError(
        'ISB_ARGUMENT_INVALID',
        `two outputs go to the same file ${JSON.stringify(twice)}`,
      )
    }
    return outputs
  } catch (error) {
    if (!isBuilderError(error)) throw error
    throw new BuilderError(error.code, `${buildErrorPrefix}${error.message}`, error.details)
  }
}
