import { BuilderError } from '../errors/builder-error.js'
import { parseReference } from '../oci/reference.js'
import { type Fields, parseFields } from './fields.js'
import { suggest } from './suggest.js'

/** A build cache outside of the daemon's store. */
export type CacheLocation =
  /** As written. */
  | { readonly kind: 'registry'; readonly reference: string }
  /** An OCI layout; relative or absolute. */
  | { readonly kind: 'directory'; readonly path: string }

/** `min`: what the image consists of; `max`: the results of all steps. */
export type CacheMode = 'min' | 'max'

interface Syntax {
  readonly flag: string
  /** Key of the directory. */
  readonly path: string
  readonly keys: Readonly<Record<string, readonly string[]>>
}

/** Keys of every cache that is written. */
const written = ['mode', 'compression', 'ignore-error']

const from: Syntax = { flag: 'cache-from', path: 'src', keys: { registry: ['ref'], local: ['src'] } }
const to: Syntax = {
  flag: 'cache-to',
  path: 'dest',
  keys: { registry: ['ref', ...written], local: ['dest', ...written] },
}
/** Kinds of BuildKit's that need a service of their own. */
const foreign = ['inline', 'gha', 's3', 'azblob']

/**
 * `--cache-from`: `type=registry,ref=REFERENCE`, `type=local,src=DIRECTORY`, or a reference. Fails with
 * ISB_ARGUMENT_INVALID, ISB_REFERENCE_INVALID, ISB_UNSUPPORTED.
 */
export function parseCacheFrom(text: string): CacheLocation {
  return locationOf(fieldsOf(text, from), from)
}

export interface CacheDestination {
  readonly location: CacheLocation
  readonly mode: CacheMode
  /** undefined: gzip, or what a layer came as. */
  readonly compression: 'gzip' | 'zstd' | undefined
  /** The build does not fail when the cache cannot be written. */
  readonly ignoreError: boolean
}

/**
 * `--cache-to`: as `--cache-from`, with `dest=` for `src=`, `mode=min` (also without it) or `mode=max`,
 * `compression=gzip` or `zstd`, `ignore-error=true`.
 */
export function parseCacheTo(text: string): CacheDestination {
  const fields = fieldsOf(text, to)
  const mode = fields.get('mode') ?? 'min'
  if (mode !== 'min' && mode !== 'max') {
    throw invalid(`--cache-to mode ${JSON.stringify(mode)} is not supported`, 'Use mode=min or mode=max.')
  }
  const compression = fields.get('compression')
  if (compression !== undefined && compression !== 'gzip' && compression !== 'zstd') {
    const shown = JSON.stringify(compression)
    throw invalid(`--cache-to compression ${shown} is not supported`, 'Use gzip or zstd.')
  }
  const ignoring = fields.get('ignore-error') ?? 'false'
  if (ignoring !== 'true' && ignoring !== 'false') {
    throw invalid(`--cache-to ignore-error ${JSON.stringify(ignoring)} is not true or false`)
  }
  return { location: locationOf(fields, to), mode, compression, ignoreError: ignoring === 'true' }
}

function fieldsOf(text: string, syntax: Syntax): Fields {
  if (text === '') throw invalid(`--${syntax.flag} is empty`, usage(syntax))
  // A reference holds neither a comma nor an equals sign.
  if (!/[=,"]/.test(text)) {
    return new Map([
      ['type', 'registry'],
      ['ref', text],
    ])
  }
  return parseFields(text, `--${syntax.flag}`)
}

function locationOf(fields: Fields, syntax: Syntax): CacheLocation {
  const type = fields.get('type') ?? ''
  if (type === '') throw invalid(`--${syntax.flag} has no type`, usage(syntax))
  const known = Object.hasOwn(syntax.keys, type) ? syntax.keys[type] : undefined
  if (known === undefined) throw unknownType(type, syntax)
  for (const key of fields.keys()) {
    if (key === 'type' || known.includes(key)) continue
    const meant = suggest(key, known)
    throw invalid(
      `--${syntax.flag} type=${type} has no key ${JSON.stringify(key)}`,
      meant === undefined ? `It has ${known.join(', ')}.` : `Did you mean ${meant}?`,
    )
  }
  if (type === 'registry') {
    const reference = required(fields, 'ref', type, syntax)
    parseReference(reference)
    return { kind: 'registry', reference }
  }
  const path = required(fields, syntax.path, type, syntax)
  if (path.includes('\0')) throw invalid(`--${syntax.flag} names no directory`)
  return { kind: 'directory', path }
}

function required(fields: Fields, key: string, type: string, syntax: Syntax): string {
  const value = fields.get(key) ?? ''
  if (value === '') throw invalid(`--${syntax.flag} type=${type} has no ${key}`, usage(syntax))
  return value
}

function unknownType(type: string, syntax: Syntax): BuilderError {
  if (foreign.includes(type)) {
    return new BuilderError('ISB_UNSUPPORTED', `--${syntax.flag} type=${type} is not supported`, {
      hint: usage(syntax),
    })
  }
  const meant = suggest(type, Object.keys(syntax.keys))
  return invalid(
    `--${syntax.flag} type ${JSON.stringify(type)} is not supported`,
    meant === undefined ? usage(syntax) : `Did you mean type=${meant}?`,
  )
}

function usage({ path }: Syntax): string {
  return `Use type=registry,ref=REFERENCE or type=local,${path}=DIRECTORY.`
}

function invalid(message: string, hint?: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, hint === undefined ? {} : { hint })
}
