import { type Command, type Flag, globalFlags } from './command.js'
import { pathText } from './parse.js'

/** Help in the layout of the original's (cobra's): usage, examples, commands, flags. */
export function helpText(path: readonly Command[]): string {
  const command = path.at(-1)
  if (command === undefined) throw new Error('no command')
  const name = pathText(path)
  const visible = (command.commands ?? []).filter(({ hidden }) => hidden !== true)
  const usage = command.commands === undefined ? ` ${command.usage ?? '[flags]'}` : ' [command]'
  const sections = [
    command.summary,
    `Usage:\n  ${name}${usage}`,
    ...(command.examples === undefined
      ? []
      : [`Examples:\n${command.examples.map((line) => `  ${line}`).join('\n')}`]),
    ...(visible.length === 0 ? [] : [`Available Commands:\n${commandTable(visible)}`]),
    ...((command.flags ?? []).length === 0 ? [] : [`Flags:\n${flagTable(command.flags ?? [])}`]),
    `Global Flags:\n${flagTable(globalFlags)}`,
    ...(visible.length === 0 ? [] : [`Use "${name} [command] --help" for more information about a command.`]),
  ]
  return `${sections.join('\n\n')}\n`
}

function commandTable(commands: readonly Command[]): string {
  const width = Math.max(...commands.map(({ name }) => name.length))
  return commands.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`).join('\n')
}

function flagTable(flags: readonly Flag[]): string {
  const rows = flags
    .filter(({ hidden }) => hidden !== true)
    .map((flag) => ({ left: leftOf(flag), right: flag.help + defaultOf(flag) }))
  const width = Math.max(...rows.map(({ left }) => left.length))
  return rows.map(({ left, right }) => `${left.padEnd(width)}   ${right}`).join('\n')
}

function leftOf(flag: Flag): string {
  const kind = flag.placeholder ?? (flag.type === 'strings' ? 'strings' : 'string')
  const value = flag.type === 'bool' ? '' : flag.bare === undefined ? ` ${kind}` : `[=${kind}]`
  return `  ${flag.short === undefined ? '   ' : `-${flag.short},`} --${flag.name}${value}`
}

function defaultOf({ default: value }: Flag): string {
  if (value === undefined || value === '' || value === false) return ''
  return ` (default ${typeof value === 'string' ? JSON.stringify(value) : String(value)})`
}
