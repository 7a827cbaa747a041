import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { FlagReader } from './command.js'

type Environment = Readonly<Record<string, string | undefined>>

/** `--format`; as with the original, experimental mode makes `oci` the default. */
export function imageFormat(flags: FlagReader, environment: Environment): string {
  return optionalImageFormat(flags, environment) || 'docker'
}

/** The same; '' where neither the flag nor the environment says anything. */
export function optionalImageFormat(flags: FlagReader, environment: Environment): string {
  if (flags.has('format')) return checkedFormat(flags.string('format'))
  return environment['ISULABUILD_CLI_EXPERIMENTAL'] === 'enabled' ? 'oci' : ''
}

/** Fails with ISB_ARGUMENT_INVALID. */
export function checkedFormat(format: string): string {
  if (format === 'docker' || format === 'oci') return format
  throw new BuilderError('ISB_ARGUMENT_INVALID', `image format ${JSON.stringify(format)} is not supported`, {
    hint: 'Use docker or oci.',
  })
}
