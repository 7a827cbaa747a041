import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { mkdir, open, realpath, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** A file in the format of Docker's config.json; what is not understood here is kept. */
export interface CredentialFile {
  readonly auths: Readonly<Record<string, Readonly<Record<string, unknown>>>>
  /** Host → NAME of `docker-credential-NAME`. */
  readonly helpers: Readonly<Record<string, string>>
  /** Helper for everything else. */
  readonly store: string | undefined
  /** The whole document. */
  readonly document: Readonly<Record<string, unknown>>
}

const sizeLimit = 4 * 1024 * 1024

/** A missing or empty file is an empty one. Fails with ISB_CONFIG_INVALID naming the file, never its content. */
export async function readCredentialFile(path: string): Promise<CredentialFile> {
  const text = await readText(path)
  let json: unknown
  try {
    json = JSON.parse(text.trim() === '' ? '{}' : text)
  } catch {
    // Node's own message would quote the file.
    throw malformed(path, 'it is not JSON')
  }
  if (!isObject(json)) throw malformed(path, 'it is not an object')
  return {
    auths: section(json, 'auths', path, isObject, 'an object of objects'),
    helpers: section(json, 'credHelpers', path, isHelperName, 'an object of names'),
    store: storeOf(json, path),
    document: json,
  }
}

async function readText(path: string): Promise<string> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw malformed(path, (error as Error).message)
  })
  if (handle === undefined) return ''
  try {
    const stat = await handle.stat()
    if (!stat.isFile()) throw malformed(path, 'it is not a regular file')
    if (stat.size > sizeLimit) throw malformed(path, `it is larger than ${sizeLimit} bytes`)
    return await handle.readFile('utf8')
  } finally {
    await handle.close()
  }
}

function storeOf(json: Record<string, unknown>, path: string): string | undefined {
  const value = Object.hasOwn(json, 'credsStore') ? json['credsStore'] : undefined
  if (value === undefined || value === null || value === '') return undefined
  if (isHelperName(value)) return value
  throw malformed(path, '`credsStore` is no name of a helper')
}

function section<T>(
  json: Record<string, unknown>,
  key: string,
  path: string,
  is: (value: unknown) => value is T,
  expected: string,
): Record<string, T> {
  const value = Object.hasOwn(json, key) ? json[key] : undefined
  // Hosts are its keys, and some may be called like what every object has.
  const checked: Record<string, T> = Object.create(null)
  if (value === undefined || value === null) return checked
  if (!isObject(value)) throw malformed(path, `\`${key}\` is not ${expected}`)
  for (const [name, item] of Object.entries(value)) {
    if (!is(item)) throw malformed(path, `\`${key}\` is not ${expected}`)
    checked[name] = item
  }
  return checked
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** It becomes part of a path. */
function isHelperName(value: unknown): value is string {
  return typeof value === 'string' && /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(value)
}

function malformed(path: string, reason: string): BuilderError {
  return new BuilderError('ISB_CONFIG_INVALID', `${path} cannot be used: ${reason}`, {
    hint: 'Repair or remove the file; it is left as it is.',
  })
}

/**
 * Replaces the file, mode 0600 whatever the umask, in one step: readers see the old or the new one, also after a loss of
 * power. A link is followed, so that what the administrator put elsewhere stays there.
 */
export async function writeCredentialFile(
  path: string,
  file: CredentialFile,
  auths: CredentialFile['auths'],
): Promise<void> {
  const target = await realpath(path).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return path
    throw error
  })
  const directory = dirname(target)
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const next = join(directory, `.auth-${randomBytes(8).toString('hex')}.json`)
  try {
    const handle = await open(next, 'wx', 0o600)
    try {
      await handle.chmod(0o600)
      await handle.writeFile(`${JSON.stringify({ ...file.document, auths }, null, '\t')}\n`)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(next, target)
  } catch (error) {
    await rm(next, { force: true })
    throw error
  }
  const parent = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    await parent.sync()
  } finally {
    await parent.close()
  }
}
