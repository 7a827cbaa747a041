import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import type { Command } from './command.js'
import { completion } from './complete.js'
import { helpText } from './help.js'
import { program } from './tree.js'

function pathTo(...words: readonly string[]): readonly Command[] {
  const path = [program]
  for (const word of words) {
    const next: Command | undefined = path.at(-1)?.commands?.find(({ name }) => name === word)
    if (next === undefined) throw new Error(`no command ${word}`)
    path.push(next)
  }
  return path
}

test('help has usage, examples, flags and global flags, in this order', () => {
  expect(helpText(pathTo('info'))).toBe(`Show isula-build system information

Usage:
  isula-build info [FLAGS]

Examples:
  isula-build info -H

Flags:
  -H, --human-readable   Print memory info in human readable format
  -V, --verbose          Print runtime memory info

Global Flags:
  -D, --debug              Open debug mode
      --host string        Socket of the daemon (default "unix:///var/run/isula_build.sock"; env ISULABUILD_HOST)
      --log-level string   Log level to be used. Either "debug", "info", "warn" or "error" (default "error")
      --timeout duration   Timeout for connecting to builder (default "20s")
  -h, --help               Help for this command
`)
})

test('help of a group lists its commands, aligned, and not the hidden ones', () => {
  const text = helpText(pathTo())
  expect(text).toContain(`Available Commands:
  ctr-img   Container image operations
  help      Help about any command
  info      Show isula-build system information
  login     Login to an image registry
  logout    Logout from an image registry
  manifest  Manipulate manifest lists
  version   Show the isula-build version information
`)
  expect(text).not.toContain('completion')
  expect(helpText(pathTo('ctr-img'))).toContain('Use "isula-build ctr-img [command] --help"')
})

test('help of build shows defaults and hides what is hidden', () => {
  const text = helpText(pathTo('ctr-img', 'build'))
  expect(text).toContain('isula-build ctr-img build [FLAGS] PATH')
  expect(text).toMatch(/^ {2}-f, --filename string +Path for Dockerfile/m)
  expect(text).toMatch(/^ {6}--proxy +Inherit proxy environment variables from host \(default true\)$/m)
  expect(text).toMatch(/^ {6}--format string +.*\(default "docker"\)$/m)
  expect(text).toMatch(/^ {6}--pull\[=policy\] +.*\(default "missing"\)$/m)
  expect(text).toMatch(/^ {6}--explain\[=format\] /m)
})

/** What bash offers for a line whose last word is being typed. */
function complete(shell: 'bash' | 'zsh', ...words: readonly string[]): readonly string[] {
  const { stdout, stderr, status } = spawnSync(
    'bash',
    [
      '-c',
      `${completion(program, shell).replace(/^autoload.*$/gm, '')}
COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); cd /
"$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')"; printf '%s\\n' "\${COMPREPLY[@]}"`,
      'bash',
      ...words,
    ],
    { encoding: 'utf8' },
  )
  expect(stderr).toBe('')
  expect(status).toBe(0)
  return stdout.trim().split('\n')
}

test.each(['bash', 'zsh'] as const)(
  'the %s script offers commands and flags where they can stand',
  (shell) => {
    expect(complete(shell, 'isula-build', '')).toEqual(expect.arrayContaining(['ctr-img', 'info', '--host']))
    expect(complete(shell, 'isula-build', 'ctr-img', 'i')).toEqual(['images', 'import'])
    expect(complete(shell, 'isula-build', 'ctr-img', 'build', '-t', 'x', '.', '--no')).toEqual([
      ...['--no-cache', '--no-cache-filter'],
    ])
    expect(complete(shell, 'ctr-img', 'sa')).toEqual(['save'])
    expect(complete(shell, 'ctr-img', 'build', '--cache')).toEqual(['--cache-from', '--cache-to'])
  },
)

test('the value of a flag is completed with files', () => {
  expect(complete('bash', 'ctr-img', 'build', '-f', 'et')).toEqual(['etc'])
  expect(complete('bash', 'ctr-img', 'load', '--input', 'et')).toEqual(['etc'])
})
