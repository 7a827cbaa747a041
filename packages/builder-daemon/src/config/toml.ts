import { type JsonMap, parse } from '@iarna/toml'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

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
  strings(key: string): readonly string[] | undefined
  integers(key: string): readonly number[] | undefined
  table(key: string): TableReader | undefined
  tables(key: string): readonly TableReader[]
}

/** `path` is where `table` stands in the file, for complaints. */
export function tableReader(
  table: TomlTable,
  text: string,
  file: string,
  path: readonly string[] = [],
): TableReader {
  const fail = (key: string, expected: string): BuilderError => {
    const full = [...path, key]
    const line = lineOf(text, full)
    const at = line === undefined ? file : `${file}:${line}`
    return new BuilderError('ISB_CONFIG_INVALID', `${at}: \`${full.join('.')}\` must be ${expected}`)
  }
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
    strings: (key) => typed(key, list(isString), 'a list of strings'),
    integers: (key) => typed(key, list(isInteger), 'a list of whole numbers'),
    table: (key) => {
      const value = typed(key, isTable, 'a table')
      return value === undefined ? undefined : tableReader(value, text, file, [...path, key])
    },
    tables: (key) =>
      (typed(key, list(isTable), 'a list of tables') ?? []).map((value) =>
        tableReader(value, text, file, [...path, key]),
      ),
  }
}

/** Where a key is set: on its own line, as the header of its table, or by a key below it. */
function lineOf(text: string, path: readonly string[]): number | undefined {
  const wanted = path.join('.')
  const names = (written: string): string => written.replace(/["'\s]/g, '')
  let table = ''
  for (const [index, line] of text.split('\n').entries()) {
    const header = /^\s*\[\[?([^\]]+)\]/.exec(line)?.[1]
    const key = /^\s*([^=#]+)=/.exec(line)?.[1]
    if (header !== undefined) table = names(header)
    else if (key === undefined) continue
    const here =
      header !== undefined || key === undefined ? table : [table, names(key)].filter(Boolean).join('.')
    if (here === wanted || here.startsWith(`${wanted}.`)) return index + 1
  }
  return undefined
}
