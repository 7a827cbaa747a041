import * as posix from 'node:path/posix'
import type {
  ArgInstruction,
  Command,
  HealthcheckInstruction,
  Instruction,
  KeyValue,
} from '@isula-build/shared/dockerfile/instructions.js'
import { parsePortRange } from '@isula-build/shared/dockerfile/ports.js'
import { isSignal } from '@isula-build/shared/dockerfile/signals.js'
import type { SourceRange } from '@isula-build/shared/dockerfile/source.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bytesOfText, rootedPath } from '@isula-build/shared/oci/byte-path.js'
import type { Healthcheck } from '@isula-build/shared/oci/image-config.js'
import type { ConfigChange } from '../image/mutate.js'
import { usesOf } from './definition.js'
import { located } from './expansion.js'
import { healthcheckText, plainList, quotedList } from './history-text.js'
import { isProxyVariable } from './options.js'
import { expand, type Site, type StageContext, stack, vertexBase, withoutNul } from './stage-context.js'
import { addHistory, changeConfig, workingDirectory } from './stage-state.js'

type MetaInstruction = Exclude<Instruction, { kind: 'run' | 'copy' | 'add' }>

/** What an instruction does to the config and says in the history; ONBUILD says nothing there. */
interface Effect {
  readonly change?: ConfigChange
  readonly text?: string
}

/** Instructions that change the config; WORKDIR makes a directory too. */
export function planMeta(context: StageContext, instruction: MetaInstruction, site: Site): void {
  if (instruction.kind === 'workdir') {
    planWorkdir(context, expandAt(context, instruction.path, site), site)
    return
  }
  const { change, text } = metaEffect(context, instruction, site)
  if (change !== undefined) changeConfig(context.state, change)
  if (text !== undefined) addHistory(context.state, text)
}

function metaEffect(
  context: StageContext,
  instruction: Exclude<MetaInstruction, { kind: 'workdir' }>,
  site: Site,
): Effect {
  const { state } = context
  switch (instruction.kind) {
    case 'arg':
      return { text: declareArguments(context, instruction, site) }
    case 'env':
      return envEffect(context, instruction.pairs, site)
    case 'label': {
      const pairs = expandPairs(context, instruction.pairs, site)
      return { change: { kind: 'label', pairs }, text: pairsText('LABEL', pairs) }
    }
    case 'maintainer':
      state.author = instruction.name
      return { text: `MAINTAINER ${instruction.name}` }
    case 'user': {
      const user = located(
        () => site.source,
        () => withoutNul(expandAt(context, instruction.user, site), 'the user'),
      )
      return { change: { kind: 'user', user }, text: `USER ${user}` }
    }
    case 'cmd': {
      const args = commandArgs(context, instruction.command)
      state.ownCmd = true
      return { change: { kind: 'cmd', args }, text: `CMD ${quotedList(args)}` }
    }
    case 'entrypoint': {
      const args = commandArgs(context, instruction.command)
      const change = { kind: 'entrypoint', args, resetsCmd: !state.ownCmd } as const
      return { change, text: `ENTRYPOINT ${quotedList(args)}` }
    }
    case 'expose':
      return exposeEffect(context, instruction.ports, site)
    case 'volume':
      return volumeEffect(context, instruction.paths, site)
    case 'stopsignal':
      return stopsignalEffect(context, instruction.signal, site)
    case 'shell':
      return {
        change: { kind: 'shell', shell: instruction.shell },
        text: `SHELL ${plainList(instruction.shell)}`,
      }
    case 'healthcheck': {
      const healthcheck = healthcheckConfig(instruction)
      return {
        change: { kind: 'healthcheck', healthcheck },
        text: `HEALTHCHECK ${healthcheckText(healthcheck)}`,
      }
    }
    case 'onbuild':
      return { change: { kind: 'onbuild', expressions: [instruction.expression] } }
  }
}

/** What is executed: the shell form goes through SHELL. */
export function commandArgs(context: StageContext, command: Command): readonly string[] {
  if (command.form === 'exec') return command.args
  const shell = context.state.config.Shell ?? []
  return [...(shell.length > 0 ? shell : ['/bin/sh', '-c']), command.line]
}

function expandAt(context: StageContext, word: string, site: Site): string {
  return located(
    () => site.at(word),
    () => expand(context, word),
  )
}

function expandPairs(
  context: StageContext,
  pairs: readonly KeyValue[],
  site: Site,
): readonly (readonly [string, string])[] {
  return pairs.map(({ key, value }) => [
    located(
      () => site.source,
      () => expand(context, key),
    ),
    expandAt(context, value, site),
  ])
}

function pairsText(name: string, pairs: readonly (readonly [string, string])[]): string {
  return [name, ...pairs.map(([key, value]) => `${key}=${value}`)].join(' ')
}

function envEffect(context: StageContext, written: readonly KeyValue[], site: Site): Effect {
  const { state } = context
  // Values of one ENV see what was set before the instruction, not each other.
  const pairs = expandPairs(context, written, site)
  const uses = usesOf(state)
  for (const [key, value] of pairs) {
    if (key === '') {
      throw new BuilderError('ISB_DOCKERFILE_SYNTAX', 'the name of a variable expands to nothing', {
        source: site.source,
      })
    }
    state.variables.set(key, value)
    state.argumentsOf.set(key, uses)
    state.ownEnv.add(key)
    state.hidden.delete(key)
  }
  return { change: { kind: 'env', pairs }, text: pairsText('ENV', pairs) }
}

/** Sets the variables and gives the text for the history; build args win over defaults, and defaults over FROM's. */
function declareArguments(context: StageContext, instruction: ArgInstruction, site: Site): string {
  const { state, buildArgs, globals } = context
  const shown = instruction.args.map(({ key, value: written }) => {
    const given = buildArgs.get(key)
    const value = given ?? (written === undefined ? globals.get(key) : expandAt(context, written, site))
    const isHidden = given !== undefined && isProxyVariable(key)
    if (value !== undefined) state.variables.set(key, value)
    if (!isHidden) {
      state.argumentsOf.set(key, [{ name: key, value: value ?? '' }, ...usesOf(state)])
      state.variables.reads.add(key)
    }
    if (isHidden) {
      state.hidden.add(key)
      return key
    }
    state.hidden.delete(key)
    state.buildArgs.set(key, value ?? '')
    return value === undefined ? key : `${key}=${value}`
  })
  return `ARG ${shown.join(' ')}`
}

function planWorkdir(context: StageContext, written: string, site: Site): void {
  const { state } = context
  const current = workingDirectory(state)
  withoutNul(written, 'the working directory')
  // An absolute path stays as written, as the config of other builders has it.
  const path = written.startsWith('/') ? written : written === '' ? current : posix.join(current, written)
  changeConfig(state, { kind: 'workdir', path })
  const directory = rootedPath(bytesOfText(path))
  if (directory === '') {
    addHistory(state, `WORKDIR ${path}`)
    return
  }
  const vertex = {
    kind: 'workdir',
    ...vertexBase(context, site),
    parent: state.vertex,
    path: directory,
    user: state.config.User ?? '',
  } as const
  stack(context, vertex, `WORKDIR ${path}`)
}

/** Ports of one EXPOSE: all of one protocol. */
const maxPorts = 65_536

function exposeEffect(context: StageContext, written: readonly string[], site: Site): Effect {
  const ports: string[] = []
  for (const word of written) {
    const source = (): SourceRange => site.at(word)
    const ranges = located(source, () =>
      context.expander.words(word, context.state.variables).map(parsePortRange),
    )
    for (const { first, last, protocol } of ranges) {
      if (ports.length + last - first >= maxPorts) throw tooManyPorts(source())
      for (let port = first; port <= last; port++) ports.push(`${port}/${protocol}`)
    }
  }
  return { change: { kind: 'expose', ports }, text: `EXPOSE ${plainList(ports)}` }
}

function tooManyPorts(source: SourceRange): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', `EXPOSE has more than ${maxPorts} ports`, {
    source,
    hint: 'EXPOSE only tells what listens; name the ports that matter.',
  })
}

function volumeEffect(context: StageContext, written: readonly string[], site: Site): Effect {
  const paths = written.map((word) => expandAt(context, word, site))
  if (paths.includes('')) {
    throw new BuilderError('ISB_DOCKERFILE_SYNTAX', 'VOLUME has an empty path', {
      source: site.source,
      hint: 'Name the directory; a variable in it may be unset.',
    })
  }
  return { change: { kind: 'volume', paths }, text: `VOLUME ${plainList(paths)}` }
}

function stopsignalEffect(context: StageContext, written: string, site: Site): Effect {
  const signal = expandAt(context, written, site)
  if (!isSignal(signal)) {
    throw new BuilderError(
      'ISB_DOCKERFILE_SYNTAX',
      `invalid signal ${JSON.stringify(signal)} for STOPSIGNAL`,
      {
        source: site.at(written),
        hint: 'Use a name like SIGTERM or a number from 1 to 64.',
      },
    )
  }
  return { change: { kind: 'stopsignal', signal }, text: `STOPSIGNAL ${signal}` }
}

function healthcheckConfig(instruction: HealthcheckInstruction): Healthcheck {
  const { test, interval, timeout, startPeriod, startInterval, retries } = instruction
  if (test.none) return { Test: ['NONE'] }
  const { command } = test
  const Test = command.form === 'exec' ? ['CMD', ...command.args] : ['CMD-SHELL', command.line]
  return {
    Test,
    ...(interval ? { Interval: interval } : {}),
    ...(timeout ? { Timeout: timeout } : {}),
    ...(startPeriod ? { StartPeriod: startPeriod } : {}),
    ...(startInterval ? { StartInterval: startInterval } : {}),
    ...(retries ? { Retries: retries } : {}),
  }
}
