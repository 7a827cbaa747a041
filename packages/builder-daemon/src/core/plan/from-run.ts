import type { Heredoc, RunInstruction } from '@isula-build/shared/dockerfile/instructions.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { suggest } from '@isula-build/shared/text/suggest.js'
import { located } from './expansion.js'
import { commandArgs } from './from-meta.js'
import { runText } from './history-text.js'
import type { MountSource, RunVertex } from './plan.js'
import { planMount } from './run-mounts.js'
import { expand, type Site, type StageContext, stack, vertexBase, withoutNul } from './stage-context.js'
import { workingDirectory } from './stage-state.js'

const networks = ['default', 'none', 'host'] as const
const securities = ['sandbox', 'insecure'] as const

/** Where scripts of here-documents are mounted. */
const scriptDirectory = '/run/isula-build'

/** Mounts of one RUN: the launcher, which all builds share, makes them one after the other. */
const maxMounts = 500

export function planRun(context: StageContext, instruction: RunInstruction, site: Site): void {
  const { state } = context
  const { line, scripts } = runLine(instruction)
  const { command } = instruction
  const args = commandArgs(context, command.form === 'shell' ? { form: 'shell', line } : command)
  if (args.length === 0) {
    throw new BuilderError('ISB_DOCKERFILE_SYNTAX', 'RUN has no command', {
      source: site.source,
      hint: 'Name the program to run: RUN ["program", "argument"].',
    })
  }
  if (instruction.mounts.length > maxMounts) {
    throw new BuilderError(
      'ISB_LIMIT_EXCEEDED',
      `RUN has ${instruction.mounts.length} mounts, at most ${maxMounts} are allowed`,
      { source: site.source, hint: 'Mount a directory that holds them all.' },
    )
  }
  const cwd = workingDirectory(state)
  const mounts = instruction.mounts.map((mount) =>
    located(
      () => site.at(mount),
      () =>
        planMount(mount, {
          cwd,
          expand: (word) => expand(context, word),
          origin: (name) => mountSource(context, name, site),
        }),
    ),
  )
  const env = state.variables.list(state.hidden)
  located(
    () => site.source,
    () => {
      for (const text of [...args, ...env]) withoutNul(text, 'the command or its environment')
    },
  )
  const vertex: RunVertex = {
    kind: 'run',
    ...vertexBase(context, site),
    parent: state.vertex,
    args,
    env,
    cwd,
    user: state.config.User ?? '',
    mounts,
    network: oneOf(networks, instruction.network ?? 'default', 'network mode', site),
    security: oneOf(securities, instruction.security ?? 'sandbox', 'security mode', site),
    scripts,
  }
  const declared = [...state.buildArgs].map(([key, value]) => `${key}=${state.variables.get(key) ?? value}`)
  stack(context, vertex, `${runText(args, declared)} # buildkit`)
}

interface RunLine {
  readonly line: string
  readonly scripts: RunVertex['scripts']
}

/**
 * A here-document alone is the script itself: run by the shell, or as a file when it names its
 * interpreter. With a command around it, the text goes to the shell as written.
 */
function runLine(instruction: RunInstruction): RunLine {
  const { command, heredocs } = instruction
  const line = command.form === 'shell' ? command.line : ''
  const [first] = heredocs
  if (first === undefined) return { line, scripts: [] }
  if (heredocs.length > 1 || !isAlone(line, first)) {
    const text = heredocs.map(({ content, name }) => `\n${content}${name}`).join('')
    return { line: line + text, scripts: [] }
  }
  if (!first.content.startsWith('#!')) return { line: first.content, scripts: [] }
  const name = /^(?!\.{1,2}$)[A-Za-z0-9_.-]+$/.test(first.name) ? first.name : 'script'
  const path = `${scriptDirectory}/${name}`
  return { line: path, scripts: [{ path, content: first.content }] }
}

/** `<<EOF` and nothing else, but for the number of a file descriptor. */
function isAlone(line: string, heredoc: Heredoc): boolean {
  return line.trim().replace(/^[0-9]+(?=<<)/, '') === heredoc.original.trim().replace(/^[0-9]+(?=<<)/, '')
}

function mountSource(context: StageContext, name: string, site: Site): MountSource {
  const origin = context.origin(name)
  if (origin.kind === 'context') return { kind: 'context', context: origin.context }
  return { kind: 'vertex', vertex: context.originVertex(origin, site) }
}

function oneOf<T extends string>(choices: readonly T[], value: string, what: string, site: Site): T {
  const choice = choices.find((candidate) => candidate === value)
  if (choice !== undefined) return choice
  const near = suggest(value, choices)
  throw new BuilderError('ISB_DOCKERFILE_SYNTAX', `unsupported ${what} ${JSON.stringify(value)}`, {
    source: site.at(value),
    hint: near === undefined ? `Use one of ${choices.join(', ')}.` : `Did you mean ${near}?`,
  })
}
