import type { FlagReader } from './command.js'

/** `--format`; as with the original, experimental mode makes `oci` the default. */
export function imageFormat(
  flags: FlagReader,
  environment: Readonly<Record<string, string | undefined>>,
): string {
  if (flags.has('format')) return flags.string('format')
  return environment['ISULABUILD_CLI_EXPERIMENTAL'] === 'enabled' ? 'oci' : 'docker'
}
