import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

export interface MountField {
  /** Lower case. */
  readonly key: string
  /** Undefined when there was no `=`. */
  readonly value: string | undefined
}

/** The fields of a `--mount=` value: one line of CSV (RFC 4180), unexpanded. */
export function mountFields(text: string): readonly MountField[] {
  return csvFields(text).map((field) => {
    const equals = field.indexOf('=')
    if (equals < 0) return { key: field.toLowerCase(), value: undefined }
    return { key: field.slice(0, equals).toLowerCase(), value: field.slice(equals + 1) }
  })
}

/** What a mount takes its files from. It decides which stages are built, so it is never expanded. */
export function mountOrigin(text: string): string | undefined {
  const value = mountFields(text).findLast((field) => field.key === 'from')?.value
  if (value === undefined || value === '') return undefined
  const dollar = value.indexOf('$')
  if (dollar >= 0 && dollar < value.length - 1) {
    throw new BuilderError(
      'ISB_DOCKERFILE_SYNTAX',
      `variable expansion is not supported in \`from=${value}\``,
      {
        hint: 'Name a stage with `FROM image AS name`, where ARGs before the first FROM are expanded, and mount that.',
      },
    )
  }
  return value
}

function csvFields(text: string): readonly string[] {
  if (text === '') throw malformed(text, 'it is empty')
  const fields: string[] = []
  let rest = text
  for (;;) {
    if (!rest.startsWith('"')) {
      const comma = rest.indexOf(',')
      const field = comma < 0 ? rest : rest.slice(0, comma)
      if (field.includes('"')) throw malformed(text, 'a quote stands inside a field')
      fields.push(field)
      if (comma < 0) return fields
      rest = rest.slice(comma + 1)
      continue
    }
    const quoted = /^"((?:[^"]|"")*)"(,|$)/.exec(rest)
    if (quoted === null) throw malformed(text, 'a quote is not closed')
    fields.push((quoted[1] ?? '').replaceAll('""', '"'))
    if (quoted[2] === '') return fields
    rest = rest.slice(quoted[0].length)
  }
}

function malformed(text: string, reason: string): BuilderError {
  return new BuilderError('ISB_DOCKERFILE_SYNTAX', `malformed mount ${JSON.stringify(text)}: ${reason}`, {
    hint: 'Write `--mount=type=TYPE,option=value,…`.',
  })
}
