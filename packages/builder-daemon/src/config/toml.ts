import { type JsonMap, parse } from '@iarna/toml'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { parseSize } from '@isula-build/shared/text/units.js'

export type TomlTable = JsonMap

/** Fails with ISB_CONFIG_INVALID naming file, line and column. */
export function parseToml(text: string, file: string): TomlTable {
  try {
    return parse(text)
  } catch (error) {
    const { line, col, message } = error as { line?: number; col?: number; message: string }
    const at = line === undefined ? file : `${file}:${line + 1}:${(col ?? 0) + 1}`
    const reason = message.split('\n')[0]?.replace(/ at row \d+, col \d+.*$/, '') ?? 'malformed'
    throw new BuilderError('ISB_CONFIG_INVALID', `${at}: ${reason}`, { cause: error })
  }
}

/** Reads typed keys of one table; every complaint names file, line and key. */
export interface TableReader {
  string(key: string): string | undefined
  boolean(key: string): boolean | undefined
  integer(key: string, range: { min: number; max: number }): number | undefined
  /** Seconds as a number, or text as Go writes durations (`1m30s`, `500ms`), also days (`14d`); milliseconds, as is the range. */
  duration(key: string, range: { min: number; max: number }): number | undefined
  /** Bytes as a number, or text (`20GB`, `512MiB`). */
  size(key: string): number | undefined
  strings(key: string): readonly string[] | undefined
  integers(key: string): readonly number[] | undefined
  table(key: string): TableReader | undefined
  tables(key: string): readonly TableReader[]
  /** What the table holds. */
  readonly keys: readonly string[]
  /** `file:line: \`key\` PROBLEM`, for complaints of the reader's own. */
  complaint(key: string, problem: string): string
}

/** Names of tables, and places in arrays of tables. */
type TomlPath = readonly (string | number)[]

/** `path` is where `table` stands in the file, for complaints. */
export function tableReader(table: TomlTable, text: string, file: string, path: TomlPath = []): TableReader {
  const complaint = (key: string, problem: string): string => {
    const full = [...path, key]
    const line = lineOf(text, full)
    const name = full.filter((part) => typeof part === 'string').join('.')
    return `${line === undefined ? file : `${file}:${line}`}: \`${name}\` ${problem}`
  }
  const fail = (key: string, expected: string): BuilderError =>
    new BuilderError('ISB_CONFIG_INVALID', complaint(key, `must be ${expected}`))
  const typed = <T>(key: string, is: (value: unknown) => value is T, expected: string): T | undefined => {
    const value: unknown = table[key]
    if (value === undefined) return undefined
    if (!is(value)) throw fail(key, expected)
    return value
  }
  const isString = (value: unknown): value is string => typeof value === 'string'
  const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean'
  const isInteger = (value: unknown): value is number => Number.isSafeInteger(value)
  const list =
    <T>(is: (value: unknown) => value is T) =>
    (value: unknown): value is T[] =>
      Array.isArray(value) && value.every(is)
  const isTable = (value: unknown): value is TomlTable =>
    typeof value === 'object' && value !== null && !Array.isArray(value)

  return {
    // An empty string is the same as an absent key, as the original's own default files write it.
    string: (key) => typed(key, isString, 'a string') || undefined,
    boolean: (key) => typed(key, isBoolean, 'true or false'),
    integer: (key, { min, max }) => {
      const value = typed(key, isInteger, 'a whole number')
      if (value !== undefined && (value < min || value > max)) throw fail(key, `between ${min} and ${max}`)
      return value
    },
    duration: (key, { min, max }) => {
      const value: unknown = table[key]
      if (value === undefined || value === '') return undefined
      const milliseconds = typeof value === 'number' ? value * 1000 : parseDuration(value)
      if (milliseconds === undefined) throw fail(key, 'seconds, or a duration like "1m30s"')
      if (milliseconds < min || milliseconds > max) {
        throw fail(key, `between ${min / 1000} and ${max / 1000} seconds`)
      }
      return Math.round(milliseconds)
    },
    size: (key) => {
      const value: unknown = table[key]
      if (value === undefined || value === '') return undefined
      const bytes = typeof value === 'string' ? parseSize(value) : value
      if (!isInteger(bytes) || bytes < 0) throw fail(key, 'bytes, or a size like "20GB"')
      return bytes
    },
    strings: (key) => typed(key, list(isString), 'a list of strings'),
    integers: (key) => typed(key, list(isInteger), 'a list of whole numbers'),
    table: (key) => {
      const value = typed(key, isTable, 'a table')
      return value === undefined ? undefined : tableReader(value, text, file, [...path, key])
    },
    tables: (key) =>
      (typed(key, list(isTable), 'a list of tables') ?? []).map((value, index) =>
        tableReader(value, text, file, [...path, key, index]),
      ),
    keys: Object.keys(table),
    complaint,
  }
}

const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** `1m30s` → 90000, `14d`; undefined for anything else. */
function parseDuration(value: unknown): number | undefined {
  if (typeof value !== 'string' || !/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(value)) return undefined
  const parts = [...value.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)]
  return parts.reduce((sum, [, amount, unit]) => sum + Number(amount) * (units[unit ?? ''] ?? 0), 0)
}

/**
 * Where a key is set: on its own line, as the header of its table, or by a key below it; what is written inline, where
 * the innermost of the tables around it is.
 */
function lineOf(text: string, path: TomlPath): number | undefined {
  const wanted = spell(path)
  const lines = keyLines(text)
  const own = lines.find(
    ([key]) => key === wanted || key.startsWith(`${wanted}.`) || key.startsWith(`${wanted}[`),
  )
  if (own !== undefined) return own[1]
  return path.length > 1 ? lineOf(text, path.slice(0, -1)) : undefined
}

/** `['registry', 1, 'location']` → `registry[1].location`. */
function spell(path: TomlPath): string {
  return path
    .map((part) => (typeof part === 'number' ? `[${part}]` : `.${part}`))
    .join('')
    .slice(1)
}

/** Every key and header of the text with its line. */
function keyLines(text: string): readonly (readonly [key: string, line: number])[] {
  const names = (written: string): string => written.replace(/["'\s]/g, '')
  const counts = new Map<string, number>()
  /** Of arrays of tables the last one so far is meant. */
  const indexed = (name: string): string => {
    let spelled = ''
    for (const part of name.split('.')) {
      spelled = spelled === '' ? part : `${spelled}.${part}`
      const count = counts.get(spelled)
      if (count !== undefined) spelled = `${spelled}[${count - 1}]`
    }
    return spelled
  }
  let table = ''
  return text.split('\n').flatMap((line, index) => {
    const header = /^\s*(\[\[?)([^\]]+)\]/.exec(line)
    const key = /^\s*([^=#]+)=/.exec(line)?.[1]
    if (header !== null) {
      const name = names(header[2] ?? '')
      const cut = name.lastIndexOf('.')
      const list = cut < 0 ? name : `${indexed(name.slice(0, cut))}.${name.slice(cut + 1)}`
      if (header[1] === '[[') counts.set(list, (counts.get(list) ?? 0) + 1)
      table = indexed(name)
      return [[table, index + 1] as const]
    }
    if (key === undefined) return []
    return [[[table, names(key)].filter(Boolean).join('.'), index + 1] as const]
  })
}
