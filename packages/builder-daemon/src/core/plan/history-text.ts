import type { Healthcheck } from '@isula-build/shared/oci/image-config.js'

/** `["a" "b"]`: how Go prints a quoted list (`%q`); readers of `created_by` expect it. */
export function quotedList(items: readonly string[]): string {
  return `[${items.map(quote).join(' ')}]`
}

/** `[a b]` (`%v`). */
export function plainList(items: readonly string[]): string {
  return `[${items.join(' ')}]`
}

const escapes: ReadonlyMap<string, string> = new Map([
  ['\x07', '\\a'],
  ['\b', '\\b'],
  ['\f', '\\f'],
  ['\n', '\\n'],
  ['\r', '\\r'],
  ['\t', '\\t'],
  ['\v', '\\v'],
  ['\\', '\\\\'],
  ['"', '\\"'],
])

function quote(text: string): string {
  let result = '"'
  for (const character of text) result += escapes.get(character) ?? printable(character)
  return `${result}"`
}

function printable(character: string): string {
  if (character === ' ' || /^[\p{L}\p{M}\p{N}\p{P}\p{S}]$/u.test(character)) return character
  const code = character.codePointAt(0) ?? 0
  if (code < 0x80) return `\\x${code.toString(16).padStart(2, '0')}`
  if (code <= 0xffff) return `\\u${code.toString(16).padStart(4, '0')}`
  return `\\U${code.toString(16).padStart(8, '0')}`
}

export function healthcheckText(check: Healthcheck): string {
  const { Test = [], Interval = 0, Timeout = 0, StartPeriod = 0, StartInterval = 0, Retries = 0 } = check
  return (
    `{Test:${plainList(Test)} Interval:${durationText(Interval)} Timeout:${durationText(Timeout)} ` +
    `StartPeriod:${durationText(StartPeriod)} StartInterval:${durationText(StartInterval)} Retries:${Retries}}`
  )
}

/** Nanoseconds as Go writes a duration: `1h2m3.5s`, `100ms`, `0s`. */
export function durationText(nanoseconds: number): string {
  if (nanoseconds === 0) return '0s'
  const sign = nanoseconds < 0 ? '-' : ''
  const n = Math.abs(nanoseconds)
  if (n < 1e3) return `${sign}${n}ns`
  if (n < 1e6) return `${sign}${n / 1e3}µs`
  if (n < 1e9) return `${sign}${n / 1e6}ms`
  const total = Math.floor(n / 1e9)
  const fraction = String(n % 1e9)
    .padStart(9, '0')
    .replace(/0+$/, '')
  const seconds = `${total % 60}${fraction === '' ? '' : `.${fraction}`}s`
  const minutes = Math.floor(total / 60) % 60
  const hours = Math.floor(total / 3600)
  if (hours > 0) return `${sign}${hours}h${minutes}m${seconds}`
  return minutes > 0 ? `${sign}${minutes}m${seconds}` : sign + seconds
}

/** `|2 A=1 B=2 /bin/sh -c make`: the ARGs a RUN could see stand before its command. */
export function runText(args: readonly string[], buildArgs: readonly string[]): string {
  const count = buildArgs.length === 0 ? [] : [`|${buildArgs.length}`]
  return `RUN ${[...count, ...buildArgs, ...args].join(' ')}`
}
