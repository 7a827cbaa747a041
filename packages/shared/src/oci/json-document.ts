import { BuilderError } from '../errors/builder-error.js'

const maxDepth = 64
const openers = new Set([0x5b, 0x7b])
const closers = new Set([0x5d, 0x7d])
const quote = 0x22
const backslash = 0x5c

/** A decoded JSON object; read it through the functions below, which see own keys only. */
export type JsonObject = Readonly<Record<string, unknown>>

/**
 * Decodes JSON that came from elsewhere. `what` names the document in messages. Of equal keys the last one
 * counts, as in Go. Fails with ISB_ARCHIVE_INVALID on broken UTF-8 or JSON and on nesting deeper than 64.
 */
export function decodeJson(bytes: Uint8Array, what: string): unknown {
  checkDepth(bytes, what)
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes))
  } catch (cause) {
    throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} is not valid JSON: ${reason(cause)}`, { cause })
  }
}

export function objectOf(value: unknown, what: string): JsonObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject
  throw wrongType(what, 'an object')
}

export function arrayOf(value: unknown, what: string): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw wrongType(what, 'an array')
}

export function stringOf(value: unknown, what: string): string {
  if (typeof value === 'string') return value
  throw wrongType(what, 'a string')
}

/** A whole number of bytes or the like, not negative. */
export function sizeOf(value: unknown, what: string): number {
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number
  throw wrongType(what, 'a whole number, not negative')
}

/** The object's own value for `key`; undefined also for null, which Go writes for an absent value. */
export function member(object: JsonObject, key: string): unknown {
  return Object.hasOwn(object, key) ? (object[key] ?? undefined) : undefined
}

export function optional<T>(
  object: JsonObject,
  key: string,
  decode: (value: unknown, what: string) => T,
): T | undefined {
  const value = member(object, key)
  return value === undefined ? undefined : decode(value, `"${key}"`)
}

export function stringsOf(value: unknown, what: string): readonly string[] {
  return arrayOf(value, what).map((item) => stringOf(item, `an item of ${what}`))
}

/** Own keys with string values, in a record without a prototype. */
export function stringMapOf(value: unknown, what: string): Readonly<Record<string, string>> {
  const result: Record<string, string> = Object.create(null) as Record<string, string>
  for (const [key, item] of Object.entries(objectOf(value, what))) {
    result[key] = stringOf(item, `"${key}" of ${what}`)
  }
  return result
}

function wrongType(what: string, expected: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', `${what} must be ${expected}`)
}

function checkDepth(bytes: Uint8Array, what: string): void {
  let depth = 0
  let inString = false
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i] ?? 0
    if (inString) {
      if (byte === backslash) i++
      else if (byte === quote) inString = false
    } else if (byte === quote) inString = true
    else if (openers.has(byte)) {
      depth++
      if (depth > maxDepth) {
        throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} is nested deeper than ${maxDepth} levels`)
      }
    } else if (closers.has(byte)) depth--
  }
}

function reason(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}
