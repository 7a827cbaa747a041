const suffixes = ['B', 'KB', 'MB', 'GB', 'TB'] as const

/** `2.13 MB`: three significant digits as C's `%.3g` prints them, and a unit of powers of `base`. */
export function formatSize(bytes: number, base: 1000 | 1024): string {
  let rest = bytes
  let unit = 0
  while (rest >= base && unit < suffixes.length - 1) {
    rest /= base
    unit++
  }
  return `${threeDigits(rest)} ${suffixes[unit]}`
}

const factors: Readonly<Record<string, number>> = {
  ...{ '': 1, k: 1e3, m: 1e6, g: 1e9, t: 1e12 },
  ...{ ki: 2 ** 10, mi: 2 ** 20, gi: 2 ** 30, ti: 2 ** 40 },
}

/** Bytes of `500`, `1.5GB`, `10g` (powers of 1000) or `512MiB` (of 1024), of any case; undefined for anything else. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d{1,15}(?:\.\d{1,15})?) ?([kmgt]?i?)b?$/i.exec(text)
  const factor = factors[match?.[2]?.toLowerCase() ?? ''] ?? Number.NaN
  const bytes = Math.round(Number(match?.[1]) * factor)
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

/** `%.3g` of a number that is 0 or at least 1: half rounds to even, as the digits are exact. */
function threeDigits(value: number): string {
  if (value === 0) return '0'
  // Where no half is met, nearest is nearest; halves within three digits are whole numbers of eighths.
  const nearest = Number.isInteger(value * 8) ? 'e' : value.toPrecision(3)
  if (!nearest.includes('e')) return nearest.includes('.') ? trimZeros(nearest) : nearest
  const [mantissa = '', power = '0'] = value.toExponential(60).split('e')
  const digits = mantissa.replace('.', '')
  const half = `5${'0'.repeat(digits.length - 4)}`
  const tail = digits.slice(3)
  let head = Number(digits.slice(0, 3))
  let exponent = Number(power)
  if (tail > half || (tail === half && head % 2 === 1)) head++
  if (head === 1000) {
    head = 100
    exponent++
  }
  const shown = String(head)
  if (exponent >= 3) {
    return `${trimZeros(`${shown[0]}.${shown.slice(1)}`)}e+${String(exponent).padStart(2, '0')}`
  }
  return trimZeros(`${shown.slice(0, exponent + 1)}.${shown.slice(exponent + 1)}`)
}

function trimZeros(text: string): string {
  return text.replace(/\.?0*$/, '')
}
