import { BuilderError } from '../errors/builder-error.js'
import { isSpace, quoted } from './go-text.js'
import {
  maxExpansion,
  parseWordPattern,
  removePrefix,
  removeSuffix,
  replacePattern,
  tooLong,
} from './word-pattern.js'

/** Where variables come from; a Map will do. `undefined` = unset, which differs from empty. */
export interface WordEnvironment {
  get(name: string): string | undefined
}

export interface WordOptions {
  /** Default `\`. */
  readonly escape?: '\\' | '`'
  /** Quotes stay in the result; they still guard what is inside. */
  readonly rawQuotes?: boolean
  /** Escape characters stay in the result; they still guard what follows. */
  readonly rawEscapes?: boolean
  /** Quotes are ordinary characters. */
  readonly ignoreQuotes?: boolean
  /** A reference to an unset variable stays as written. */
  readonly keepUnset?: boolean
}

export interface ExpandedWord {
  readonly result: string
  /** Names that were looked up and set, in order of appearance. */
  readonly matched: ReadonlySet<string>
  /** Names that were looked up and not set. */
  readonly unmatched: ReadonlySet<string>
}

/** Levels of `${a:-${b:-…}}`. */
const maxDepth = 100

const namePattern = /\p{Nd}+|[@*#?\-$!]|[\p{L}\p{Nd}_]+/uy

/**
 * Expands variables and removes quotes and escapes; spaces stay. The language is BuildKit's subset of POSIX
 * shell words: `$v ${v}`, the modifiers `- + ?` with and without `:`, `# ## % %%`, `/p/r` and `//p/r`; the
 * special and positional parameters exist and are unset. Fails with ISB_DOCKERFILE_SYNTAX (no source: the
 * caller knows it) for an unclosed quote or brace, an unknown modifier and a `?` that applies.
 */
export function processWord(word: string, env: WordEnvironment, options: WordOptions = {}): ExpandedWord {
  const lexer = newLexer(word, env, options)
  const result = scan(lexer, undefined, lexer.rawEscapes)
  return { result, matched: lexer.matched, unmatched: lexer.unmatched }
}

/** Like `processWord`, but split at unquoted white space, that of variables included. No word is empty. */
export function processWords(word: string, env: WordEnvironment, options: WordOptions = {}): string[] {
  const lexer = newLexer(word, env, options)
  const words = newSplitter()
  scan(lexer, undefined, lexer.rawEscapes, words)
  words.end()
  return words.list
}

/**
 * Expands the body of a COPY or ADD here-document: quotes are text, a backslash escapes whatever the escape
 * directive says.
 */
export function expandHeredoc(content: string, env: WordEnvironment): ExpandedWord {
  return processWord(content, env, { ignoreQuotes: true })
}

interface Lexer {
  readonly text: string
  readonly env: WordEnvironment
  readonly escape: string
  readonly rawQuotes: boolean
  readonly ignoreQuotes: boolean
  readonly keepUnset: boolean
  readonly matched: Set<string>
  readonly unmatched: Set<string>
  at: number
  depth: number
  rawEscapes: boolean
}

interface Splitter {
  readonly list: string[]
  split(text: string): void
  raw(text: string): void
  end(): void
}

function newLexer(text: string, env: WordEnvironment, options: WordOptions): Lexer {
  return {
    text,
    env,
    escape: options.escape ?? '\\',
    rawQuotes: options.rawQuotes ?? false,
    ignoreQuotes: options.ignoreQuotes ?? false,
    keepUnset: options.keepUnset ?? false,
    matched: new Set(),
    unmatched: new Set(),
    at: 0,
    depth: 0,
    rawEscapes: options.rawEscapes ?? false,
  }
}

function newSplitter(): Splitter {
  const list: string[] = []
  let word = ''
  const end = () => {
    if (word !== '') list.push(word)
    word = ''
  }
  return {
    list,
    split(text) {
      let from = 0
      for (let at = 0; at < text.length; at++) {
        if (!isSpace(text.charCodeAt(at))) continue
        word += text.slice(from, at)
        end()
        from = at + 1
      }
      word += text.slice(from)
    },
    raw(text) {
      word += text
    },
    end,
  }
}

/** Reads to the end of the text, or over the first unguarded `stop`. */
function scan(lexer: Lexer, stop: string | undefined, rawEscapes: boolean, words?: Splitter): string {
  const outerRawEscapes = lexer.rawEscapes
  lexer.rawEscapes = rawEscapes
  let result = ''
  while (lexer.at < lexer.text.length) {
    const character = lexer.text.charAt(lexer.at)
    if (character === stop) {
      lexer.at++
      lexer.rawEscapes = outerRawEscapes
      return result
    }
    let piece: string
    if (character === '$') {
      piece = dollar(lexer)
      words?.split(piece)
    } else if (character === '<') {
      piece = angle(lexer)
      words?.raw(piece)
    } else if (character === "'" && !lexer.ignoreQuotes) {
      piece = singleQuoted(lexer)
      words?.raw(piece)
    } else if (character === '"' && !lexer.ignoreQuotes) {
      piece = doubleQuoted(lexer)
      words?.raw(piece)
    } else if (character === lexer.escape) {
      const kept = rawEscapes ? lexer.at : lexer.at + 1
      lexer.at += 2
      piece = lexer.text.slice(kept, lexer.at)
      words?.raw(piece)
    } else {
      piece = plainRun(lexer, stop)
      words?.split(piece)
    }
    result += piece
    if (result.length > maxExpansion) throw tooLong()
  }
  lexer.at = lexer.text.length
  lexer.rawEscapes = outerRawEscapes
  if (stop !== undefined) throw wordError(`missing "${stop}" in ${quoted(lexer.text)}`)
  return result
}

function plainRun(lexer: Lexer, stop: string | undefined): string {
  const from = lexer.at
  for (lexer.at++; lexer.at < lexer.text.length; lexer.at++) {
    const character = lexer.text.charAt(lexer.at)
    if (character === stop || character === lexer.escape) break
    if (character === '$' || character === '<' || character === "'" || character === '"') break
  }
  return lexer.text.slice(from, lexer.at)
}

function singleQuoted(lexer: Lexer): string {
  const start = lexer.at
  const end = lexer.text.indexOf("'", start + 1)
  if (end < 0) throw wordError(`missing closing ' in ${quoted(lexer.text)}`)
  lexer.at = end + 1
  return lexer.rawQuotes ? lexer.text.slice(start, end + 1) : lexer.text.slice(start + 1, end)
}

function doubleQuoted(lexer: Lexer): string {
  lexer.at++
  let result = lexer.rawQuotes ? '"' : ''
  while (lexer.at < lexer.text.length) {
    const character = lexer.text.charAt(lexer.at)
    if (character === '"') {
      lexer.at++
      return lexer.rawQuotes ? `${result}"` : result
    }
    if (character === '$') result += dollar(lexer)
    else {
      lexer.at++
      if (character !== lexer.escape) result += character
      else result += escapedInQuotes(lexer)
    }
    if (result.length > maxExpansion) throw tooLong()
  }
  throw wordError(`missing closing " in ${quoted(lexer.text)}`)
}

/**
 * Inside double quotes the escape character guards itself, `"` and `$`, and is an ordinary character
 * elsewhere.
 */
function escapedInQuotes(lexer: Lexer): string {
  const kept = lexer.rawEscapes ? lexer.escape : ''
  const next = lexer.text.charAt(lexer.at)
  if (next === '') return kept
  if (next !== '"' && next !== '$' && next !== lexer.escape) return kept + lexer.escape
  lexer.at++
  return kept + next
}

/** `<<` keeps the blanks behind it, so that `<< EOF` stays one word. */
function angle(lexer: Lexer): string {
  const start = lexer.at++
  if (lexer.text.charAt(lexer.at) !== '<') return '<'
  lexer.at++
  while (/[\t\r ]/.test(lexer.text.charAt(lexer.at))) lexer.at++
  return lexer.text.slice(start, lexer.at)
}

function dollar(lexer: Lexer): string {
  lexer.at++
  if (lexer.text.charAt(lexer.at) === '{') return braced(lexer)
  const name = readName(lexer)
  if (name === '') return '$'
  return lookUp(lexer, name) ?? (lexer.keepUnset ? `$${name}` : '')
}

function braced(lexer: Lexer): string {
  const start = ++lexer.at
  const first = lexer.text.charAt(start)
  if (first === '{' || first === '}' || first === ':') {
    throw wordError(`bad substitution in ${quoted(lexer.text)}`, 'Write \\$ for a literal dollar sign.')
  }
  const name = readName(lexer)
  const operator = lexer.text.charAt(lexer.at++)
  if (operator === '') throw wordError(`missing "}" in ${quoted(lexer.text)}`)
  if (operator === '}') return lookUp(lexer, name) ?? (lexer.keepUnset ? `\${${name}}` : '')

  if (++lexer.depth > maxDepth) {
    throw wordError(`\${…} is nested more than ${maxDepth} deep in ${quoted(lexer.text)}`)
  }
  const result = operator === '/' ? replaced(lexer, name) : modified(lexer, name, operator)
  lexer.depth--
  return result
}

function modified(lexer: Lexer, name: string, first: string): string {
  const colon = first === ':'
  const operator = colon ? lexer.text.charAt(lexer.at++) : first
  const written = colon ? `:${operator}` : operator
  if (operator === '' || operator === '}') throw unsupported(lexer, written)
  const isTrim = operator === '#' || operator === '%'
  if ((isTrim && colon) || (!colon && !'+-?#%'.includes(operator))) throw unsupported(lexer, written)

  const word = scan(lexer, '}', isTrim)
  const value = lookUp(lexer, name)
  if (value === undefined && lexer.keepUnset) return `\${${name}${written}${word}}`
  const isMissing = value === undefined || (colon && value === '')
  switch (operator) {
    case '-':
      return isMissing ? word : value
    case '+':
      return isMissing ? '' : word
    case '?':
      if (!isMissing) return value
      throw wordError(
        `${name}: ${word !== '' ? word : `is not allowed to be ${value === undefined ? 'unset' : 'empty'}`}`,
        `Set ${name} with ARG, ENV or --build-arg.`,
      )
    case '#':
    case '%': {
      const longest = word.startsWith(operator)
      const pattern = parseWordPattern(longest ? word.slice(1) : word)
      const remove = operator === '#' ? removePrefix : removeSuffix
      return remove(value ?? '', pattern, longest)
    }
    default:
      throw unsupported(lexer, written)
  }
}

function replaced(lexer: Lexer, name: string): string {
  const all = lexer.text.charAt(lexer.at) === '/'
  if (all) lexer.at++
  const pattern = scan(lexer, '/', true)
  const replacement = scan(lexer, '}', true)
  const value = lookUp(lexer, name)
  if (value === undefined && lexer.keepUnset) return `\${${name}/${all ? '/' : ''}${pattern}/${replacement}}`
  return replacePattern(value ?? '', parseWordPattern(pattern), replacement, all)
}

/** A name as POSIX has it, in any script; all digits at the start, or one special parameter. */
function readName(lexer: Lexer): string {
  namePattern.lastIndex = lexer.at
  const name = namePattern.exec(lexer.text)?.[0] ?? ''
  lexer.at += name.length
  return name
}

function lookUp(lexer: Lexer, name: string): string | undefined {
  const value = lexer.env.get(name)
  ;(value === undefined ? lexer.unmatched : lexer.matched).add(name)
  return value
}

function unsupported(lexer: Lexer, operator: string): BuilderError {
  return wordError(
    `unsupported modifier ${quoted(operator)} in ${quoted(lexer.text)}`,
    'The modifiers are :- - :+ + :? ? # ## % %% / and //.',
  )
}

function wordError(message: string, hint?: string): BuilderError {
  return new BuilderError('ISB_DOCKERFILE_SYNTAX', message, hint === undefined ? {} : { hint })
}
