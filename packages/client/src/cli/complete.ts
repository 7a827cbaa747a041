import { type Command, type Flag, globalFlags } from './command.js'

export type Shell = 'bash' | 'zsh'

/** A completion script made from the tree of commands, also for `ctr-img`, short for that subcommand. */
export function completion(program: Command, shell: Shell): string {
  const start = shell === 'zsh' ? 'autoload -U compinit bashcompinit && compinit && bashcompinit\n' : ''
  return start + script(program)
}

function script(program: Command): string {
  const names: string[] = []
  const cases: string[] = []
  const walk = (command: Command, path: string, inherited: readonly Flag[]): void => {
    const flags = [...(command.flags ?? []), ...inherited].filter(({ hidden }) => hidden !== true)
    const children = (command.commands ?? []).filter(({ hidden }) => hidden !== true)
    const words = [...children.map(({ name }) => name), ...flags.map(({ name }) => `--${name}`)]
    names.push(`'${path}'`)
    cases.push(`    '${path}')
      words='${words.join(' ')}'
      values='${valueFlags(flags).join(' ')}' ;;`)
    for (const child of children) walk(child, `${path} ${child.name}`, inherited)
  }
  walk(program, program.name, globalFlags)
  const id = `_${program.name.replaceAll('-', '_')}`
  return `# completion for ${program.name} and ctr-img
${id}() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}"
  local path='${program.name}' words='' values='' word
  case "\${COMP_WORDS[0]##*/}" in ctr-img) path='${program.name} ctr-img' ;; esac
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$path $word" in ${names.slice(1).join(' | ')}) path="$path $word" ;; esac
  done
  case "$path" in
${cases.join('\n')}
  esac
  case " $values " in *" $previous "*) words='' ;; esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [ \${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$current"))
}
complete -o filenames -F ${id} ${program.name} ctr-img
`
}

/** Flags whose value is the next word. */
function valueFlags(flags: readonly Flag[]): readonly string[] {
  return flags
    .filter(({ type, bare }) => type !== 'bool' && bare === undefined)
    .flatMap(({ name, short }) => [`--${name}`, ...(short === undefined ? [] : [`-${short}`])])
}
