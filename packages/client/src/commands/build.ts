import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { BuildOptionsMessage } from '@isula-build/shared/rpc/build-messages.js'
import { timestampFromMillis } from '@isula-build/shared/rpc/well-known.js'
import { agentSocket } from '../build/agents.js'
import { buildError, keyValues, readSecret, staticTime, variableOf } from '../build/build-inputs.js'
import { cacheOptions } from '../build/cache-options.js'
import {
  createExplanation,
  type ExplainedResult,
  explanationJson,
  explanationTable,
} from '../build/explanation.js'
import { followBuild, type LocalContext } from '../build/follow.js'
import { checkIdFile, writeIdFile } from '../build/id-file.js'
import { namedContexts, readInputs } from '../build/inputs.js'
import { planOutputs } from '../build/outputs.js'
import { plainProgress, quietProgress } from '../build/plain-progress.js'
import { explainedFormat } from '../cli/choices.js'
import type { FlagReader, Invocation } from '../cli/command.js'
import { listed, pullPolicy, transferOptions } from '../cli/registry-flags.js'
import { createLogins } from '../credentials/logins.js'
import { registryHosts } from '../credentials/server-name.js'
import { withConnection } from '../session.js'
import { printBytes, printLine, warnBytes, warnLine } from '../terminal.js'

/** Named here, so that the daemon's audit log says with the request which build it is; nothing rests on it as a secret. */
function createBuildId(): string {
  return Math.floor(Math.random() * 2 ** 48)
    .toString(16)
    .padStart(12, '0')
}

export async function runBuild({ flags, args }: Invocation): Promise<number> {
  const given = commonOptions(flags)
  const outputs = planOutputs(flags.strings('output'), {
    tags: given.options.tags,
    environment: process.env,
  })
  const streams = outputs.usesStdout
  const iidfile = flags.string('iidfile')
  if (iidfile !== '') checkIdFile(iidfile)
  const quiet = flags.bool('quiet')
  const { explain } = given
  if (explain === 'json' && streams) {
    throw buildError('an output and the explanation as JSON cannot both go to standard output')
  }
  if (args.length > 1 && !quiet) warnLine(`only the first context is used, not ${args.slice(1).join(' ')}`)
  const agents = agentsOf(flags.strings('ssh'))
  const common = {
    ...given.options,
    tags: [...given.options.tags, ...outputs.tags],
    outputs: outputs.messages,
    // What is explained has to be told.
    quiet: quiet && explain === undefined,
    sshAgents: [...agents.keys()],
  }
  const named = namedContexts(flags.strings('build-context'))
  const logins = await createLogins(flags, { hosts: namedHosts(common, named) })
  const inputs = await readInputs(flags.string('filename'), args[0] ?? '', () => process.stdin)
  try {
    const options: BuildOptionsMessage = {
      ...common,
      buildId: createBuildId(),
      dockerfile: inputs.dockerfile,
      ignoreFile: inputs.ignoreFile,
      context: inputs.context.source,
      namedContexts: new Map([...named].map(([name, { source }]) => [name, source])),
    }
    const contexts = new Map<string, LocalContext>([...named, ['', inputs.context]])
    // Standard output belongs to the archive, or to the JSON, when one goes there.
    const isTaken = streams || explain === 'json'
    const explanation = createExplanation(
      quiet ? quietProgress : plainProgress(isTaken ? warnBytes : printBytes),
    )
    const report = (result: ExplainedResult): void => {
      if (explain === 'json') printLine(explanationJson(explanation.steps(), result))
      if (explain !== 'text') return
      for (const line of explanationTable(explanation.steps()))
        (quiet || streams ? warnLine : printLine)(line)
    }
    const { view } = explanation
    const { imageId, names } = await withConnection(flags, (connection) =>
      followBuild(connection, { options, contexts, agents, logins, sinks: outputs.sinks, view }),
    ).catch((error: unknown) => {
      report({ image: null, names: [], error: explainedError(error) })
      throw quiet ? error : withoutLog(error)
    })
    if (iidfile !== '') writeIdFile(iidfile, imageId)
    report({ image: imageId, names, error: null })
    if (streams) return 0
    const tell = isTaken ? warnLine : printLine
    if (quiet) {
      if (!isTaken) printLine(imageId)
    } else if (iidfile !== '') tell(`Write image ID [${imageId}] to file: ${iidfile}`)
    else tell(`Build success with image id: ${imageId}`)
    return 0
  } finally {
    await inputs.dispose()
  }
}

/**
 * Registries on the command line, for `--creds`. Those that the Dockerfile names were chosen by whoever wrote it, who
 * need not be the one that builds.
 */
function namedHosts(
  { tags, outputs }: Pick<BuildOptionsMessage, 'tags' | 'outputs'>,
  contexts: ReadonlyMap<string, LocalContext>,
): readonly string[] {
  const pushed = outputs.map(({ destination }) =>
    destination?.case === 'reference' ? destination.value : '',
  )
  const images = [...contexts.values()].map(({ source: { source } }) =>
    source?.case === 'image' ? source.value : '',
  )
  return [...tags, ...pushed, ...images].flatMap((reference) => registryHosts([reference]) ?? [])
}

function explainedError(error: unknown): ExplainedResult['error'] {
  if (isBuilderError(error)) return { code: error.code, message: error.message }
  return { code: 'ISB_INTERNAL', message: error instanceof Error ? error.message : String(error) }
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
  const { format, explain } = explainedFormat(flags, environment)
  const options = {
    buildArgs: keyValues(flags.strings('build-arg'), (key) => variableOf(environment, key)),
    labels: keyValues(flags.strings('label'), () => ''),
    env: keyValues(flags.strings('env'), (key) => variableOf(environment, key)),
    target: flags.string('target'),
    tags: flags.strings('tag'),
    noCache: flags.bool('no-cache'),
    noCacheFilter: listed(flags.strings('no-cache-filter')),
    pull: pullPolicy(flags.string('pull'), 'pull'),
    transfer: transferOptions(flags),
    platforms: listed(flags.strings('platform')),
    capAdd,
    proxy: flags.bool('proxy'),
    format,
    layers: flags.string('layers'),
    network: flags.string('network'),
    isolation: flags.string('isolation'),
    buildTime: time === undefined ? undefined : timestampFromMillis(time),
    secrets: flags.strings('secret').map((text) => readSecret(text, environment)),
    cache: cacheOptions(flags),
  }
  return { options, explain }
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
