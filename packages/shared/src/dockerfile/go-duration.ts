const units: Readonly<Record<string, bigint>> = {
  ns: 1n,
  us: 1_000n,
  µs: 1_000n,
  μs: 1_000n,
  ms: 1_000_000n,
  s: 1_000_000_000n,
  m: 60_000_000_000n,
  h: 3_600_000_000_000n,
}
const maxNanoseconds = 2n ** 63n - 1n
const maxLength = 64

/**
 * Go's `time.ParseDuration`: `1h30m`, `1.5s`, `-10ms`, `0`; a number needs a unit. Nanoseconds, exact below
 * 104 days; undefined when the text is no duration or does not fit in 64 bits.
 */
export function parseGoDuration(text: string): number | undefined {
  const match = /^([+-]?)(0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)$/.exec(text)
  if (match === null || text.length > maxLength) return undefined
  let total = 0n
  for (const [, whole = '', fraction = '', unit = ''] of text.matchAll(/(\d*)\.?(\d*)([a-zµμ]+)/g)) {
    const scale = units[unit] ?? 0n
    total += BigInt(whole || '0') * scale
    total += (BigInt(fraction || '0') * scale) / 10n ** BigInt(fraction.length)
  }
  if (total > maxNanoseconds) return undefined
  return match[1] === '-' ? -Number(total) : Number(total)
}
