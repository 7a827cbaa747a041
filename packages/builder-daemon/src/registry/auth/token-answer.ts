/** A token and how long it can be used, milliseconds from its receipt. */
export interface Token {
  readonly value: string
  readonly lifetime: number
}

const defaultLifetime = 60
const longestLifetime = 3600
const longestAge = 24 * 3600

/**
 * The answer of a token server (`token` or `access_token`, `expires_in` seconds, `issued_at`). Undefined: it is none. The
 * time since the issue is taken from the server's own clock, so a difference to ours does not matter; a tenth of the
 * lifetime, at most ten seconds, is left for the request under way. A time of issue longer ago than the token lives, or a
 * day, is none (some servers send year 1).
 */
export function readToken(body: string, dateHeader: string | undefined): Token | undefined {
  let document: unknown
  try {
    document = JSON.parse(body)
  } catch {
    return undefined
  }
  if (typeof document !== 'object' || document === null) return undefined
  const { token, access_token, expires_in, issued_at } = document as Readonly<Record<string, unknown>>
  const value = [token, access_token].find((text) => typeof text === 'string' && text !== '')
  // It becomes part of a header.
  if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value)) return undefined
  const stated = typeof expires_in === 'number' && expires_in >= 1 ? expires_in : defaultLifetime
  const age =
    (Date.parse(dateHeader ?? '') - Date.parse(typeof issued_at === 'string' ? issued_at : '')) / 1000
  const credible = age >= 0 && age <= Math.min(stated, longestAge)
  const left = Math.min(stated - (credible ? age : 0), longestLifetime)
  return { value, lifetime: Math.max(0, left - Math.min(10, left / 10)) * 1000 }
}
