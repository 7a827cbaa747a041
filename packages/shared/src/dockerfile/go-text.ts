/**
 * The notions of white space and quoting that the Dockerfile language takes from Go's standard library.
 * They differ from ECMAScript's: U+0085 is a space here, U+FEFF is not.
 */

/** `unicode.IsSpace` for a UTF-16 code unit; all its members are in the basic plane. */
export function isSpace(code: number): boolean {
  if (code < 0x80) return code === 0x20 || (code >= 0x09 && code <= 0x0d)
  return (
    code === 0x85 ||
    code === 0xa0 ||
    code === 0x1680 ||
    (code >= 0x2000 && code <= 0x200a) ||
    code === 0x2028 ||
    code === 0x2029 ||
    code === 0x202f ||
    code === 0x205f ||
    code === 0x3000
  )
}

/** The separators between an instruction and its arguments: unlike `isSpace`, ASCII only and no line feed. */
export function isSeparator(code: number): boolean {
  return code === 0x20 || code === 0x09 || (code >= 0x0b && code <= 0x0d)
}

export function skipSpaces(text: string, from: number, to: number = text.length): number {
  let at = from
  while (at < to && isSpace(text.charCodeAt(at))) at++
  return at
}

/** The end of `text.slice(from, to)` without its trailing spaces. */
export function trimmedEnd(text: string, from: number, to: number = text.length): number {
  let at = to
  while (at > from && isSpace(text.charCodeAt(at - 1))) at--
  return at
}

export function trimSpace(text: string): string {
  const start = skipSpaces(text, 0)
  return text.slice(start, trimmedEnd(text, start))
}

/**
 * In double quotes, otherwise as written but for control characters; cut after 80 characters. For messages.
 */
export function quoted(text: string): string {
  const shown = text.length > 80 ? `${text.slice(0, 79)}…` : text
  return `"${shown.replace(/[\x00-\x1f\x7f-\x9f]/g, escapeControl)}"`
}

function escapeControl(character: string): string {
  return `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`
}

/** Upper case when all letters are ASCII; `uſer` is not USER. */
export function keywordOf(word: string): string {
  return /^[a-z]+$/i.test(word) ? word.toUpperCase() : word
}
