import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import {
  decodeJson,
  type JsonObject,
  member,
  objectOf,
  optional,
  stringOf,
} from '@isula-build/shared/oci/json-document.js'
import { isIndexMediaType, isManifestMediaType, mediaTypes } from '@isula-build/shared/oci/media-types.js'

export const manifestLimit = 4 << 20

const schema1Types = [
  'application/vnd.docker.distribution.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
]

/** Schema 1 is asked for too: so that what has nothing else is refused by its name, not as something missing. */
export const acceptedManifests = [
  mediaTypes.ociIndex,
  mediaTypes.ociManifest,
  mediaTypes.dockerIndex,
  mediaTypes.dockerManifest,
  ...schema1Types,
].join(', ')

/** What servers say that know nothing of manifests. */
const unspecific = [
  ...['', 'application/json', 'text/json', 'text/plain'],
  ...['application/octet-stream', 'binary/octet-stream'],
]

/**
 * The media type of what a registry sent as a manifest: of the header and of the document, which must not contradict
 * each other (CVE-2021-41190). Fails with ISB_MANIFEST_INVALID for anything else, ISB_UNSUPPORTED for schema 1.
 */
export function manifestTypeOf(bytes: Uint8Array, contentType: string | undefined, what: string): string {
  const header = (contentType ?? '').split(';')[0]?.trim().toLowerCase() ?? ''
  if (bytes.length === 0) throw invalid(`${what}: the registry sent an empty document`)
  if (header === 'text/html' || header === 'application/xhtml+xml') {
    throw invalid(`${what}: the registry sent a web page instead of a manifest`, {
      hint: 'A proxy or a login page may answer in place of the registry.',
    })
  }
  try {
    const json = objectOf(decodeJson(bytes, what), what)
    const stated = optional(json, 'mediaType', stringOf)
    if (schema1Types.includes(header) || isSchema1(json, stated)) throw schema1(what)
    const isIndex = Object.hasOwn(json, 'manifests')
    if (isIndex === ['config', 'layers'].some((key) => Object.hasOwn(json, key))) {
      const both = isIndex ? 'is ambiguous: it is both' : 'is neither'
      throw invalid(`${what} ${both} a manifest ${isIndex ? 'and' : 'nor'} an index`)
    }
    // Only OCI documents may leave their type out.
    const guessed = isIndex ? mediaTypes.ociIndex : mediaTypes.ociManifest
    const type = unspecific.includes(header) ? (stated ?? guessed) : header
    if (stated !== undefined && stated !== type) {
      throw invalid(`${what} says it is ${quote(stated)}, the registry says ${quote(type)}`)
    }
    if (isIndex ? !isIndexMediaType(type) : !isManifestMediaType(type)) {
      throw invalid(`${what} does not hold what its type ${quote(type)} says`)
    }
    return type
  } catch (error) {
    if (!isBuilderError(error, 'ISB_ARCHIVE_INVALID')) throw error
    throw invalid(error.message, { cause: error })
  }
}

function isSchema1(json: JsonObject, stated: string | undefined): boolean {
  return member(json, 'schemaVersion') === 1 || schema1Types.includes(stated ?? '')
}

function schema1(what: string): BuilderError {
  return new BuilderError(
    'ISB_UNSUPPORTED',
    `${what} is a Docker schema 1 manifest, which is not supported`,
    {
      hint: 'Pull and push it again with Docker 1.10 to 25, or build it again.',
    },
  )
}

function invalid(
  message: string,
  details: { readonly hint?: string; readonly cause?: unknown } = {},
): BuilderError {
  return new BuilderError('ISB_MANIFEST_INVALID', message, details)
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 100))
}
