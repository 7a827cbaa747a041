import { argumentList } from './copy-parser.js'
import { quoted } from './go-text.js'
import { base, failure, type InstructionInput, parseFlags } from './instruction-input.js'
import type { CmdInstruction, Command, RunInstruction, ShellInstruction } from './instructions.js'
import { stringArray } from './json-array.js'
import type { Token } from './statement.js'

const networks = new Set(['default', 'none', 'host'])
const securities = new Set(['sandbox', 'insecure'])

/**
 * The exec form when `token` is a JSON array of strings; anything else that is not an array is a shell line.
 */
export function parseCommand(input: InstructionInput, token: Token): Command {
  if (stringArray(token.text) === undefined) return { form: 'shell', line: token.text }
  const exec = { ...input, statement: { ...input.statement, rest: token } }
  return { form: 'exec', args: argumentList(exec) }
}

export function parseRun(input: InstructionInput): RunInstruction {
  const flags = parseFlags(input, { mount: 'strings', network: 'string', security: 'string' })
  const { rest } = input.statement
  const command = parseCommand(input, rest)
  if (command.form === 'exec' && command.args.length === 0) {
    throw failure(input, rest, 'RUN has an empty command', { hint: 'Name a program in the JSON array.' })
  }
  const network = flags.string('network')
  if (network !== undefined && !networks.has(network)) {
    throw failure(input, flags.span('network'), `invalid network mode ${quoted(network)}`, {
      hint: 'Write --network=default, none or host.',
    })
  }
  const security = flags.string('security')
  if (security !== undefined && !securities.has(security)) {
    throw failure(input, flags.span('security'), `invalid security mode ${quoted(security)}`, {
      hint: 'Write --security=sandbox or insecure.',
    })
  }
  return {
    ...base(input),
    kind: 'run',
    command,
    heredocs: command.form === 'shell' ? input.line.heredocs : [],
    mounts: flags.strings('mount'),
    network,
    security,
  }
}

/** CMD and ENTRYPOINT; both may be empty. */
export function parseCmd(input: InstructionInput, kind: 'cmd' | 'entrypoint'): CmdInstruction {
  parseFlags(input)
  return { ...base(input), kind, command: parseCommand(input, input.statement.rest) }
}

export function parseShell(input: InstructionInput): ShellInstruction {
  parseFlags(input)
  const { keyword, rest } = input.statement
  const command = parseCommand(input, rest)
  if (command.form === 'exec' && command.args.length > 0) {
    return { ...base(input), kind: 'shell', shell: command.args }
  }
  const isEmpty = rest.text === '' || command.form === 'exec'
  throw failure(
    input,
    rest.text === '' ? keyword : rest,
    isEmpty ? 'SHELL requires at least one argument' : 'SHELL requires its arguments as a JSON array',
    { hint: 'Write SHELL ["/bin/sh", "-c"].' },
  )
}
