import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Encodable } from '@isula-build/shared/rpc/codec.js'
import type { CredentialAnswer, NeedCredentials } from '@isula-build/shared/rpc/credential-messages.js'
import type { FlagReader } from '../cli/command.js'
import { warnLine, warnText } from '../terminal.js'
import {
  type AuthFile,
  type Credentials,
  helperAt,
  hostOf,
  keysFor,
  loginAt,
  readAuthFile,
  usualAuthFiles,
} from './auth-file.js'
import { askHelper } from './credential-helper.js'
import { createPrompts } from './prompts.js'

/** What this user would log in with at a registry. */
export type Logins = (
  host: string,
  repository: string,
  /** Host in the reference that it is asked for; undefined for a mirror. */
  named?: string,
) => Promise<Login | undefined>

export interface Login extends Credentials {
  /** Named for this very command, so it comes before those of `login`. */
  readonly explicit: boolean
}

export interface LoginSources {
  /** `--creds`. */
  readonly given: Credentials | undefined
  /** Registries that `given` is for; undefined: the one that a name without any turns out to mean. */
  readonly hosts: ReadonlySet<string> | undefined
  /** `--authfile`, REGISTRY_AUTH_FILE. */
  readonly named: AuthFile | undefined
  /** Paths, wanted and read when somebody asks: who this user is may take a look at the account files. */
  readonly usual: () => readonly string[]
  readonly warn: (text: string) => void
}

/**
 * The logins that flags, environment and files of this user name. `hosts`: what the command's references name;
 * undefined when one leaves it to the daemon.
 */
export async function createLogins(
  flags: FlagReader,
  { hosts }: { readonly hosts: readonly string[] | undefined },
): Promise<Logins> {
  const environment = process.env
  const path = flags.string('authfile') || environment['REGISTRY_AUTH_FILE'] || undefined
  const named = path === undefined ? undefined : readAuthFile(path)
  // Docker and podman too begin with an empty one.
  if (flags.has('authfile') && named === undefined) {
    throw new BuilderError('ISB_PATH_NOT_FOUND', `open ${path}: no such file or directory`)
  }
  if (flags.has('creds') && hosts?.length === 0) {
    throw invalid(
      '--creds is for a registry that the command names, and it names none',
      'Registries of the Dockerfile are not meant by it: log in (isula-build login), or use --authfile.',
    )
  }
  return loginsFrom({
    given: flags.has('creds') ? await givenCredentials(flags.string('creds')) : undefined,
    hosts: hosts === undefined ? undefined : new Set(hosts.map(hostOf)),
    named,
    usual: () => (path === undefined ? usualAuthFiles(environment, process.getuid?.() ?? 0) : []),
    warn: warnLine,
  })
}

export function loginsFrom({ given, hosts, named, usual, warn }: LoginSources): Logins {
  let files: readonly AuthFile[] | undefined
  const warned = new Set<string>()
  const warnOnce = (text: string): void => {
    if (!warned.has(text)) warn(`[Warning] ${text}`)
    warned.add(text)
  }
  const readUsual = (path: string): AuthFile | undefined => {
    try {
      return readAuthFile(path)
    } catch (error) {
      if (!(error instanceof BuilderError)) throw error
      warnOnce(error.message)
      return undefined
    }
  }
  /** A file that nobody named must not stop anything. */
  const inUsual = async (file: AuthFile, keys: readonly string[]): Promise<Credentials | undefined> => {
    try {
      return await loginIn(file, keys, warnOnce)
    } catch (error) {
      if (!(error instanceof BuilderError)) throw error
      warnOnce(error.message)
      return undefined
    }
  }

  const isGivenTo = (host: string, wanted: string | undefined): boolean => {
    // `localhost` is a guess of the daemon, and anybody may listen there.
    if (hosts === undefined) return wanted !== undefined && wanted !== 'localhost'
    return hosts.has(hostOf(host)) || (wanted !== undefined && hosts.has(hostOf(wanted)))
  }

  return async (host, repository, wanted) => {
    const keys = keysFor(host, repository)
    if (given !== undefined && isGivenTo(host, wanted)) return { ...given, explicit: true }
    if (named !== undefined) {
      const login = await loginIn(named, keys, warnOnce)
      if (login !== undefined) return { ...login, explicit: true }
    }
    files ??= usual().flatMap((path) => readUsual(path) ?? [])
    for (const file of files) {
      const login = await inUsual(file, keys)
      if (login !== undefined) return { ...login, explicit: false }
    }
    if (given !== undefined) {
      warnOnce(`--creds is not sent to ${host}, which the command does not name; log in, or use --authfile`)
    }
    return undefined
  }
}

async function loginIn(
  file: AuthFile,
  keys: readonly string[],
  warn: (text: string) => void,
): Promise<Credentials | undefined> {
  for (const key of keys) {
    const helper = helperAt(file, key)
    if (helper === undefined) continue
    const login = await askHelper(helper, key)
    if (login !== undefined) return login
  }
  const host = keys.at(-1)
  if (file.store !== undefined && host !== undefined) {
    const login = await askHelper(file.store, host)
    if (login !== undefined) return login
  }
  for (const key of keys) {
    const login = loginAt(file, key)
    if (login === undefined) continue
    if (file.exposed) warn(`others can read the passwords in ${file.path}; chmod 600 it`)
    return login
  }
  return undefined
}

/** `--creds USER[:PASSWORD]`. */
async function givenCredentials(text: string): Promise<Credentials> {
  const colon = text.indexOf(':')
  const username = colon < 0 ? text : text.slice(0, colon)
  if (username === '') throw invalid('--creds has no user name, expected USER[:PASSWORD]')
  if (colon >= 0) return { username, password: text.slice(colon + 1) }
  if (process.stdin.isTTY !== true) {
    throw invalid(
      '--creds without a password needs a terminal',
      'Log in first (isula-build login), or use --authfile.',
    )
  }
  const prompts = createPrompts(process.stdin, warnText)
  try {
    const password = await prompts.hidden(`Password for ${username}: `)
    if (!password) throw invalid('auth info can not be empty')
    return { username, password }
  } finally {
    await prompts.close()
  }
}

/** Answers a question of the daemon. */
export async function answerTo(
  { question, host, repository, named }: NeedCredentials,
  logins: Logins,
): Promise<Encodable<typeof CredentialAnswer>> {
  const login = await logins(host, repository, named || undefined)
  if (login === undefined) return { question }
  const { username, password, explicit } = login
  return { question, credentials: { username, password }, explicit }
}

function invalid(message: string, hint?: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, hint === undefined ? {} : { hint })
}
