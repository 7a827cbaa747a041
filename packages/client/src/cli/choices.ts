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
  return defaultFormat(environment)
}

function defaultFormat(environment: Environment): string {
  return environment['ISULABUILD_CLI_EXPERIMENTAL'] === 'enabled' ? 'oci' : ''
}

/**
 * `--explain` and `--format` of a build: with `--explain` alone, `--format json` is the form of the explanation and leaves
 * that of the image as it is. Fails with ISB_ARGUMENT_INVALID.
 */
export function explainedFormat(
  flags: FlagReader,
  environment: Environment,
): { readonly format: string; readonly explain: 'text' | 'json' | undefined } {
  const explain = flags.string('explain')
  if (explain !== '' && explain !== 'text' && explain !== 'json') {
    throw new BuilderError('ISB_ARGUMENT_INVALID', `cannot explain as ${JSON.stringify(explain)}`, {
      hint: 'Use --explain or --explain=json.',
    })
  }
  if (explain !== '' && flags.string('format') === 'json') {
    return { format: defaultFormat(environment) || 'docker', explain: 'json' }
  }
  return { format: imageFormat(flags, environment), explain: explain === '' ? undefined : explain }
}

/** Fails with ISB_ARGUMENT_INVALID. */
export function checkedFormat(format: string): string {
  if (format === 'docker' || format === 'oci') return format
  throw new BuilderError('ISB_ARGUMENT_INVALID', `image format ${JSON.stringify(format)} is not supported`, {
    hint: 'Use docker or oci.',
  })
}
