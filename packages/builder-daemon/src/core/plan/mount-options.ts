import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { suggest } from '@isula-build/shared/text/suggest.js'
import { type MountField, mountFields } from './mount-fields.js'

export type MountType = 'bind' | 'cache' | 'tmpfs' | 'secret' | 'ssh'

/** `--mount=` options as written, expanded and checked one by one; absent ones are undefined. */
export interface MountOptions {
  readonly type: MountType
  readonly from: string | undefined
  readonly source: string | undefined
  readonly target: string | undefined
  readonly readOnly: boolean | undefined
  readonly id: string | undefined
  readonly sharing: 'shared' | 'private' | 'locked' | undefined
  readonly required: boolean
  /** Bytes. */
  readonly size: number | undefined
  readonly mode: number | undefined
  readonly uid: number | undefined
  readonly gid: number | undefined
  /** '' = the name is the id. */
  readonly env: string | undefined
}

const aliases: ReadonlyMap<string, string> = new Map([
  ['src', 'source'],
  ['dst', 'target'],
  ['destination', 'target'],
  ['ro', 'readonly'],
  ['rw', 'readwrite'],
])

const keys = [
  'type',
  'from',
  'source',
  'target',
  'readonly',
  'readwrite',
  'id',
  'sharing',
  'required',
  'size',
  'mode',
  'uid',
  'gid',
  'env',
]

/** Options that may stand without a value. */
const flags = new Set(['readonly', 'readwrite', 'required'])

const types: readonly MountType[] = ['bind', 'cache', 'tmpfs', 'secret', 'ssh']
const sharings = ['shared', 'private', 'locked'] as const

/** Where options that make sense for some types only may stand. */
const restricted: ReadonlyMap<string, readonly MountType[]> = new Map([
  ['required', ['secret', 'ssh']],
  ['size', ['tmpfs']],
  ['mode', ['secret', 'ssh', 'cache']],
  ['uid', ['secret', 'ssh', 'cache']],
  ['gid', ['secret', 'ssh', 'cache']],
  ['sharing', ['cache']],
])

/** Parses one `--mount=` value; values are expanded one by one. Fails with ISB_DOCKERFILE_SYNTAX. */
export function mountOptions(text: string, expand: (word: string) => string): MountOptions {
  const values = new Map<string, string>()
  let readOnly: boolean | undefined
  for (const field of mountFields(text)) {
    const key = fieldKey(field)
    const value = field.value === undefined ? 'true' : expand(field.value)
    if (key === 'readonly') readOnly = flag(field.key, value)
    else if (key === 'readwrite') readOnly = !flag(field.key, value)
    else values.set(key, value)
  }
  const type = oneOf(types, values.get('type')?.toLowerCase() ?? 'bind', 'mount type')
  for (const key of values.keys()) {
    if (restricted.get(key)?.includes(type) === false) {
      throw invalid(`unexpected key "${key}" for a mount of type ${type}`)
    }
  }
  const sharing = values.get('sharing')?.toLowerCase()
  return {
    type,
    from: given(values, 'from'),
    source: given(values, 'source'),
    target: given(values, 'target'),
    readOnly,
    id: given(values, 'id'),
    sharing: sharing === undefined ? undefined : oneOf(sharings, sharing, 'sharing mode'),
    required: flag('required', values.get('required') ?? 'false'),
    size: optional(values, 'size', byteSize),
    mode: optional(values, 'mode', fileMode),
    uid: optional(values, 'uid', accountId),
    gid: optional(values, 'gid', accountId),
    env: values.get('env'),
  }
}

function fieldKey(field: MountField): string {
  const key = aliases.get(field.key) ?? field.key
  if (!keys.includes(key)) {
    throw invalid(
      `unexpected key "${field.key}" in a mount`,
      suggestion(field.key, [...keys, ...aliases.keys()]),
    )
  }
  if (field.value === undefined && !flags.has(key)) throw invalid(`mount option "${key}" needs a value`)
  return key
}

function given(values: ReadonlyMap<string, string>, key: string): string | undefined {
  const value = values.get(key)
  return value === '' ? undefined : value
}

function optional<T>(
  values: ReadonlyMap<string, string>,
  key: string,
  read: (key: string, value: string) => T,
): T | undefined {
  const value = values.get(key)
  return value === undefined ? undefined : read(key, value)
}

/** Go's strconv.ParseBool. */
function flag(key: string, value: string): boolean {
  if (/^(?:1|t|T|true|TRUE|True)$/.test(value)) return true
  if (/^(?:0|f|F|false|FALSE|False)$/.test(value)) return false
  throw invalid(`invalid value ${JSON.stringify(value)} for mount option "${key}"`, 'Use true or false.')
}

function oneOf<T extends string>(choices: readonly T[], value: string, what: string): T {
  const choice = choices.find((candidate) => candidate === value)
  if (choice !== undefined) return choice
  throw invalid(`unsupported ${what} ${JSON.stringify(value)}`, suggestion(value, choices))
}

function suggestion(word: string, choices: readonly string[]): string {
  const near = suggest(word, choices)
  return near === undefined ? `Use one of ${choices.join(', ')}.` : `Did you mean ${near}?`
}

function fileMode(key: string, value: string): number {
  const mode = /^[0-7]+$/.test(value) ? Number.parseInt(value, 8) : Number.NaN
  if (mode <= 0o7777) return mode
  throw invalid(
    `invalid value ${JSON.stringify(value)} for mount option "${key}"`,
    'Use an octal mode like 0400.',
  )
}

function accountId(key: string, value: string): number {
  // The largest number means "unchanged" to chown(2).
  if (/^[0-9]{1,10}$/.test(value) && Number(value) < 0xffffffff) return Number(value)
  throw invalid(`invalid value ${JSON.stringify(value)} for mount option "${key}"`, 'Use a number.')
}

const multipliers: ReadonlyMap<string, number> = new Map(
  ['', 'k', 'm', 'g', 't', 'p'].map((unit, power) => [unit, 1024 ** power]),
)

function byteSize(key: string, value: string): number {
  const match = /^([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(?:([kmgtp])(?:i?b)?|b)?$/i.exec(value)
  const unit = multipliers.get(match?.[2]?.toLowerCase() ?? '') ?? 1
  const size = match === null ? Number.NaN : Math.floor(Number(match[1]) * unit)
  if (Number.isSafeInteger(size)) return size
  throw invalid(`invalid value ${JSON.stringify(value)} for mount option "${key}"`, 'Use a size like 64m.')
}

function invalid(message: string, hint?: string): BuilderError {
  return new BuilderError('ISB_DOCKERFILE_SYNTAX', message, hint === undefined ? {} : { hint })
}
