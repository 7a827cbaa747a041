import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Encodable } from '@isula-build/shared/rpc/codec.js'
import type {
  PushOptionsMessage,
  TransferOptionsMessage,
} from '@isula-build/shared/rpc/credential-messages.js'
import type { Flag, FlagReader } from './command.js'
import { durationMilliseconds } from './durations.js'
import { bool, string } from './flags.js'

// Flags that several commands have because they speak to registries, and what they mean.

export const authfileFlag: Flag = string(
  'authfile',
  'File with logins in the format of Docker (env REGISTRY_AUTH_FILE)',
)
export const credsFlag: Flag = {
  ...string('creds', 'Login for the registry; asks for a missing password'),
  placeholder: 'user[:password]',
}
export const digestfileFlag: Flag = string('digestfile', 'Write the digest of the result to the file')
export const retryFlag: Flag = { ...string('retry', 'Attempts after a failed one'), placeholder: 'int' }
export const retryDelayFlag: Flag = {
  ...string('retry-delay', 'Wait before the first of them, doubled each time'),
  placeholder: 'duration',
}
export const tlsVerifyFlag: Flag = bool(
  'tls-verify',
  'Require https and a certificate that can be verified (unset: as registries.toml says)',
)

/** `--tls-verify`, `--retry`, `--retry-delay` (a duration, or seconds). */
export function transferOptions(flags: FlagReader): Required<Encodable<typeof TransferOptionsMessage>> {
  return {
    tlsVerify: flags.has('tls-verify') ? flags.bool('tls-verify') : undefined,
    retries: flags.has('retry') ? wholeNumber(flags.string('retry'), 'retry') : undefined,
    retryDelay: flags.has('retry-delay') ? delay(flags.string('retry-delay')) : undefined,
  }
}

function wholeNumber(text: string, flag: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text)
  throw invalid(`invalid argument ${JSON.stringify(text)} for "--${flag}" flag: a number expected`)
}

function delay(text: string): number {
  const milliseconds = /^\d{1,6}(\.\d+)?$/.test(text) ? Number(text) * 1000 : durationMilliseconds(text)
  if (milliseconds !== undefined && milliseconds <= 3_600_000) return Math.round(milliseconds)
  throw invalid(
    `invalid argument ${JSON.stringify(text)} for "--retry-delay" flag: a duration of at most an hour expected, such as 2s`,
  )
}

/** Values of a flag that takes lists and may be given again. */
export function listed(values: readonly string[]): readonly string[] {
  return values.flatMap((text) => text.split(',')).filter((value) => value !== '')
}

const highest: Readonly<Record<string, number>> = { gzip: 9, zstd: 19 }

/** `--compression gzip|zstd[:level]`. */
export function compressionOptions(
  text: string,
): Pick<Required<Encodable<typeof PushOptionsMessage>>, 'compression' | 'level'> {
  if (text === '') return { compression: '', level: undefined }
  const [compression = '', level, ...more] = text.split(':')
  const limit = Object.hasOwn(highest, compression) ? highest[compression] : undefined
  if (limit === undefined || more.length > 0) {
    throw invalid(
      `compression ${JSON.stringify(text)} is not supported`,
      'Use gzip, zstd, or one with a level: zstd:7.',
    )
  }
  if (level === undefined) return { compression, level: undefined }
  const number = Number(level)
  if (!/^\d{1,2}$/.test(level) || number < 1 || number > limit) {
    throw invalid(
      `compression level ${JSON.stringify(level)} is not supported`,
      `${compression} has levels 1 to ${limit}.`,
    )
  }
  return { compression, level: number }
}

export const pullPolicies = ['missing', 'newer', 'always', 'never'] as const

/** Of `--pull` and `--policy`. */
export function pullPolicy(text: string, flag: string): string {
  // As other builders spell them.
  if (text === 'true') return 'always'
  if (text === 'false') return 'missing'
  if (pullPolicies.some((policy) => policy === text)) return text
  throw invalid(
    `invalid argument ${JSON.stringify(text)} for "--${flag}" flag: ${pullPolicies.join(', ')} expected`,
  )
}

function invalid(message: string, hint?: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, hint === undefined ? {} : { hint })
}
