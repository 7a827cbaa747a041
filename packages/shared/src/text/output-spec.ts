import { BuilderError } from '../errors/builder-error.js'
import { localName } from '../oci/local-name.js'

/** Where a build also writes its image (`-o`). */
export interface OutputSpec {
  readonly kind: 'docker-archive' | 'oci-archive'
  /** As written, relative or absolute; `-` is standard output. */
  readonly path: string
  /** In local form; becomes a name of the image too. */
  readonly name: string | undefined
}

const maxLength = 512

const archiveTransports = new Set<string>(['docker-archive', 'oci-archive'])
/** What each of the others will do, for the message. */
const comingTransports: ReadonlyMap<string, string> = new Map([
  ['docker', 'pushing to a registry'],
  ['oci', 'pushing to a registry in OCI format'],
  ['docker-daemon', 'handing the image to dockerd'],
  ['isulad', 'handing the image to iSulad'],
])

/**
 * Parses `docker-archive:PATH[:image[:tag]]` and `oci-archive:PATH[:image[:tag]]`; a path cannot hold a
 * colon. Fails with ISB_ARGUMENT_INVALID, ISB_REFERENCE_INVALID, and ISB_UNSUPPORTED for transports that
 * are known but not there yet.
 */
export function parseOutputSpec(text: string): OutputSpec {
  if (text.length > maxLength) throw invalid(`output should not longer than ${maxLength}`)
  const [transport = '', path = '', ...rest] = text.split(':')
  if (transport === '') throw invalid('transport should not be empty')
  const coming = comingTransports.get(transport)
  if (coming === undefined && !isArchive(transport)) {
    throw invalid(`transport ${JSON.stringify(transport)} not support`, {
      hint: 'Use docker-archive:PATH[:image[:tag]] or oci-archive:PATH[:image[:tag]].',
    })
  }
  if (path === '' && rest.every((part) => part === '')) throw invalid('destination should not be empty')
  if (!isArchive(transport)) {
    if (transport === 'isulad' && (rest.length !== 1 || path === '' || rest[0] === '')) {
      throw invalid(`invalid isulad output format: ${text}`)
    }
    throw new BuilderError(
      'ISB_UNSUPPORTED',
      `output transport ${JSON.stringify(transport)} (${coming}) is not supported yet`,
      { hint: `Write an archive with docker-archive:PATH and hand that on.` },
    )
  }
  if (path === '' || path.includes('\0')) throw invalid(`output ${JSON.stringify(text)} names no path`)
  return { kind: transport, path, name: rest.length === 0 ? undefined : localName(rest.join(':')) }
}

function isArchive(transport: string): transport is OutputSpec['kind'] {
  return archiveTransports.has(transport)
}

function invalid(message: string, details: { readonly hint?: string } = {}): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, details)
}
