/** Milliseconds that a Retry-After header asks for (RFC 9110, 10.2.3); undefined: nothing usable, or a time that is over. */
export function retryAfter(header: string | undefined, now: number): number | undefined {
  const text = header?.trim() ?? ''
  if (/^[0-9]+$/.test(text)) return Number(text) * 1000 || undefined
  // Date.parse alone takes much for a date that is none.
  if (!/^[A-Za-z]{3,9},? [0-9A-Za-z -]+[0-9]{2}:[0-9]{2}:[0-9]{2}/.test(text)) return undefined
  if (text.length > 64) return undefined
  // The oldest of the three formats names no zone, and means GMT.
  const time = Date.parse(/[A-Za-z]{3}$|[+-][0-9]{4}$/.test(text) ? text : `${text} GMT`)
  return Number.isNaN(time) || time <= now ? undefined : time - now
}
