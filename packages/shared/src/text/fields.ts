import { BuilderError } from '../errors/builder-error.js'

export type Fields = ReadonlyMap<string, string>

/**
 * `key=value,…` with RFC 4180 quotes around fields that hold a comma; keys in lower case, each once. `what` names the
 * value in messages. Fails with ISB_ARGUMENT_INVALID.
 */
export function parseFields(text: string, what: string): Fields {
  const fields = new Map<string, string>()
  for (const part of splitQuoted(text, what)) {
    const equals = part.indexOf('=')
    const key = part.slice(0, Math.max(0, equals)).trim().toLowerCase()
    if (key === '') throw invalid(`unexpected ${JSON.stringify(part)} in ${what} ${JSON.stringify(text)}`)
    if (fields.has(key)) throw invalid(`${what} key ${key} is given twice`)
    fields.set(key, part.slice(equals + 1))
  }
  return fields
}

function splitQuoted(text: string, what: string): readonly string[] {
  const parts: string[] = []
  const field = /(?:"((?:[^"]|"")*)"|([^",]*))(,|$)/y
  for (;;) {
    const match = field.exec(text)
    if (match === null) throw invalid(`${what} ${JSON.stringify(text)} has a quote in the wrong place`)
    const [, quoted, plain = '', end] = match
    parts.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'))
    if (end === '') return parts
  }
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message)
}
