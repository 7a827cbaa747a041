import { basename } from 'node:path'
import { buildInfo } from '@isula-build/shared/build-info.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { suggest } from '@isula-build/shared/text/suggest.js'
import type { Command } from './cli/command.js'
import { completion, type Shell } from './cli/complete.js'
import { helpText } from './cli/help.js'
import { type Parsed, parseCommandLine, pathText } from './cli/parse.js'
import { program } from './cli/tree.js'
import { reportError } from './exit.js'
import { isAllWritten, onWriteError, printText, warnLine } from './terminal.js'
import './turn.js'

/** `ctr-img` is short for `isula-build ctr-img`. */
function argumentsOf(name: string, argv: readonly string[]): readonly string[] {
  return name === 'ctr-img' ? ['ctr-img', ...argv] : argv
}

async function dispatch(argv: readonly string[]): Promise<number> {
  const parsed = parseCommandLine(program, argv)
  const { path, command, invocation } = parsed
  const { flags, args } = invocation
  if (command.name === 'help') return print(helpText(helpPath(args)))
  if (flags.bool('help')) return print(helpText(path))
  if (command.name === 'completion') return print(completion(program, shellOf(args)))
  if (command === program && flags.bool('version')) {
    return print(`isula-build version ${buildInfo.version}, build ${buildInfo.commit}\n`)
  }
  checkLogLevel(flags.string('log-level'))
  if (command.run === undefined) return withoutCommand(parsed)
  if (command.args === 'none' && args.length > 0) {
    const name = pathText(path)
    throw new BuilderError(
      'ISB_ARGUMENT_INVALID',
      `"${name}" accepts no arguments.\nSee '${name} --help'. \n\nExample:   ${command.examples?.[0] ?? name}`,
    )
  }
  const run = await command.run()
  return await run(invocation)
}

/**
 * A group of commands shows its help; an unknown top command is an error. As the original has it, one of a group is none:
 * what is unknown is told beside the help.
 */
function withoutCommand({ path, command, invocation }: Parsed): number {
  const [unknown] = invocation.args
  if (unknown === undefined) return print(helpText(path))
  const message = `unknown command "${unknown}" for "${pathText(path)}"`
  const known = (command.commands ?? []).filter(({ hidden }) => hidden !== true)
  const meant = suggest(
    unknown,
    known.map(({ name }) => name),
  )
  const hint = meant === undefined ? undefined : `Did you mean "${meant}"?`
  if (command === program) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', message, hint === undefined ? {} : { hint })
  }
  warnLine(hint === undefined ? message : `${message}. ${hint}`)
  return print(helpText(path))
}

function shellOf([shell = 'bash', ...more]: readonly string[]): Shell {
  if (more.length === 0 && (shell === 'bash' || shell === 'zsh')) return shell
  throw new BuilderError('ISB_ARGUMENT_INVALID', 'completion takes bash or zsh')
}

function helpPath(words: readonly string[]): readonly Command[] {
  const path: Command[] = [program]
  for (const word of words) {
    const next: Command | undefined = path.at(-1)?.commands?.find(({ name }) => name === word)
    if (next === undefined) break
    path.push(next)
  }
  return path
}

function checkLogLevel(level: string): void {
  if (['debug', 'info', 'warn', 'error'].includes(level)) return
  throw new BuilderError('ISB_ARGUMENT_INVALID', `unsupported log level: ${level}`, {
    hint: 'Use debug, info, warn or error.',
  })
}

function print(text: string): number {
  printText(text)
  return 0
}

/** As after SIGPIPE, which Node.js ignores: what was asked for may be half done. */
const brokenPipe = 128 + 13

onWriteError((name, error) => {
  if (name === 'stderr') process.exit(brokenPipe)
  // A reader that has seen enough (`ctr-img images | head -1`) wants to hear nothing about it.
  if (error.code !== 'EPIPE') warnLine(`cannot write to standard output: ${error.message}`)
  process.exit(error.code === 'EPIPE' ? brokenPipe : 1)
})

/** Ends without taking the process apart, once it has heard of writes that failed and nothing waits to be written. */
function finish(code: number): void {
  process.exitCode = code
  setImmediate(() => {
    if (isAllWritten()) process.exit()
  })
}

const argv = argumentsOf(basename(process.title), process.argv.slice(2))
const trace = argv.includes('-D') || argv.includes('--debug')
dispatch(argv)
  .catch((error: unknown) => reportError(error, { trace }))
  .then(finish)
