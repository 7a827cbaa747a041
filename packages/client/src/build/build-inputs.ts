import { readFileSync, realpathSync, type Stats, statSync } from 'node:fs'
import { basename, join, relative, resolve } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { fileError, fileErrorText } from '../file-error.js'

/** Bytes. */
export const dockerfileLimit = 1024 * 1024
const secretLimit = 500 * 1024

export interface NamedFile {
  readonly name: string
  readonly content: Buffer
}

/** In front of everything the original's client finds wrong with a build. */
export const buildErrorPrefix = 'error runBuild: '

export function buildError(
  message: string,
  code: 'ISB_ARGUMENT_INVALID' | 'ISB_PATH_NOT_FOUND' = 'ISB_ARGUMENT_INVALID',
): BuilderError {
  return new BuilderError(code, `${buildErrorPrefix}${message}`)
}

/** The context directory, symbolic links resolved. */
export function contextDirectory(path: string): string {
  try {
    const real = realpathSync(resolve(path))
    if (statSync(real).isDirectory()) return real
  } catch (error) {
    throw fileError(error, path === '' ? '.' : path, buildErrorPrefix)
  }
  throw buildError(`context directory path "${path}" should be a directory`)
}

/**
 * The Dockerfile: as given, then below the context; without `-f` the context's `Dockerfile` or
 * `dockerfile`. Named relative to the context where it lies in there.
 */
export function findDockerfile(filename: string, context: string): NamedFile & { readonly path: string } {
  const candidates =
    filename === ''
      ? [join(context, 'Dockerfile'), join(context, 'dockerfile')]
      : [resolve(filename), join(context, filename)]
  const failures: string[] = []
  for (const path of candidates) {
    try {
      const reason = unfitDockerfile(statSync(path))
      if (reason === undefined) {
        const inside = relative(context, realpathSync(path))
        const name = inside === '..' || inside.startsWith('../') ? basename(path) : inside
        return { path, name, content: readFileSync(path) }
      }
      failures.push(reason)
    } catch (error) {
      failures.push(fileErrorText(error, path))
    }
  }
  const [first = '', second = ''] = candidates
  throw buildError(
    `check dockerfile ${first} failed: ${failures[0]}, check dockerfile ${second} failed again: ${failures[1]}`,
    'ISB_PATH_NOT_FOUND',
  )
}

function unfitDockerfile(stat: Stats): string | undefined {
  if (!stat.isFile()) return 'it is not a regular file'
  if (stat.size === 0) return 'it is empty, the file cannot be empty'
  return stat.size > dockerfileLimit ? 'it is larger than 1 MiB' : undefined
}

/**
 * What the build context leaves out: `<Dockerfile>.dockerignore` where the Dockerfile lies, else the
 * context's `.dockerignore`. Lines of the file for a Dockerfile from elsewhere: `dockerfile` undefined.
 */
export function findIgnoreFile(dockerfile: string | undefined, context: string): NamedFile | undefined {
  const own = dockerfile === undefined ? [] : [`${dockerfile}.dockerignore`]
  for (const path of [...own, join(context, '.dockerignore')]) {
    try {
      const stat = statSync(path, { throwIfNoEntry: false })
      if (stat === undefined || !stat.isFile()) continue
      if (stat.size > dockerfileLimit) throw buildError(`${path} is larger than 1 MiB`)
      return { name: basename(path), content: readFileSync(path) }
    } catch (error) {
      throw fileError(error, path, buildErrorPrefix)
    }
  }
  return undefined
}

/** `KEY=VALUE`; `bare` is the value of a key alone, which is dropped where that gives none. */
export function keyValues(
  texts: readonly string[],
  bare: (key: string) => string | undefined,
): ReadonlyMap<string, string> {
  const values = new Map<string, string>()
  for (const text of texts) {
    const equals = text.indexOf('=')
    const key = equals === -1 ? text : text.slice(0, equals)
    if (key === '') throw buildError(`invalid argument ${JSON.stringify(text)}, expected KEY=VALUE`)
    const value = equals === -1 ? bare(key) : text.slice(equals + 1)
    if (value !== undefined) values.set(key, value)
  }
  return values
}

/**
 * Of a key alone. Shells hand on no variable whose name they could not write, and the client is started by one: its value
 * has to be given.
 */
export function variableOf(
  environment: Readonly<Record<string, string | undefined>>,
  key: string,
): string | undefined {
  const value = environment[key]
  if (value !== undefined || /^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) return value
  throw buildError(
    `${JSON.stringify(key)} is no name of a shell variable, so its value cannot come from the environment, write ${key}=VALUE`,
  )
}

/** `id=ID[,src=FILE|,env=NAME]`, read with the rights of whoever runs this. */
export function readSecret(
  text: string,
  environment: Readonly<Record<string, string | undefined>>,
): { readonly id: string; readonly value: Uint8Array } {
  const fields = options(text, 'secret', ['id', 'src', 'source', 'env', 'type'])
  const id = fields.get('id') ?? fields.get('src') ?? fields.get('source')
  if (id === undefined || id === '') throw buildError(`secret ${JSON.stringify(text)} has no id`)
  const source = fields.get('src') ?? fields.get('source')
  const variable =
    fields.get('env') ?? (source === undefined && environment[id] !== undefined ? id : undefined)
  if (variable !== undefined) {
    const value = environment[variable]
    if (value === undefined) throw buildError(`secret ${id}: no variable ${variable} in the environment`)
    return { id, value: Buffer.from(value) }
  }
  const path = resolve(source ?? id)
  try {
    const stat = statSync(path)
    if (!stat.isFile()) throw buildError(`secret ${id}: ${path} is not a regular file`)
    if (stat.size > secretLimit) throw buildError(`secret ${id} is larger than 500 KiB`)
    return { id, value: readFileSync(path) }
  } catch (error) {
    throw fileError(error, path, `${buildErrorPrefix}secret ${id}: `)
  }
}

function options(text: string, what: string, known: readonly string[]): ReadonlyMap<string, string> {
  const fields = new Map<string, string>()
  for (const part of text.split(',')) {
    const [key = '', ...rest] = part.split('=')
    if (!known.includes(key) || rest.length === 0) {
      throw buildError(`unexpected ${JSON.stringify(part)} in ${what} ${JSON.stringify(text)}`)
    }
    fields.set(key, rest.join('='))
  }
  return fields
}

/** `build-time=YYYY-MM-DD HH:MM:SS`, UTC. Milliseconds since the epoch. */
export function staticTime(texts: readonly string[]): number | undefined {
  let time: number | undefined
  for (const text of texts) {
    const [key = '', ...rest] = text.split('=')
    if (key !== 'build-time') throw buildError(`option ${JSON.stringify(key)} not support by build-static`)
    const value = rest.join('=')
    const iso = `${value.replace(' ', 'T')}.000Z`
    const parsed = /^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$/.test(value) ? Date.parse(iso) : Number.NaN
    // The 30th of February would otherwise be a day in March.
    if (Number.isNaN(parsed) || new Date(parsed).toISOString() !== iso)
      throw buildError("build time format need like '2020-05-23 10:55:33'")
    time = parsed
  }
  return time
}
