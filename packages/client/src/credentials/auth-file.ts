import { readFileSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { fileError } from '../file-error.js'

export interface Credentials {
  readonly username: string
  readonly password: string
}

/** A file with logins: Docker's config.json, containers' auth.json (containers-auth.json(5)). */
export interface AuthFile {
  readonly path: string
  /** Others than the owner may read or write it. */
  readonly exposed: boolean
  /** By `host` or `host/namespace`, as they stand there: what is wrong with one matters to whom it is for. */
  readonly logins: ReadonlyMap<string, readonly AuthEntry[]>
  /** Names of helpers by the same keys. */
  readonly helpers: ReadonlyMap<string, AuthEntry>
  /** Name of the helper that is asked for every other host. */
  readonly store: string | undefined
}

interface AuthEntry {
  /** The key as it is written. */
  readonly key: string
  readonly value: unknown
}

/** Bytes. */
const fileLimit = 1024 * 1024

/** Where logins are looked for when nobody named a file, in this order. */
export function usualAuthFiles(
  environment: Readonly<Record<string, string | undefined>>,
  uid: number,
): readonly string[] {
  const home = environment['HOME'] || homedir()
  const runtime = environment['XDG_RUNTIME_DIR']
  return [
    runtime ? join(runtime, 'containers/auth.json') : `/run/containers/${uid}/auth.json`,
    join(environment['XDG_CONFIG_HOME'] || join(home, '.config'), 'containers/auth.json'),
    join(environment['DOCKER_CONFIG'] || join(home, '.docker'), 'config.json'),
  ]
}

/**
 * undefined when there is no such file. Fails with ISB_PERMISSION_DENIED and, for one that is no regular file or does
 * not hold what it should, ISB_ARGUMENT_INVALID.
 */
export function readAuthFile(path: string): AuthFile | undefined {
  let text: string
  let exposed: boolean
  try {
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat === undefined) return undefined
    if (!stat.isFile()) throw invalid(path, 'it is not a regular file')
    if (stat.size > fileLimit) throw invalid(path, 'it is larger than 1 MiB')
    exposed = (stat.mode & 0o066) !== 0
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw fileError(error, path, 'cannot read logins: ')
  }
  const document = text.trim() === '' ? {} : parseJson(path, text)
  const logins = new Map<string, AuthEntry[]>()
  for (const [key, value] of Object.entries(recordOf(path, document, 'auths'))) {
    logins.set(keyOf(key), [...(logins.get(keyOf(key)) ?? []), { key, value }])
  }
  const helpers = new Map<string, AuthEntry>()
  for (const [key, value] of Object.entries(recordOf(path, document, 'credHelpers'))) {
    helpers.set(keyOf(key), { key, value })
  }
  const store = document['credsStore']
  if (store !== undefined && typeof store !== 'string') throw invalid(path, 'credsStore is no text')
  return { path, exposed, logins, helpers, store: store || undefined }
}

/** Of several spellings of a key the first one with a login counts. Fails with ISB_ARGUMENT_INVALID. */
export function loginAt({ path, logins }: AuthFile, wanted: string): Credentials | undefined {
  for (const { key, value } of logins.get(wanted) ?? []) {
    const login = loginOf(path, key, value)
    if (login !== undefined) return login
  }
  return undefined
}

/** The name of a helper. Fails with ISB_ARGUMENT_INVALID. */
export function helperAt({ path, helpers }: AuthFile, wanted: string): string | undefined {
  const entry = helpers.get(wanted)
  if (entry === undefined) return undefined
  if (typeof entry.value === 'string') return entry.value
  throw invalid(path, `credHelpers of ${JSON.stringify(entry.key)} is no text`)
}

type Json = Readonly<Record<string, unknown>>

function parseJson(path: string, text: string): Json {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // The parser's message quotes the text, and with it the secrets.
    throw invalid(path, 'it is not JSON')
  }
  if (!isRecord(value)) throw invalid(path, 'it is no JSON object')
  return value
}

function recordOf(path: string, document: Json, key: string): Json {
  const value = document[key] ?? {}
  if (!isRecord(value)) throw invalid(path, `${key} is no object`)
  return value
}

function isRecord(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** undefined for an entry that only says that a helper has it. */
function loginOf(path: string, key: string, entry: unknown): Credentials | undefined {
  const shown = `the entry ${JSON.stringify(key)}`
  if (!isRecord(entry)) throw invalid(path, `${shown} is no object`)
  const { auth, identitytoken: token, username, password } = entry
  if (typeof token === 'string' && token !== '') return { username: '<token>', password: token }
  if (typeof auth === 'string' && auth !== '') {
    const text = Buffer.from(auth, 'base64').toString('utf8')
    const colon = text.indexOf(':')
    if (colon < 1) throw invalid(path, `${shown} holds no user name and password in base64`)
    return { username: text.slice(0, colon), password: text.slice(colon + 1).replace(/\0+$/, '') }
  }
  if (typeof username === 'string' && typeof password === 'string' && username !== '') {
    return { username, password }
  }
  return undefined
}

const dockerHosts = new Set(['docker.io', 'index.docker.io', 'registry-1.docker.io'])

/** The same form for all spellings of a key: `https://index.docker.io/v1/` is `docker.io`. */
function keyOf(text: string): string {
  const url = /^[a-z][a-z0-9+.-]*:\/\/(.*)$/i.exec(text)
  const [host = '', ...path] = (url?.[1] ?? text).split('/')
  const name = hostOf(host)
  const namespace = path.filter((part) => part !== '')
  const isApi = namespace.length === 1 && /^v[12]$/.test(namespace[0] ?? '')
  return url !== null || isApi ? name : [name, ...namespace].join('/')
}

export function hostOf(host: string): string {
  const lower = host.toLowerCase()
  return dockerHosts.has(lower) ? 'docker.io' : lower
}

/** Keys under which a login for the repository may be kept, the most specific one first. */
export function keysFor(host: string, repository: string): readonly string[] {
  const parts = repository.split('/').filter((part) => part !== '')
  return Array.from({ length: parts.length + 1 }, (_, index) =>
    [hostOf(host), ...parts.slice(0, parts.length - index)].join('/'),
  )
}

function invalid(path: string, reason: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', `cannot read logins from ${path}: ${reason}`)
}
