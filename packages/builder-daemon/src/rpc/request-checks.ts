import { BuilderError, type ErrorDetails } from '@isula-build/shared/errors/builder-error.js'
import { type Timestamp, timestampToMillis } from '@isula-build/shared/rpc/well-known.js'

// What both services check of a request before the core sees it. All fail with ISB_ARGUMENT_INVALID.

/** IDs become names of directories and cgroups. */
export function checkBuildId(id: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(id)) return id
  throw invalid(`build ID ${JSON.stringify(id.slice(0, 100))} is invalid`, {
    hint: 'Use up to 64 letters, digits, dots, dashes and underscores.',
  })
}

export function checkCapabilities(names: readonly string[]): readonly string[] {
  for (const name of names) {
    if (!/^CAP_[A-Z][A-Z_]*$/.test(name))
      throw invalid(`cap ${name} is invalid`, { hint: 'Use names like CAP_NET_RAW.' })
  }
  return names
}

/** PATH_MAX (limits.h). */
const maxPath = 4096

/** `what` names the path in the message, e.g. `context`. */
export function checkPath(path: string, what: string): string {
  if (path.length > maxPath) throw invalid(`path of the ${what} is longer than ${maxPath} bytes`)
  if (path.startsWith('/') && !path.includes('\0')) return path
  throw invalid(`path of the ${what} is ${path === '' ? 'missing' : `not absolute: ${JSON.stringify(path)}`}`)
}

/** One of `choices`; '' is the first. */
export function checkChoice<const T extends string>(
  value: string,
  what: string,
  choices: readonly [T, ...T[]],
): T {
  if (value === '') return choices[0]
  const found = choices.find((choice) => choice === value)
  if (found !== undefined) return found
  throw invalid(`${what} ${JSON.stringify(value)} is not supported`, { hint: `Use ${choices.join(' or ')}.` })
}

/** Seconds since the epoch. */
export function checkTime(time: Timestamp | undefined): number | undefined {
  if (time === undefined) return undefined
  const millis = timestampToMillis(time)
  if (millis === undefined) throw invalid('the fixed build time is out of range')
  return Math.floor(millis / 1000)
}

/** '' is undefined. */
export function orUndefined(text: string): string | undefined {
  return text === '' ? undefined : text
}

export function invalid(message: string, details: ErrorDetails = {}): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, details)
}
