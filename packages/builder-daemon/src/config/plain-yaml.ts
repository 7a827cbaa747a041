import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** A mapping; values are text or mappings again. */
export type YamlMap = ReadonlyMap<string, YamlEntry>

export interface YamlEntry {
  readonly line: number
  readonly value: string | YamlMap
}

interface Line {
  readonly number: number
  readonly indent: number
  readonly text: string
}

const maxDepth = 16

/**
 * The part of YAML that the files of registries.d are written in: nested mappings of plain or quoted text. Anything else
 * is refused by name, so that no setting is read differently than it was meant. Fails with ISB_CONFIG_INVALID.
 */
export function parsePlainYaml(text: string, file: string): YamlMap {
  const lines = text.split(/\r?\n/).flatMap((raw, index) => lineOf(raw, index + 1, file))
  if (lines[0]?.text === '---') lines.shift()
  const [first] = lines
  if (first === undefined) return new Map()
  const { map, next } = readMap(lines, 0, first.indent, file, 0)
  const rest = lines[next]
  if (rest !== undefined) throw invalid(file, rest.number, 'is indented less than the lines before it')
  return map
}

function lineOf(raw: string, number: number, file: string): Line[] {
  const text = withoutComment(raw).trimEnd()
  if (text.trim() === '') return []
  const indent = text.length - text.trimStart().length
  if (text.slice(0, indent).includes('\t')) throw invalid(file, number, 'is indented with a tab')
  return [{ number, indent, text: text.slice(indent) }]
}

/** A `#` begins a comment at the start and after a blank, but not in quotes. */
function withoutComment(raw: string): string {
  let quote = ''
  for (let at = 0; at < raw.length; at += 1) {
    const character = raw.charAt(at)
    const starts = at === 0 || /\s/.test(raw.charAt(at - 1))
    if (quote !== '') {
      if (character === '\\' && quote === '"') at += 1
      else if (character === quote) quote = ''
    } else if (starts && character === '#') return raw.slice(0, at)
    else if (starts && (character === '"' || character === "'")) quote = character
  }
  return raw
}

function readMap(
  lines: readonly Line[],
  start: number,
  indent: number,
  file: string,
  depth: number,
): { readonly map: YamlMap; readonly next: number } {
  const map = new Map<string, YamlEntry>()
  let at = start
  for (let line = lines[at]; line !== undefined && line.indent >= indent; line = lines[at]) {
    if (line.indent > indent) throw invalid(file, line.number, 'is indented more than the lines before it')
    if (depth > maxDepth) throw invalid(file, line.number, 'is nested too deeply')
    const { key, rest } = splitKey(line, file)
    if (map.has(key)) throw invalid(file, line.number, `has the key ${JSON.stringify(key)} a second time`)
    at += 1
    const below = lines[at]
    if (rest === '' && below !== undefined && below.indent > indent) {
      const inner = readMap(lines, at, below.indent, file, depth + 1)
      map.set(key, { line: line.number, value: inner.map })
      at = inner.next
    } else {
      map.set(key, { line: line.number, value: scalarOf(rest, line, file) })
    }
  }
  return { map, next: at }
}

function splitKey(line: Line, file: string): { readonly key: string; readonly rest: string } {
  const quoted = /^("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*:(?:\s+(.*))?$/.exec(line.text)
  const plain = /^([^\s"'#&*!|>%@`[\]{},?-](?:[^:]|:(?=\S))*?)\s*:(?:\s+(.*))?$/.exec(line.text)
  const [, key, rest = ''] = quoted ?? plain ?? []
  if (key === undefined) throw invalid(file, line.number, 'is not of the form `key: value`')
  return { key: quoted === null ? key : unquote(key, line, file), rest }
}

function scalarOf(text: string, line: Line, file: string): string | YamlMap {
  if (text === '' || text === '{}') return new Map()
  if (/^["']/.test(text)) return unquote(text, line, file)
  if (/^[&*!|>%@`[\]{},]|^[?-]\s|:(\s|$)/.test(text)) {
    throw invalid(
      file,
      line.number,
      `has the value ${text.slice(0, 40)}, only plain or quoted text is supported`,
    )
  }
  return text
}

function unquote(text: string, line: Line, file: string): string {
  if (/^'(?:[^']|'')*'$/.test(text)) return text.slice(1, -1).replaceAll("''", "'")
  try {
    return JSON.parse(text) as string
  } catch {
    throw invalid(file, line.number, `has a quoted text that is malformed: ${text.slice(0, 40)}`)
  }
}

function invalid(file: string, line: number, reason: string): BuilderError {
  return new BuilderError('ISB_CONFIG_INVALID', `${file}:${line}: the line ${reason}`)
}
