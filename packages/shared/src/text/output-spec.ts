import { BuilderError } from '../errors/builder-error.js'
import { localName } from '../oci/local-name.js'
import { parseReference } from '../oci/reference.js'
import { isOutputFields, parseOutputFields } from './output-fields.js'

/** Where a build also puts its image (`-o`). Names are in local form and become names of the image too. */
export type OutputSpec =
  | {
      readonly kind: 'docker-archive' | 'oci-archive' | 'oci-dir'
      /** As written, relative or absolute; `-` is standard output. `oci-dir` makes a directory of it. */
      readonly path: string
      readonly name: string | undefined
    }
  /** The files of the image, without what makes them an image. */
  | { readonly kind: 'local' | 'tar'; readonly path: string }
  /** []: the names that the build gives the image. */
  | { readonly kind: 'docker-daemon'; readonly names: readonly string[] }
  | { readonly kind: 'isulad'; readonly name: string }
  /** []: where the names of the image say. */
  | { readonly kind: 'registry'; readonly references: readonly string[]; readonly push: PushSpec }
  /** Only names. */
  | { readonly kind: 'image'; readonly names: readonly string[] }

export interface PushSpec {
  /** undefined: as the image was built. */
  readonly format: 'docker' | 'oci' | undefined
  readonly compression: 'gzip' | 'zstd' | undefined
  readonly level: number | undefined
}

const maxLength = 512

type Transport = (destination: string, whole: string) => OutputSpec

/** What stands before the first colon. */
const transports: ReadonlyMap<string, Transport> = new Map<string, Transport>([
  ['docker-archive', archive('docker-archive')],
  ['oci-archive', archive('oci-archive')],
  ['oci-dir', archive('oci-dir')],
  ['docker', registry('docker')],
  ['oci', registry('oci')],
  ['docker-daemon', dockerDaemon],
  ['isulad', isulad],
])

/**
 * Parses the original's `TRANSPORT:DESTINATION` (see `transports`; a path cannot hold a colon), BuildKit's
 * `type=TYPE[,KEY=VALUE]…`, `-` for a tar of the files on standard output, and anything else without a colon as a
 * directory for them. Fails with ISB_ARGUMENT_INVALID, ISB_REFERENCE_INVALID, ISB_UNSUPPORTED.
 */
export function parseOutputSpec(text: string): OutputSpec {
  if (text.length > maxLength) throw invalid(`output should not longer than ${maxLength}`)
  if (isOutputFields(text)) return parseOutputFields(text)
  const colon = text.indexOf(':')
  const transport = colon < 0 ? text : text.slice(0, colon)
  if (transport === '') throw invalid('transport should not be empty')
  const parse = transports.get(transport)
  if (parse === undefined) {
    if (colon < 0) return filesOutput(text)
    throw invalid(
      `transport ${JSON.stringify(transport)} not support`,
      `Use ${[...transports.keys()].map((name) => `${name}:`).join(', ')} or type=….`,
    )
  }
  const destination = colon < 0 ? '' : text.slice(colon + 1)
  if (/^(\/\/)?:*$/.test(destination)) throw invalid('destination should not be empty')
  return parse(destination, text)
}

function filesOutput(text: string): OutputSpec {
  if (text.includes('\0')) throw invalid(`output ${JSON.stringify(text)} names no path`)
  return text === '-' ? { kind: 'tar', path: '-' } : { kind: 'local', path: text }
}

function archive(kind: 'docker-archive' | 'oci-archive' | 'oci-dir'): Transport {
  return (destination, whole) => {
    const colon = destination.indexOf(':')
    const path = colon < 0 ? destination : destination.slice(0, colon)
    if (path === '' || path.includes('\0')) throw invalid(`output ${JSON.stringify(whole)} names no path`)
    if (kind === 'oci-dir' && path === '-') throw invalid('a directory cannot go to standard output')
    return { kind, path, name: colon < 0 ? undefined : localName(destination.slice(colon + 1)) }
  }
}

function registry(format: 'docker' | 'oci'): Transport {
  return (destination, whole) => {
    if (!destination.startsWith('//')) {
      throw invalid(
        `the destination of output ${JSON.stringify(whole)} does not begin with //`,
        `Use ${format}://registry/name:tag.`,
      )
    }
    const reference = destination.slice(2)
    localName(reference)
    const push = { format, compression: undefined, level: undefined }
    return { kind: 'registry', references: [reference], push }
  }
}

function dockerDaemon(destination: string, whole: string): OutputSpec {
  const name = localName(destination)
  if (parseReference(destination).tag === undefined) {
    throw invalid(`output ${JSON.stringify(whole)} has no tag`, 'Use docker-daemon:image:tag.')
  }
  return { kind: 'docker-daemon', names: [name] }
}

function isulad(destination: string, whole: string): OutputSpec {
  const [image = '', tag = '', ...rest] = destination.split(':')
  if (image === '' || tag === '' || rest.length > 0) throw invalid(`invalid isulad output format: ${whole}`)
  return { kind: 'isulad', name: localName(destination) }
}

function invalid(message: string, hint?: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, hint === undefined ? {} : { hint })
}
