import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { FlagReader, Invocation } from '../cli/command.js'
import { transferOptions } from '../cli/registry-flags.js'
import type { Connection } from '../connect.js'
import type { Credentials } from '../credentials/auth-file.js'
import { createPrompts, type Prompts } from '../credentials/prompts.js'
import { serverName } from '../credentials/server-name.js'
import { withConnection } from '../session.js'
import { printLine, printText } from '../terminal.js'

/** Characters; identity tokens are long. */
const limit = 64 * 1024

export async function runLogin({ flags, args }: Invocation): Promise<number> {
  const server = serverName(onlyServer(args))
  const username = flags.string('username').trim()
  const fromInput = flags.bool('password-stdin')
  if (fromInput && username === '') throw invalid('must provides --password-stdin with --username')
  if (flags.has('username') && username === '') throw invalid('username can not be empty')
  return await withConnection(flags, async (connection) => {
    if (username === '' && (await loggedInAlready(connection, flags, server))) {
      printLine('Login Succeed with AuthFile')
      return 0
    }
    const credentials = await askFor(username, fromInput)
    await login(connection, flags, { server, credentials }).catch(failed)
    printLine('Login Succeeded')
    return 0
  })
}

/** Also of `logout`. */
export function onlyServer(args: readonly string[]): string {
  const [server, ...more] = args
  if (server === undefined) throw invalid('empty registry found, please input one registry')
  if (more.length > 0) throw invalid('too many arguments, login only accepts 1 argument')
  return server
}

async function loggedInAlready(connection: Connection, flags: FlagReader, server: string): Promise<boolean> {
  printLine('try to login with existing credentials...\n')
  try {
    await login(connection, flags, { server })
    return true
  } catch (error) {
    if (!isBuilderError(error, 'ISB_REGISTRY_DENIED')) return failed(error)
    printLine('Failed to authenticate existing credentials, please input auth info directly\n')
    return false
  }
}

async function login(
  connection: Connection,
  flags: FlagReader,
  request: { readonly server: string; readonly credentials?: Credentials },
): Promise<void> {
  await connection.unary(builderService.Login, { ...request, transfer: transferOptions(flags) })
}

function failed(error: unknown): never {
  printLine('\nLogin Failed\n')
  throw error
}

async function askFor(username: string, fromInput: boolean): Promise<Credentials> {
  const prompts = createPrompts(process.stdin, fromInput ? () => undefined : printText)
  try {
    const name = username === '' ? await prompts.line('Username: ') : username
    if (name === undefined) throw invalid('could not read username from terminal')
    if (name.trim() === '') throw invalid('username can not be empty')
    const password = fromInput ? await everyLine(prompts) : await prompts.hidden('Password: ')
    if (password === undefined) throw invalid('could not read password from terminal')
    if (password === '') throw invalid('auth info can not be empty')
    if (name.length > limit || password.length > limit) throw invalid('length of input exceeded')
    return { username: name.trim(), password }
  } finally {
    await prompts.close()
  }
}

/** A password does not end with the line feed that `echo` adds. */
async function everyLine(prompts: Prompts): Promise<string> {
  let text = ''
  for (;;) {
    const line = await prompts.line('')
    if (line === undefined) return text
    text += line
  }
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message)
}
