/** JSON for documents that decide about trust: every key once, every value with its line. */
export type JsonNode = { readonly line: number } & (
  | { readonly kind: 'object'; readonly members: ReadonlyMap<string, JsonNode> }
  | { readonly kind: 'array'; readonly items: readonly JsonNode[] }
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'number'; readonly value: number }
  | { readonly kind: 'boolean' | 'null' }
)

/** What is wrong and where; whoever reads the document says which one it is. */
export class JsonProblem extends Error {
  override readonly name = 'JsonProblem'

  constructor(
    readonly line: number,
    readonly reason: string,
  ) {
    super(`line ${line}: ${reason}`)
  }
}

const maxDepth = 64
const stringPattern = /"[^"\\\u0000-\u001f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\u0000-\u001f]*)*"/y
const numberPattern = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y
const wordPattern = /true|false|null/y

/** RFC 8259, with neither equal keys in one object nor nesting deeper than 64. Fails with JsonProblem. */
export function parseStrictJson(text: string): JsonNode {
  const reader = { text, at: 0, line: 1 }
  skipSpace(reader)
  const node = readValue(reader, 0)
  skipSpace(reader)
  if (reader.at < text.length) throw unexpected(reader)
  return node
}

interface Reader {
  readonly text: string
  at: number
  line: number
}

function readValue(reader: Reader, depth: number): JsonNode {
  if (depth > maxDepth) throw new JsonProblem(reader.line, `nested deeper than ${maxDepth}`)
  const { line } = reader
  switch (reader.text[reader.at]) {
    case '{':
      return { kind: 'object', line, members: readMembers(reader, depth) }
    case '[':
      return { kind: 'array', line, items: readItems(reader, depth) }
    case '"':
      return { kind: 'string', line, value: readString(reader) }
    default: {
      const word = match(reader, wordPattern)
      if (word !== undefined) return { kind: word === 'null' ? 'null' : 'boolean', line }
      const number = match(reader, numberPattern)
      if (number === undefined) throw unexpected(reader)
      return { kind: 'number', line, value: Number(number) }
    }
  }
}

function readMembers(reader: Reader, depth: number): ReadonlyMap<string, JsonNode> {
  const members = new Map<string, JsonNode>()
  readList(reader, '}', () => {
    if (reader.text[reader.at] !== '"') throw unexpected(reader)
    const { line } = reader
    const key = readString(reader)
    if (members.has(key)) throw new JsonProblem(line, `key ${JSON.stringify(key)} is there twice`)
    skipSpace(reader)
    take(reader, ':')
    skipSpace(reader)
    members.set(key, readValue(reader, depth + 1))
  })
  return members
}

function readItems(reader: Reader, depth: number): readonly JsonNode[] {
  const items: JsonNode[] = []
  readList(reader, ']', () => items.push(readValue(reader, depth + 1)))
  return items
}

function readList(reader: Reader, end: string, readOne: () => void): void {
  reader.at += 1
  skipSpace(reader)
  if (reader.text[reader.at] === end) {
    reader.at += 1
    return
  }
  for (;;) {
    readOne()
    skipSpace(reader)
    if (reader.text[reader.at] === end) break
    take(reader, ',')
    skipSpace(reader)
  }
  reader.at += 1
}

function readString(reader: Reader): string {
  const written = match(reader, stringPattern)
  if (written === undefined) throw new JsonProblem(reader.line, 'a string is malformed or does not end')
  return JSON.parse(written) as string
}

function match(reader: Reader, pattern: RegExp): string | undefined {
  pattern.lastIndex = reader.at
  const found = pattern.exec(reader.text)?.[0]
  if (found !== undefined) reader.at += found.length
  return found
}

function take(reader: Reader, character: string): void {
  if (reader.text[reader.at] !== character) throw unexpected(reader)
  reader.at += 1
}

function skipSpace(reader: Reader): void {
  for (;;) {
    const character = reader.text[reader.at]
    if (character === '\n') reader.line += 1
    else if (character !== ' ' && character !== '\t' && character !== '\r') return
    reader.at += 1
  }
}

function unexpected({ text, at, line }: Reader): JsonProblem {
  const character = text[at]
  return new JsonProblem(
    line,
    character === undefined ? 'ends early' : `unexpected ${JSON.stringify(character)}`,
  )
}
