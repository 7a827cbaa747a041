/** One way to authenticate that WWW-Authenticate offers (RFC 9110, 11.6.1). */
export interface Challenge {
  /** Lower case. */
  readonly scheme: string
  /** Lower-case names; of repeated ones the first. */
  readonly parameters: Readonly<Record<string, string>>
}

const longest = 16 * 1024
const token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
const parameter = new RegExp(`(${token})[ \\t]*=[ \\t]*(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s",]*))`, 'y')
const scheme = new RegExp(`(${token})(?=[ \\t,]|$)`, 'y')
const blank = /[ \t,]*/y
const token68 = /[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))/y

/**
 * The challenges of a header, or of several joined by `, `. Lenient where registries are: unquoted values with any
 * characters, commas in doubt. What cannot be read is skipped to the next comma.
 */
export function parseChallenges(header: string): readonly Challenge[] {
  const text = header.slice(0, longest)
  const challenges: { scheme: string; parameters: Record<string, string> }[] = []
  let at = 0
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at
    const match = pattern.exec(text)
    if (match !== null) at = pattern.lastIndex
    return match
  }
  for (;;) {
    take(blank)
    if (at >= text.length) return challenges
    const pair = take(parameter)
    const current = challenges.at(-1)
    if (pair !== null) {
      const [, name = '', quoted, bare = ''] = pair
      const key = name.toLowerCase()
      if (current !== undefined && !Object.hasOwn(current.parameters, key))
        current.parameters[key] = quoted?.replace(/\\(.)/gs, '$1') ?? bare
      continue
    }
    const name = take(scheme)?.[1]
    if (name !== undefined) {
      challenges.push({ scheme: name.toLowerCase(), parameters: Object.create(null) })
      take(/[ \t]*/y)
      // A token68 (`Negotiate YII=`) is not a scheme of its own.
      take(token68)
      continue
    }
    const comma = text.indexOf(',', at)
    if (comma < 0) return challenges
    at = comma + 1
  }
}
