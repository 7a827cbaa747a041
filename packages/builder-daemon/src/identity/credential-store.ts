import { chmod, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { CredentialStore } from '../ports/credential-store.js'
import type { Credentials } from '../ports/registry.js'
import { type CredentialFile, readCredentialFile, writeCredentialFile } from './credential-file.js'
import { type CredentialHelpers, createCredentialHelpers } from './credential-helper.js'
import { hostKeys, keysFor, sameKey } from './credential-keys.js'

export interface CredentialStoreOptions {
  /** root's logins: `<config directory>/auth.json`. */
  readonly rootFile: string
  /** Everybody else's, made 0700: `<data root>/auth`. */
  readonly directory: string
  /** Where helpers of root's file are looked for. */
  readonly helperPath?: readonly string[]
  /** Milliseconds that a helper may take. */
  readonly helperTime?: number
}

const defaultHelperPath = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']
/** User name that says: the password is an identity token. */
const tokenUser = '<token>'

/** Logins of users in files; changes of one file happen one after the other. See CredentialStore. */
export function createCredentialStore(options: CredentialStoreOptions): CredentialStore {
  const { rootFile, directory, helperPath = defaultHelperPath, helperTime = 30_000 } = options
  const helpers = createCredentialHelpers(helperPath, helperTime)
  const queues = new Map<number, Promise<unknown>>()

  const read = async (uid: number): Promise<CredentialFile> => {
    const file = await readCredentialFile(path(uid))
    // Programs would run as root for a user who wrote their names.
    return uid === 0 ? file : { ...file, helpers: Object.create(null), store: undefined }
  }
  const path = (uid: number): string => (uid === 0 ? rootFile : join(directory, `${uid}.json`))

  function change<T>(uid: number, work: (file: CredentialFile) => Promise<T>): Promise<T> {
    const turn = (queues.get(uid) ?? Promise.resolve()).then(async () => {
      if (uid !== 0) await makeDirectory(directory)
      return await work(await read(uid))
    })
    const settled = turn
      .catch(() => undefined)
      .then(() => {
        if (queues.get(uid) === settled) queues.delete(uid)
      })
    queues.set(uid, settled)
    return turn
  }

  return {
    async get(uid, host, repository) {
      return await find(await read(uid), helpers, host, repository, path(uid))
    },
    set: (uid, key, credentials) =>
      change(uid, async (file) => {
        const helper = helperFor(file, key)
        const kept = without(file.auths, key)
        if (helper !== undefined) await helpers.store(helper.name, helper.server, credentials)
        // Docker leaves an empty entry for what its store keeps.
        const entry = helper === undefined ? encode(credentials) : {}
        await writeCredentialFile(path(uid), file, { ...kept, [key]: entry })
      }),
    remove: (uid, key) =>
      change(uid, async (file) => {
        const helper = helperFor(file, key)
        const erased = helper === undefined ? false : await helpers.erase(helper.name, helper.server)
        const kept = without(file.auths, key)
        const listed = Object.keys(kept).length < Object.keys(file.auths).length
        if (listed) await writeCredentialFile(path(uid), file, kept)
        return listed || erased
      }),
    removeAll: (uid) =>
      change(uid, async (file) => {
        const servers = new Set([...Object.keys(file.auths), ...Object.keys(file.helpers)])
        for (const server of servers) {
          const helper = helperFor(file, server)
          if (helper !== undefined) await helpers.erase(helper.name, helper.server)
        }
        if (Object.keys(file.auths).length > 0) await writeCredentialFile(path(uid), file, {})
      }),
  }
}

async function makeDirectory(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  // It may be older than this rule.
  await chmod(directory, 0o700)
}

/** The helper of exactly this host, else the store; `server` as the helper knows it. */
function helperFor(file: CredentialFile, key: string): { name: string; server: string } | undefined {
  for (const spelled of hostKeys(key)) {
    const name = file.helpers[spelled]
    if (name !== undefined) return { name, server: spelled }
  }
  if (file.store === undefined) return undefined
  const [usual = key] = hostKeys(key)
  // Docker Hub has one name there, other registries the one they were logged in to by.
  const listed = usual === key ? Object.keys(file.auths).find((known) => sameKey(known, key)) : undefined
  return { name: file.store, server: listed ?? usual }
}

async function find(
  file: CredentialFile,
  helpers: CredentialHelpers,
  host: string,
  repository: string,
  path: string,
): Promise<Credentials | undefined> {
  for (const key of keysFor(host, repository)) {
    const own = helperFor({ ...file, store: undefined }, key)
    const found = own === undefined ? undefined : await helpers.get(own.name, own.server)
    if (found !== undefined) return found
    const entry = Object.entries(file.auths).find(([known]) => sameKey(known, key))?.[1]
    const plain = entry === undefined ? undefined : decode(entry, key, path)
    if (plain !== undefined) return plain
    // The store keeps everything; it is asked for what is listed, and for the host itself.
    const store =
      own === undefined && (entry !== undefined || key === host) ? helperFor(file, key) : undefined
    const kept = store === undefined ? undefined : await helpers.get(store.name, store.server)
    if (kept !== undefined) return kept
  }
  return undefined
}

function without(auths: CredentialFile['auths'], key: string): CredentialFile['auths'] {
  return Object.fromEntries(Object.entries(auths).filter(([known]) => !sameKey(known, key)))
}

function encode({ username, password }: Credentials): Readonly<Record<string, string>> {
  const auth = Buffer.from(`${username}:${username === tokenUser ? '' : password}`).toString('base64')
  return username === tokenUser ? { auth, identitytoken: password } : { auth }
}

/** undefined for an entry without a login, as helpers leave behind. */
function decode(
  entry: Readonly<Record<string, unknown>>,
  key: string,
  path: string,
): Credentials | undefined {
  const token = entry['identitytoken']
  if (typeof token === 'string' && token !== '') return { username: tokenUser, password: token }
  const auth = entry['auth']
  if (auth === undefined || auth === '') return undefined
  const text = typeof auth === 'string' ? Buffer.from(auth, 'base64').toString('utf8') : ''
  const colon = text.indexOf(':')
  if (colon < 1) {
    throw new BuilderError('ISB_CONFIG_INVALID', `${path} cannot be used: the entry of ${key} is malformed`, {
      hint: `Log in to ${key} again.`,
    })
  }
  // Docker's own files pad with NUL.
  return { username: text.slice(0, colon), password: text.slice(colon + 1).replace(/\0+$/, '') }
}
